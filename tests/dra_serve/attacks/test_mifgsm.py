"""MI-FGSM: the update of the paper, which is not foolbox's (that takes the sign before it sums)."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from dra_serve.attacks import ATTACKS, pgd
from dra_serve.attacks.mifgsm import mifgsm
from dra_serve.attacks.norms import NORMS
from dra_serve.errors import BadRequest

SHAPE = (1, 2, 3)


def grey():
    return np.full((1, *SHAPE), 0.5, np.float32)


def gradients(steps):
    return [np.random.default_rng(k).standard_normal(SHAPE) for k in range(steps)]


def by_the_paper(grads, *, eps, mu, norm):
    """Equations (6) and (7), and (6) with the l2 step of (8)."""
    x, g, alpha = grey()[0].astype(np.float64), np.zeros(SHAPE), eps / len(grads)
    for grad in grads:
        g = mu * g + grad / np.abs(grad).sum()
        x = x + alpha * (np.sign(g) if norm == "linf" else g / np.sqrt((g**2).sum()))
    return x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_the_update_is_the_paper_s(scripted, norm, mu):
    grads = gradients(5)
    model = scripted([0.0] * 5, grads)
    mifgsm(model, grey(), [0], norm=norm, eps=0.1, steps=5, mu=mu)
    assert_allclose(model.last[0], by_the_paper(grads, eps=0.1, mu=mu, norm=norm), atol=1e-6)


def test_momentum_matters_here(scripted):
    """Or the test above would pass without it."""
    walks = [by_the_paper(gradients(5), eps=0.1, mu=mu, norm="linf") for mu in (0.0, 1.0)]
    assert np.abs(walks[0] - walks[1]).max() > 0.01


@pytest.mark.parametrize("scale", [1e-38, 1e30])
def test_the_size_of_the_gradients_does_not_matter(scripted, scale):
    grads = gradients(5)
    model = scripted([0.0] * 5, [grad * scale for grad in grads])
    mifgsm(model, grey(), [0], eps=0.1, steps=5)
    assert_allclose(model.last[0], by_the_paper(grads, eps=0.1, mu=1.0, norm="linf"), atol=1e-6)


def test_a_zero_gradient_stands_still(scripted):
    model = scripted([0.0] * 2, [np.zeros(SHAPE)] * 2)
    mifgsm(model, grey(), [0], eps=0.1, steps=2)
    assert_allclose(model.last, grey())


def test_without_momentum_it_is_pgd_from_the_image_itself(backend):
    x = backend.images(10)
    y = backend.labels(x)
    mine, other = (
        attack(backend.model, backend.array(x), backend.array(y), eps=0.01, steps=5, **options)
        for attack, options in ((mifgsm, {"mu": 0.0}), (pgd, {"alpha": 0.002, "random_start": False}))
    )
    assert_allclose(np.asarray(mine.x_adv), np.asarray(other.x_adv), atol=1e-6)
    assert np.asarray(mine.success).tolist() == np.asarray(other.success).tolist()


def test_costs_its_steps_and_two_forwards(linear):
    W = np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32) / 60
    model = linear(W, np.array([10, 0, 0], np.float32), SHAPE)
    result = mifgsm(model, grey(), [0])
    assert (model.forwards, model.gradients) == ([1, 1], [1] * 10)
    assert result.steps_done.tolist() == [10]


def test_defaults_are_the_paper_s():
    p = ATTACKS["mifgsm"].resolve(SHAPE, eps="16/255")
    assert (p.steps, p.mu, p.alpha) == (10, 1.0, pytest.approx(1.6 / 255))


@pytest.mark.parametrize("mu", [-0.1, 2.5, True, "1", float("nan"), 10**400])
def test_bad_momentum_is_refused(mu):
    with pytest.raises(BadRequest, match="mu: got"):
        ATTACKS["mifgsm"].resolve(SHAPE, mu=mu)
