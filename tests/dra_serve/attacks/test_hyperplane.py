"""The projection onto a hyperplane inside the box, against solvers that know nothing of the trick."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from dra_serve.attacks.hyperplane import to_hyperplane

NORMS = ("linf", "l2")


def reference_linf(x, w, c):
    """Return the least t with some d, |d| <= t, x + d in the box and w . d = c: a linear program."""
    n = len(x)
    cost = np.r_[np.zeros(n), 1]
    A = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
    bounds = [(-a, 1 - a) for a in x] + [(0, None)]
    found = linprog(cost, A_ub=A, b_ub=np.zeros(2 * n), A_eq=np.r_[w, 0][None], b_eq=[c], bounds=bounds)
    assert found.success
    return found.x[-1]


def reference_l2(x, w, c):
    found = minimize(
        lambda d: d @ d,
        np.zeros_like(x),
        jac=lambda d: 2 * d,
        bounds=[(-a, 1 - a) for a in x],
        constraints={"type": "eq", "fun": lambda d: w @ d - c, "jac": lambda d: w},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    return np.linalg.norm(found.x)


@st.composite
def problems(draw):
    """A point of the box, weights (some of them 0), and a gain the box allows."""
    n = draw(st.integers(1, 8))
    unit = st.one_of(st.just(0.0), st.just(1.0), st.floats(0.01, 0.99))
    x = np.array(draw(st.lists(unit, min_size=n, max_size=n)))
    weight = st.one_of(st.just(0.0), st.floats(-3, -0.05), st.floats(0.05, 3))
    w = np.array(draw(st.lists(weight, min_size=n, max_size=n)))
    sign = draw(st.sampled_from([-1, 1]))
    most = np.where(w * sign > 0, 1 - x, x) @ np.abs(w)
    return x, w, sign * draw(st.floats(0.05, 0.95)) * most


def solve(x, w, c, norm):
    return to_hyperplane(x[None], w[None], np.array([c]), norm=norm)[0]


@given(problems())
def test_linf_is_the_linear_programs_answer(problem):
    x, w, c = problem
    d = solve(x, w, c, "linf")
    assert w @ d == pytest.approx(c, rel=1e-6, abs=1e-9)
    assert np.abs(d).max() == pytest.approx(reference_linf(x, w, c), rel=1e-5, abs=1e-7)


@given(problems())
def test_l2_is_the_quadratic_programs_answer(problem):
    x, w, c = problem
    assume(c != 0)  # the solver knows no answer to "gain nothing along nothing"
    d = solve(x, w, c, "l2")
    assert w @ d == pytest.approx(c, rel=1e-6, abs=1e-9)
    assert np.linalg.norm(d) <= reference_l2(x, w, c) * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("norm", NORMS)
@given(problems())
def test_stays_in_the_box_and_off_pixels_without_weight(norm, problem):
    x, w, c = problem
    d = solve(x, w, c, norm)
    assert (x + d).min() >= -1e-12
    assert (x + d).max() <= 1 + 1e-12
    assert not d[w == 0].any()


@pytest.mark.parametrize("norm", NORMS)
@given(problems())
def test_out_of_reach_is_the_nearest_corner(norm, problem):
    x, w, _ = problem
    d = solve(x, w, 1000.0, norm)
    np.testing.assert_array_equal(d, np.where(w > 0, 1 - x, np.where(w < 0, -x, 0)))


@pytest.mark.parametrize("norm", NORMS)
def test_each_row_is_its_own_and_torch_agrees(norm):
    rng = np.random.default_rng(0)
    x = rng.random((6, 50), dtype=np.float32)
    w = rng.standard_normal((6, 50)).astype(np.float32) * np.float32(10) ** np.arange(-30, 30, 10)[:, None]
    c = (rng.uniform(-1, 1, 6) * np.abs(w).sum(axis=1) / 3).astype(np.float32)
    d = to_hyperplane(x, w, c, norm=norm)
    np.testing.assert_allclose(np.vecdot(w, d), c, rtol=1e-4)
    alone = np.concatenate(
        [to_hyperplane(x[i : i + 1], w[i : i + 1], c[i : i + 1], norm=norm) for i in range(6)]
    )
    np.testing.assert_allclose(alone, d, rtol=1e-5, atol=1e-7)
    theirs = to_hyperplane(*map(torch.from_numpy, (x, w, c)), norm=norm)
    np.testing.assert_allclose(theirs.numpy(), d, rtol=1e-4, atol=1e-6)
