"""Projections, directions and draws as geometry says, on inputs hypothesis picks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dra_serve.attacks.norms import NORMS, get_norm, parse_radius
from dra_serve.errors import BadRequest

norms = st.sampled_from(list(NORMS.values()))
radii = st.floats(0, 2)
DENORMAL = 1e-40  # what float32 cannot halve exactly is allowed this much
deltas = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 3), st.just(2), st.just(3), st.just(2)),
    elements=st.floats(-3, 3, width=32),
)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@given(norms, deltas, radii)
def test_projection_lands_in_the_ball(ball, delta, eps):
    assert (ball.size(ball.project(delta, eps)) <= eps * (1 + 1e-6) + DENORMAL).all()


@pytest.mark.parametrize("eps", [1e-19, 1e-20, 1e-21, 1e-25, 1e-35])
def test_l2_projection_lands_on_balls_whose_squares_float32_cannot_hold(eps):
    delta = np.random.default_rng(0).uniform(-1, 1, (8, 3, 8, 8)).astype(np.float32)
    projected = NORMS["l2"].project(delta, eps).astype(np.float64)
    np.testing.assert_allclose(np.sqrt((projected**2).sum(axis=(1, 2, 3))), eps, rtol=1e-6)
    np.testing.assert_allclose(NORMS["l2"].size(projected.astype(np.float32)), eps, rtol=1e-6)


@given(norms, deltas, radii)
def test_projection_is_idempotent(ball, delta, eps):
    once = ball.project(delta, eps)
    close(ball.project(once, eps), once)


@given(norms, deltas, radii)
def test_projection_is_the_identity_inside(ball, delta, eps):
    inside = ball.size(delta) <= eps
    np.testing.assert_array_equal(ball.project(delta, eps)[inside], delta[inside])


@given(norms, deltas, deltas, radii)
def test_no_point_of_the_ball_is_nearer(ball, delta, other, eps):
    n = min(len(delta), len(other))
    delta, inside = delta[:n], ball.project(other[:n], eps)
    projected = ball.project(delta, eps)
    distance = NORMS["l2"].size
    assert (distance(delta - projected) <= distance(delta - inside) + 1e-5).all()


@given(norms, deltas)
def test_ascent_reaches_the_dual_norm(ball, grad):
    direction = ball.ascent(grad)
    gain = (grad * direction).sum(axis=(1, 2, 3))
    close(gain, [np.linalg.norm(g.ravel().astype(np.float64), ord=ball.dual) for g in grad])
    assert (ball.size(direction) <= 1 + 1e-6).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e25, 1e38])
def test_l2_ascent_survives_tiny_and_huge_gradients(scale):
    grad = np.random.default_rng(0).uniform(0.5, 1, (2, 3, 4, 4)).astype(np.float32)
    close(NORMS["l2"].ascent(grad * np.float32(scale)), NORMS["l2"].ascent(grad))


@given(norms, st.integers(0, 2**32), radii)
def test_samples_lie_in_the_ball(ball, seed, eps):
    sample = ball.sample((3, 4, 4), np.random.default_rng(seed))
    assert sample.dtype == np.float32
    assert ball.size(eps * sample[None])[0] <= eps * (1 + 1e-6) + DENORMAL


@pytest.mark.parametrize("ball", NORMS.values(), ids=NORMS)
def test_samples_are_uniform(ball):
    """The share of a ball's volume within radius r is r^d; d = 3 here."""
    rng = np.random.default_rng(0)
    sizes = ball.size(np.stack([ball.sample((3, 1, 1), rng) for _ in range(4000)]))
    for r in (0.5, 0.8):
        assert abs((sizes < r).mean() - r**3) < 4 * math.sqrt(r**3 * (1 - r**3) / 4000)


@pytest.mark.parametrize(("name", "far"), [("linf", 1), ("l2", math.sqrt(3 * 4 * 4))])
def test_largest_is_the_distance_from_black_to_white(name, far):
    ball = get_norm(name)
    assert ball.largest((3, 4, 4)) == pytest.approx(far)
    close(ball.size(np.ones((1, 3, 4, 4), np.float32)), far)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("0.5/255", 0.5 / 255),
        ("0", 0),
        (" 0.5 ", 0.5),
        ("1e-3", 1e-3),
        (0.3, 0.3),
        (1, 1.0),
    ],
)
def test_radii_as_people_write_them(text, value):
    assert parse_radius(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "8/", "/255", "8/255/2", "8/0", "nan", "1e999", "-1/255", "eight", True, None, [8], float("nan")],
)
def test_what_is_no_radius_is_refused_by_name(text):
    with pytest.raises(BadRequest, match=r"^alpha: got ") as error:
        parse_radius(text, field="alpha")
    assert error.value.field == "alpha"


def test_an_unknown_norm_names_the_known_ones():
    with pytest.raises(BadRequest, match="norm: got l1; allowed: linf or l2"):
        get_norm("l1")


def test_linf_ascent_is_the_sign_on_either_library() -> None:
    torch = pytest.importorskip("torch")
    grad = np.array([-2, 0.0, -0.0, 3e38, -1e-40, 1e-40], np.float32).reshape(1, 1, 2, 3)
    wanted = np.array([-1, 0.0, 0.0, 1, -1, 1], np.float32).reshape(1, 1, 2, 3)
    for ascent in (NORMS["linf"].ascent, lambda g: NORMS["linf"].ascent(torch.from_numpy(g)).numpy()):
        np.testing.assert_array_equal(ascent(grad), wanted)
