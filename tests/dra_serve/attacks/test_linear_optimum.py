"""On a linear model the best attack is known: it moves the margin by eps times the dual norm."""

import numpy as np
import pytest

from dra_serve.attacks import ATTACKS
from dra_serve.attacks.norms import NORMS

SHAPE = (3, 4, 4)
RADII = {"linf": 8 / 255, "l2": 0.3}


NEAREST = ("fab-t", "fmn")  # they seek the nearest image that fools the model, and hand back x without one


@pytest.fixture(params=[name for name, attack in ATTACKS.items() if attack.needs_gradient])
def attack(request):
    return ATTACKS[request.param]


@pytest.fixture(params=NORMS)
def ball(request):
    return NORMS[request.param]


@pytest.fixture
def w():
    """The margin's slope: logits (0, w . x + b), so that the margin of class 0 is w . x + b."""
    return np.random.default_rng(0).standard_normal(int(np.prod(SHAPE))).astype(np.float32)


def binary(linear, w, b):
    return linear(np.stack([0 * w, w]), np.array([0, b], np.float32), SHAPE)


def images(n=5):
    return np.random.default_rng(1).uniform(0.4, 0.6, (n, *SHAPE)).astype(np.float32)  # far from 0 and 1


def margins(w, b, x):
    return x.reshape(len(x), -1) @ w + b


def long_steps(attack, eps):
    """A random l2 start must turn into the gradient's line: steps of eps halve the angle each time."""
    return {"alpha": eps, "steps": 40} if attack.name == "pgd" else {}


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_reaches_the_optimum(attack, ball, loss, w, linear):
    if attack.name in NEAREST:
        pytest.skip(f"{attack.name} has nothing to show where nobody can be fooled")
    if "loss" not in attack.options and loss != "ce":
        pytest.skip(f"{attack.name} has its loss in its name")
    x, eps = images(), RADII[ball.name]
    gain = eps * np.linalg.norm(w, ord=ball.dual)
    b = np.float32(-margins(w, 0, x).max() - 1.05 * gain)  # nobody can be fooled, so all of it is used
    model, options = binary(linear, w, b), long_steps(attack, eps)
    if "loss" in attack.options:
        options |= {"loss": loss}
    result = attack(model, x, np.zeros(5, int), norm=ball.name, eps=eps, **options)
    assert not result.success.any()
    np.testing.assert_allclose(margins(w, b, result.x_adv), margins(w, b, x) + gain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("share", "fooled"), [(0.99, False), (1.01, True)])
def test_fools_exactly_within_reach(attack, ball, share, fooled, w, linear):
    x = images(1)
    b = np.float32(-margins(w, 0, x)[0] - 0.5)
    eps = share * 0.5 / np.linalg.norm(w, ord=ball.dual)
    model, options = binary(linear, w, b), long_steps(attack, eps)
    result = attack(model, x, np.array([0]), norm=ball.name, eps=eps, **options)
    assert result.success.tolist() == [fooled]


def test_nothing_withstands_radius_one(attack, linear):
    """An attack that fails here has lost the gradient: every image is within reach."""
    rng = np.random.default_rng(2)
    W = rng.standard_normal((4, int(np.prod(SHAPE)))).astype(np.float32)
    model = linear(W, -W.sum(axis=1) / 2, SHAPE)
    x = rng.random((30, *SHAPE), dtype=np.float32)
    result = attack(model, x, model.logits(x).argmax(axis=1), eps=1)
    assert result.success.all()


def test_targeted_reaches_the_optimum(ball, w, linear):
    x, eps = images(), RADII[ball.name]
    gain = eps * np.linalg.norm(w, ord=ball.dual)
    b = np.float32(-margins(w, 0, x).max() - 1.05 * gain)
    model, options = binary(linear, w, b), long_steps(ATTACKS["pgd"], eps)
    target = np.ones(5, int)
    result = ATTACKS["pgd"](model, x, 1 - target, target=target, norm=ball.name, eps=eps, **options)
    np.testing.assert_allclose(margins(w, b, result.x_adv), margins(w, b, x) + gain, rtol=1e-5, atol=1e-5)
