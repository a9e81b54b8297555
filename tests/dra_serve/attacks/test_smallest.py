"""FAB-T and FMN on linear models, where the distance of the nearest boundary is known."""

import time

import numpy as np
import pytest
import torch

from dra_serve.attacks import ATTACKS, fab_smallest, fmn_smallest, margins
from dra_serve.attacks.norms import NORMS

SHAPE = (3, 4, 4)
SEARCHES = {"fab-t": fab_smallest, "fmn": fmn_smallest}


@pytest.fixture(params=SEARCHES)
def search(request):
    return SEARCHES[request.param]


@pytest.fixture(params=NORMS)
def norm(request):
    return request.param


def linear_model(linear, classes, seed=0):
    W = np.random.default_rng(seed).standard_normal((classes, int(np.prod(SHAPE)))).astype(np.float32)
    return linear(W, (-W.sum(axis=1) / 2).astype(np.float32), SHAPE)


def images(n=30):
    return np.random.default_rng(1).uniform(0.45, 0.55, (n, *SHAPE)).astype(np.float32)  # far from 0 and 1


def boundaries(model, x, y, norm):
    """Return how far each class's boundary with y is: (z_y - z_k) / ||w_y - w_k||_dual, (N, K); inf at y."""
    z, rows = model.logits(x), np.arange(len(x))
    slopes = np.linalg.norm(model.W[y][:, None] - model.W, ord=NORMS[norm].dual, axis=2)
    slopes[rows, y] = 1
    ratio = (z[rows, y][:, None] - z) / slopes
    ratio[rows, y] = np.inf
    return ratio


def distances(model, x, y, norm):
    """Return the distance of the nearest boundary, (N,)."""
    return boundaries(model, x, y, norm).min(axis=1)


@pytest.mark.parametrize(("name", "classes"), [("fab-t", 2), ("fab-t", 3), ("fab-t", 5), ("fmn", 2)])
def test_within_five_percent_of_the_nearest_boundary(linear, norm, name, classes):
    model, x = linear_model(linear, classes), images()
    y = model.logits(x).argmax(axis=1)
    found, exact = SEARCHES[name](model, x, y, norm=norm), distances(model, x, y, norm)
    assert found.complete
    assert (found.size >= exact * (1 - 1e-4) - 1e-6).all()
    assert (found.size <= exact * 1.05).all()
    np.testing.assert_allclose(NORMS[norm].size(found.x_adv - x), found.size, rtol=1e-6)
    assert (model.logits(found.x_adv).argmax(axis=1) != y).all()
    assert found.x_adv.min() >= 0
    assert found.x_adv.max() <= 1


@pytest.mark.parametrize("classes", [3, 5, 12])
def test_fmn_is_within_five_percent_of_a_boundary_and_mostly_of_the_nearest(linear, norm, classes):
    """It follows the runner-up's logit, whose boundary is not always the nearest one; FAB-T tries all."""
    model, x = linear_model(linear, classes), images()
    y = model.logits(x).argmax(axis=1)
    size, exact = margins(model, x, y, norm=norm), boundaries(model, x, y, norm)
    assert (np.abs(size[:, None] / exact - 1).min(axis=1) <= 0.05).all()
    assert (size <= 1.05 * exact.min(axis=1)).mean() >= 0.8
    assert (size >= exact.min(axis=1) * (1 - 1e-4) - 1e-6).all()


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_fools_exactly_within_reach(linear, name, norm, classes):
    model, x = linear_model(linear, classes), images(20)
    y = model.logits(x).argmax(axis=1)
    exact = np.sort(distances(model, x, y, norm))
    eps = float((exact[9] + exact[10]) / 2)
    result = ATTACKS[name](model, x, y, norm=norm, eps=eps)
    assert result.success.any()
    if name == "fab-t" or classes == 2:  # FMN may settle on another boundary than the nearest
        assert result.success[distances(model, x, y, norm) * 1.05 <= eps].all()
    assert result.success.sum() <= 10
    assert NORMS[norm].size(result.x_adv - x).max() <= eps
    np.testing.assert_array_equal(result.x_adv[~result.success], x[~result.success])
    assert (result.steps_done[result.success] < result.steps_done.max()).all()
    assert result.complete


def test_in_the_corner_of_the_box(linear, norm):
    """The nearest boundary lies where pixels at 0 cannot go: found all the same, if farther."""
    w = np.ones(int(np.prod(SHAPE)), np.float32)
    model = linear(np.stack([0 * w, -w]), np.array([0, 0.3 * len(w)], np.float32), SHAPE)
    x = np.full((1, *SHAPE), 0.5, np.float32)
    x[0, 0] = 0.0  # those 16 pixels would have to sink; the other 32 must give 2 / 3 of their 16
    y = np.array([0])
    assert model.logits(x).argmax() == 0
    short = (0.5 * 32 - 0.3 * 48) / 32  # of each free pixel
    exact = {"linf": short, "l2": short * np.sqrt(32)}[norm]
    for search in SEARCHES.values():
        assert search(model, x, y, norm=norm).size[0] == pytest.approx(exact, rel=0.05)


def test_margins_of_misclassified_and_of_unreachable_images(linear, norm):
    w = np.ones(int(np.prod(SHAPE)), np.float32)
    model = linear(np.stack([0 * w, w]), np.array([0, -100], np.float32), SHAPE)  # class 1 out of the box
    x = images(3)
    np.testing.assert_array_equal(margins(model, x, np.array([0, 1, 0]), norm=norm), [np.inf, 0, np.inf])
    found = fab_smallest(model, x, np.array([0, 1, 0]), norm=norm)
    np.testing.assert_array_equal(found.size, [np.inf, 0, np.inf])
    np.testing.assert_array_equal(found.x_adv, x)


def test_margins_on_torch_are_those_on_numpy(linear, norm):
    model, x = linear_model(linear, 5), images(6)
    y = model.logits(x).argmax(axis=1)
    theirs = linear(torch.from_numpy(model.W), torch.from_numpy(model.b), SHAPE)
    for search in SEARCHES.values():
        size = search(theirs, torch.from_numpy(x), torch.from_numpy(y), norm=norm).size
        assert isinstance(size, torch.Tensor)
        np.testing.assert_allclose(size.numpy(), search(model, x, y, norm=norm).size, rtol=1e-3)


def test_fmn_reaches_the_target_it_is_given(linear, norm):
    model, x = linear_model(linear, 5), images(8)
    y = model.logits(x).argmax(axis=1)
    target = (y + 2) % 5
    found = fmn_smallest(model, x, y, norm=norm, target=target)
    assert np.isfinite(found.size).all()
    np.testing.assert_array_equal(model.logits(found.x_adv).argmax(axis=1), target)
    assert (found.size >= margins(model, x, y, norm=norm) * 0.95).all()


def test_a_passed_deadline_finds_nothing(linear, search):
    model, x = linear_model(linear, 3), images(3)
    y = model.logits(x).argmax(axis=1)
    found = search(model, x, y, deadline=time.monotonic() - 1)
    assert not found.complete
    assert np.isinf(found.size).all()


def test_fab_spends_one_gradient_a_step_and_looks_only_where_it_matters(linear, norm):
    """Iterates beyond eps cannot count: on them a robust image costs its gradients and nothing else."""
    model, x = linear_model(linear, 2), images(10)
    y = model.logits(x).argmax(axis=1)
    eps = float(distances(model, x, y, norm).min()) / 4
    model.forwards.clear()
    result = ATTACKS["fab-t"](model, x, y, norm=norm, eps=eps, steps=50)
    assert not result.success.any()
    assert sum(model.gradients) == 50 * 10
    assert sum(model.forwards) == 10 + sum(model.forwards[1:])
    assert sum(model.forwards[1:]) <= 10 * 5
