"""Square: how near it comes to the optimum of a linear model, its windows, its noise, its calls."""

import numpy as np
import pytest
import torch

from dra_serve.attacks import ATTACKS
from dra_serve.attacks.norms import NORMS
from dra_serve.attacks.square_windows import WINDOWS, Draws, window_share

SHAPE = (3, 8, 8)
RADII = {"linf": 8 / 255, "l2": 0.3}
GAP = {"linf": 0.97, "l2": 0.5}  # of the optimum's gain, after 2000 queries
square = ATTACKS["square"]


@pytest.fixture(params=NORMS)
def norm(request):
    return request.param


def images(n=4, shape=SHAPE):
    return np.random.default_rng(1).uniform(0.4, 0.6, (n, *shape)).astype(np.float32)  # far from 0 and 1


def smooth_weights():
    """Weights that vary slowly over the image, like a network's gradients: what windows are made for."""
    down, across = np.mgrid[:8, :8] / 8
    waves = [np.sin(2 * np.pi * down), np.cos(2 * np.pi * across), np.sin(2 * np.pi * (down + across))]
    return np.stack(waves).reshape(-1).astype(np.float32)


def robust_model(linear, w, x, gain):
    b = np.float32(-(x.reshape(len(x), -1) @ w).max() - 1.05 * gain)  # nobody can be fooled
    return linear(np.stack([0 * w, w]), np.array([0, b], np.float32), SHAPE)


def test_comes_near_the_optimum(linear, norm):
    w, x, eps = smooth_weights(), images(), RADII[norm]
    gain = eps * np.linalg.norm(w, ord=NORMS[norm].dual)
    model = robust_model(linear, w, x, gain)
    result = square(model, x, np.zeros(4, int), norm=norm, eps=eps, queries=2000)
    gained = (result.x_adv - x).reshape(4, -1) @ w
    assert not result.success.any()
    assert (gained <= gain * (1 + 1e-5)).all()
    assert (gained >= GAP[norm] * gain).all()
    assert result.complete


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes(linear, norm, classes):
    W = np.random.default_rng(0).standard_normal((classes, int(np.prod(SHAPE)))).astype(np.float32) / 5
    model, x = linear(W, (-W.sum(axis=1) / 2).astype(np.float32), SHAPE), images(10)
    y = model.logits(x).argmax(axis=1)
    result = square(model, x, y, norm=norm, eps=1.0, queries=300)
    assert result.success.all()
    np.testing.assert_array_equal(model.logits(result.x_adv).argmax(axis=1) != y, result.success)


def test_needs_no_gradient(tiny_onnx_folder, norm):
    from dra_serve.model_folder import read_folder

    model = read_folder(tiny_onnx_folder(gradient=False)).classifier()
    assert not model.has_gradient
    x = images(6)
    y = model.logits(x).argmax(axis=1)
    result = square(model, x, y, norm=norm, eps={"linf": 0.1, "l2": 2.0}[norm], queries=200)
    assert result.success.any()
    np.testing.assert_array_equal(model.logits(result.x_adv).argmax(axis=1) != y, result.success)


def test_a_step_is_a_query_and_the_fallen_cost_none(linear):
    W = np.random.default_rng(0).standard_normal((5, int(np.prod(SHAPE)))).astype(np.float32) / 5
    model, x = linear(W, (-W.sum(axis=1) / 2).astype(np.float32), SHAPE), images(20)
    y = model.logits(x).argmax(axis=1)
    model.forwards.clear()
    result = square(model, x, y, eps=0.01, queries=100)
    assert 0 < result.success.sum() < 20
    assert sum(model.forwards) == 20 + result.steps_done.sum()  # 20 clean ones
    assert not model.gradients
    assert (result.steps_done[~result.success] == 100).all()


def test_the_target_is_reached_or_it_is_no_success(linear, norm):
    W = np.random.default_rng(0).standard_normal((5, int(np.prod(SHAPE)))).astype(np.float32) / 5
    model, x = linear(W, (-W.sum(axis=1) / 2).astype(np.float32), SHAPE), images(20)
    y = model.logits(x).argmax(axis=1)
    target = (y + 1) % 5
    result = square(model, x, y, norm=norm, eps=2 * RADII[norm], queries=200, target=target)
    assert result.success.any()
    np.testing.assert_array_equal(model.logits(result.x_adv).argmax(axis=1) == target, result.success)


def test_a_longer_search_begins_like_a_shorter_one(linear, norm):
    """The schedule is not rescaled: 60 queries are the first 60 of 300."""
    w, x = smooth_weights(), images()
    model = robust_model(linear, w, x, 10)
    reports = []
    short = square(model, x, np.zeros(4, int), norm=norm, queries=60)
    square(model, x, np.zeros(4, int), norm=norm, queries=300, on_step=reports.append)
    np.testing.assert_array_equal(reports[59].x_adv, short.x_adv)


def test_the_loss_never_falls_and_the_last_report_is_the_result(linear, norm):
    w, x = smooth_weights(), images()
    model, reports = robust_model(linear, w, x, 10), []
    result = square(model, x, np.zeros(4, int), norm=norm, queries=120, on_step=reports.append)
    losses = np.stack([report.loss for report in reports])
    assert (np.diff(losses, axis=0) >= 0).all()
    assert len(reports) == 120
    np.testing.assert_array_equal(reports[-1].x_adv, result.x_adv)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 5, 9), (3, 8, 8), (1, 1, 1), (2, 3, 3)])
def test_every_proposal_is_in_the_ball_and_changes_little(norm, shape):
    """Any size of image: the start and each window stay in the ball, at every stage of the schedule."""
    eps, x = RADII[norm], images(3, shape)
    x[0], x[1] = 0, 1
    windows = WINDOWS[norm](shape, eps)
    draws = Draws(0, [0, 1, 2], windows.width)
    best = windows.start(x, 0, [0, 1, 2])
    for tried in (0, 11, 51, 201, 501, 1001, 2001, 4001, 9000):
        new = windows.propose(x, best, tried, draws.next())
        assert np.isfinite(new).all()
        assert new.min() >= 0
        assert new.max() <= 1
        assert (NORMS[norm].size(new - x) <= eps * (1 + 1e-5)).all()
        assert new.dtype == np.float32
        best = new


def test_windows_cover_every_pixel_and_shrink_as_published():
    shape, x = (1, 32, 32), np.full((64, 1, 32, 32), 0.5, np.float32)
    windows, ids = WINDOWS["linf"](shape, 0.1), list(range(64))
    draws = Draws(0, ids, windows.width)
    touched = np.zeros((32, 32), bool)
    for _ in range(60):
        touched |= (windows.propose(x, x, 4500, draws.next()) != x).any(axis=(0, 1))
    assert touched.all()  # the last row and column too
    sides = {tried: round((window_share(tried) * 1024) ** 0.5) for tried in (0, 10, 50, 200, 500, 4999)}
    assert sides == {0: 29, 10: 29, 50: 20, 200: 14, 500: 10, 4999: 3}


def test_noise_is_of_the_seed_and_the_image(norm):
    x, shape = images(2, (3, 32, 32)), (3, 32, 32)
    windows = WINDOWS[norm](shape, RADII[norm])
    both, alone = windows.start(x, 5, [7, 9]), windows.start(x[1:], 5, [9])
    np.testing.assert_array_equal(both[1:], alone)
    many, one = Draws(5, [7, 9, 4], windows.width), Draws(5, [9], windows.width)
    for query in range(250):
        if query == 130:
            many.select(np.array([False, True, True]))
        row = 1 if query < 130 else 0
        np.testing.assert_array_equal(many.next()[row], one.next()[0])
    assert (Draws(6, [9], windows.width).next() != Draws(5, [9], windows.width).next()).any()


def test_torch_tries_what_numpy_tries(norm):
    x, shape = images(3, (3, 32, 32)), (3, 32, 32)
    windows = WINDOWS[norm](shape, RADII[norm])
    best = windows.start(x, 0, [0, 1, 2])
    t_best = windows.start(torch.from_numpy(x), 0, [0, 1, 2])
    np.testing.assert_allclose(t_best.numpy(), best, atol=1e-6)
    draws, t_draws = Draws(0, [0, 1, 2], windows.width), Draws(0, [0, 1, 2], windows.width)
    for tried in (0, 100, 3000):
        best = windows.propose(x, best, tried, draws.next())
        t_best = windows.propose(torch.from_numpy(x), t_best, tried, t_draws.next())
        np.testing.assert_allclose(t_best.numpy(), best, atol=1e-5)
