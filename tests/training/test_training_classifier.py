"""A torch network behind the protocol: gradients against autograd, and no trace left by an attack."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dra_serve.attacks import pgd
from dra_serve.errors import BadRequest
from training.fast_path import FastPath
from training.networks import HubClassifier
from training.torch_classifier import TorchClassifier, frozen

CLASSES = ("a", "b", "c", "d", "e")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return HubClassifier(
        network={"name": "preact_resnet", "arguments": {"width": 4, "blocks": [1, 1]}},
        normalisation={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]},
        classes=CLASSES,
        input_shape=(3, 8, 8),
    )


@pytest.fixture
def model(network):
    return TorchClassifier(network.eval(), CLASSES, (3, 8, 8))


@pytest.fixture
def images():
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 0, 3])


def rival(z, y):
    """Return the best logit of the other classes."""
    return z.masked_fill(nn.functional.one_hot(y, z.shape[1]).bool(), -torch.inf).amax(1)


def at(z, y):
    return z.gather(1, y[:, None])[:, 0]


def textbook(loss, z, y, target):
    """Return each loss (N,) as its paper writes it."""
    s = z.sort(1, descending=True).values
    return {
        "ce": lambda: cross_entropy(z, y, reduction="none"),
        "margin": lambda: rival(z, y) - at(z, y),
        "dlr": lambda: -(at(z, y) - rival(z, y)) / (s[:, 0] - s[:, 2] + 1e-12),
        "dlr_targeted": lambda: -(at(z, y) - at(z, target)) / (s[:, 0] - (s[:, 2] + s[:, 3]) / 2 + 1e-12),
    }[loss]()


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "dlr_targeted"])
def test_gradient_is_the_derivative_of_the_textbook_loss(model, network, images, loss):
    x, y, target = images
    logits, value, grad = model.loss_and_grad(x, y, loss, target)
    leaf = x.clone().requires_grad_(True)
    expected = textbook(loss, network(leaf), y, target)
    torch.testing.assert_close(logits, network(x).detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), leaf)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "dlr_targeted"])
def test_gradient_predicts_the_change_of_the_loss(model, images, loss):
    """Central difference along the gradient's own direction, in float64."""
    x, y, target = images
    _, _, grad = model.loss_and_grad(x, y, loss, target)
    model.network.double()
    size = grad.double().flatten(1).norm(dim=1)
    # where y ranks third, DLR is 1 whatever the logits: no slope, and no direction
    direction = grad.double() / size.clamp_min(1e-12).view(-1, 1, 1, 1)
    h = 1e-5
    with torch.no_grad():
        ahead, behind = (
            textbook(loss, model.network(x.double() + s * h * direction), y, target) for s in (1, -1)
        )
    slope = (ahead - behind) / (2 * h)
    torch.testing.assert_close(slope, size, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 0.5)])
def test_pgd_stays_in_ball_and_box_and_raises_the_loss(model, images, norm, eps):
    x, _, _ = images
    y, before = model.logits(x).argmax(1), x.clone()
    result = pgd(model, x, y, norm=norm, eps=eps, steps=10)
    delta = result.x_adv - x
    size = delta.abs().amax((1, 2, 3)) if norm == "linf" else delta.flatten(1).norm(dim=1)
    assert (size <= eps + 1e-6).all()
    assert result.x_adv.min() >= 0
    assert result.x_adv.max() <= 1
    assert torch.equal(x, before)
    assert (result.loss > model.loss_and_grad(x, y)[1]).all()


def test_pgd_reaches_the_optimum_of_a_linear_network():
    """Away from 0 and 1 the margin of w.x grows by exactly eps |w|_1."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).requires_grad_(False)
    model = TorchClassifier(linear, ("a", "b"), (3, 4, 4))
    x = torch.full((1, 3, 4, 4), 0.5)
    y = model.logits(x).argmax(1)
    w = linear[1].weight[1 - y] - linear[1].weight[y]
    margin = model.loss_and_grad(x, y, "margin")[1]
    result = pgd(model, x, y, eps=0.1, steps=20, loss="margin", stop_on_success=False)
    torch.testing.assert_close(result.loss, margin + 0.1 * w.abs().sum(), rtol=1e-4, atol=1e-5)


def test_attack_on_a_frozen_network_leaves_no_trace(network, images):
    x, y, _ = images
    network.train()
    network.network.norm.eval()  # modes and flags are mixed before, and must be so after
    network.network.stem.weight.requires_grad_(False)
    cross_entropy(network(x), y).backward()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    grads = {key: None if p.grad is None else p.grad.clone() for key, p in network.named_parameters()}
    flags = {key: p.requires_grad for key, p in network.named_parameters()}
    modes = {key: m.training for key, m in network.named_modules()}
    with frozen(network):
        assert not any(m.training for m in network.modules())
        assert not any(p.requires_grad for p in network.parameters())
        pgd(TorchClassifier(network, CLASSES, (3, 8, 8)), x, y, eps=0.1, steps=3)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    for key, p in network.named_parameters():
        assert p.grad is None if grads[key] is None else torch.equal(p.grad, grads[key])
    assert {key: p.requires_grad for key, p in network.named_parameters()} == flags
    assert {key: m.training for key, m in network.named_modules()} == modes


def test_frozen_puts_back_after_an_error(network):
    network.train()
    with pytest.raises(RuntimeError, match="stop"), frozen(network):
        raise RuntimeError("stop")
    assert all(m.training for m in network.modules())
    assert all(p.requires_grad for p in network.parameters())


def test_gradients_reach_the_input_alone(model, images):
    x, y, _ = images
    model.loss_and_grad(x, y)
    assert all(p.grad is None for p in model.network.parameters())
    assert not x.requires_grad


@pytest.mark.parametrize("stem", ["plain", "space_to_depth"])
def test_no_images_have_no_logits(stem):
    arguments = {"width": 4, "blocks": [1, 1], "stem": stem}
    network = HubClassifier(
        network={"name": "preact_resnet", "arguments": arguments},
        normalisation={"mean": [0.5] * 3, "std": [0.25] * 3},
        classes=CLASSES,
        input_shape=(3, 8, 8),
    )
    model, x, y = TorchClassifier(network.eval(), CLASSES, (3, 8, 8)), torch.zeros(0, 3, 8, 8), []
    assert model.logits(x).shape == (0, 5)
    logits, loss, grad = model.loss_and_grad(x, y)
    assert (logits.shape, loss.shape, grad.shape) == ((0, 5), (0,), (0, 3, 8, 8))
    assert pgd(model, x, y, eps=0.1, steps=2).x_adv.shape == (0, 3, 8, 8)
    with pytest.raises(BadRequest):
        model.logits(torch.zeros(0, 3, 9, 9))


def test_bad_input_is_refused_by_name(model, images):
    x, y, _ = images
    with pytest.raises(BadRequest) as error:
        model.logits(x + 1)
    assert error.value.field == "x"
    with pytest.raises(BadRequest) as error:
        model.loss_and_grad(x, y + 1)
    assert error.value.field == "y"
    with pytest.raises(BadRequest) as error:
        model.loss_and_grad(x, y, "dlr_targeted")
    assert error.value.field == "target"


def test_normalisation_is_inside_the_network_and_not_in_its_weights(network):
    x = torch.rand(2, 3, 8, 8)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    network.eval()
    inside = network.network((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(network(x), inside)
    assert not {"mean", "std"} & network.state_dict().keys()
    logits, h = network.features(x)
    torch.testing.assert_close(network.network.head(h), logits)
    assert h.shape == (2, network.feature_width)


@pytest.mark.parametrize("n", [7, 8])
def test_channels_last_lays_out_batches_of_8_and_more_and_the_answers_stay(network, n):
    given = []
    network.eval().register_forward_pre_hook(lambda _, args: given.append(args[0]))
    x, y = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(n) % 5
    plain = TorchClassifier(network, CLASSES, (3, 8, 8))
    placed = TorchClassifier(network, CLASSES, (3, 8, 8), path=FastPath(channels_last=True))
    expected, answers = plain.loss_and_grad(x, y), placed.loss_and_grad(x, y)
    placed.logits(x)
    assert [a.is_contiguous(memory_format=torch.channels_last) for a in given] == [False, n == 8, n == 8]
    for one, other in zip(answers, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert one.stride() == other.stride()
