"""What is minimised, against the formulas of the papers."""

from dataclasses import replace

import pytest
import torch

from dra_serve.attacks import random_start
from training.fast_path import FastPath
from training.networks import HubClassifier
from training.objectives.base import OBJECTIVES
from training.objectives.dra import alignment, build_projector, dra_term
from training.objectives.inner import inner_attack
from training.objectives.views import Views
from training.torch_classifier import TorchClassifier, frozen


@pytest.fixture
def network():
    torch.manual_seed(0)
    return HubClassifier(
        network={"name": "preact_resnet", "arguments": {"width": 4, "blocks": [1, 1]}},
        normalisation={"mean": [0.5] * 3, "std": [0.25] * 3},
        classes=("a", "b", "c"),
        input_shape=(3, 8, 8),
    ).eval()


@pytest.fixture
def views(network):
    rng = torch.Generator().manual_seed(0)
    x, x_adv = torch.rand(2, 6, 3, 8, 8, generator=rng)
    return Views(network, x, x_adv, FastPath())


Y = torch.tensor([0, 1, 2, 2, 1, 0])


def smoothed_ce(logits, y, smoothing):
    """Return mean -sum_k q_k ln p_k with q = (1 - s) e_y + s / K."""
    log_p = logits.double().softmax(1).log()
    q = torch.full_like(log_p, smoothing / logits.shape[1])
    q[torch.arange(len(y)), y] += 1 - smoothing
    return -(q * log_p).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_at_is_the_cross_entropy_on_x_adv(views, smoothing):
    value = OBJECTIVES["at"](views, Y, smoothing, 5.0)
    torch.testing.assert_close(value.double(), smoothed_ce(views.adv[0], Y, smoothing), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_trades_is_equation_5(views, smoothing):
    value = OBJECTIVES["trades"](views, Y, smoothing, 5.0)
    p, q = views.clean[0].double().softmax(1), views.adv[0].double().softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    expected = smoothed_ce(views.clean[0], Y, smoothing) + 5 * divergence
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_trades_sends_gradients_through_both_views(views):
    value = OBJECTIVES["trades"](views, Y, 0.0, 5.0) - OBJECTIVES["trades"](views, Y, 0.0, 0.0)
    for logits, _ in (views.clean, views.adv):
        (grad,) = torch.autograd.grad(value, logits, retain_graph=True)
        assert grad.abs().sum() > 0


def test_at_never_computes_the_clean_view(network):
    calls = []
    network.network.stem.register_forward_pre_hook(lambda *_: calls.append(1))
    views = Views(network, torch.rand(6, 3, 8, 8), torch.rand(6, 3, 8, 8), FastPath())
    OBJECTIVES["at"](views, Y, 0.1, 5.0)
    OBJECTIVES["at"](views, Y, 0.1, 5.0)
    assert len(calls) == 1


def test_alignment_is_one_minus_the_cosine():
    rng = torch.Generator().manual_seed(0)
    h, z = torch.randn(2, 500, 64, generator=rng)
    assert abs(alignment(h, h)) < 1e-6
    assert abs(alignment(h, -h) - 2) < 1e-6
    assert abs(alignment(h, z) - 1) < 0.03  # independent: mean cosine 0, deviation 1/sqrt(64 * 500)
    scale = torch.rand(500, 1, generator=rng) + 0.1
    torch.testing.assert_close(alignment(h, z), alignment(scale * h, 7 * z))
    by_hand = 1 - ((h * z).sum(1) / (h.norm(dim=1) * z.norm(dim=1))).mean()
    torch.testing.assert_close(alignment(h, z), by_hand)


def test_dra_term_takes_the_chosen_view(views):
    projector = build_projector(8, 6, 5, seed=0)
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    clean, adv = (alignment(projector(h), z) for _, h in (views.clean, views.adv))
    assert clean != adv
    torch.testing.assert_close(dra_term(views, z, projector, "clean"), clean)
    torch.testing.assert_close(dra_term(views, z, projector, "adv"), adv)
    torch.testing.assert_close(dra_term(views, z, projector, "both"), (clean + adv) / 2)


def test_projector_has_a_seed_of_its_own():
    state = torch.random.get_rng_state()
    first, again, other = (build_projector(8, 6, 5, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert first(torch.zeros(3, 8)).shape == (3, 5)


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_inner_attack_climbs_its_own_loss(network, recipe, objective):
    """One step is sign ascent from the keyed start on the loss the objective's paper maximises."""
    recipe = replace(recipe, objective=objective, steps=1)
    x, ids = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(6)
    with frozen(network):
        model = TorchClassifier(network, ("a", "b", "c"), (3, 8, 8))
        found = inner_attack(model, x, Y, ids, recipe=recipe, step=7)
    start = random_start(x, norm="linf", eps=recipe.eps, seed=7, indices=ids).requires_grad_(True)
    p, q = network(x).softmax(1).detach(), network(start).softmax(1)
    loss = -q[torch.arange(6), Y].log() if objective == "at" else (p * (p.log() - q.log())).sum(1)
    (grad,) = torch.autograd.grad(loss.sum(), start)
    moved = start.detach() + recipe.alpha * grad.sign()
    expected = torch.minimum(torch.maximum(moved, x - recipe.eps), x + recipe.eps).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
