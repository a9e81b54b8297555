"""Do both ONNX graphs compute what the torch network does?

The reference is the same network in float64, so that an error has one side. A ReLU whose input is
smaller than float32's rounding may fall either way, in torch as in ONNX Runtime; networks with kinks
are therefore judged by signs and by the median example, smooth ones by the worst.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import nn

from dra_serve.attacks import pgd
from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.classifier import LOSSES, Loss
from dra_serve.onnx_classifier import OnnxClassifier
from training.torch_classifier import TorchClassifier

BATCHES = (1, 5, 32)
TOLERANCE = 1e-5  # relative, of an example's logits, value or gradient
SIGNS = 1e-4  # share of the gradient's signs that may differ where the network has kinks
ATTACKED = 32  # images
FLAT = 1e-9  # a gradient below it is zero (dlr with the true class third) but for dlr's 1e-12
STRAYED = 1  # of them: PGD may take another way where a gradient is almost zero
KINKS = {"Relu", "LeakyRelu", "PRelu", "Clip", "Abs", "Max", "Min", "HardSwish", "HardSigmoid", "MaxPool"}


@dataclass(frozen=True)
class Finding:
    """One comparison: what, how far apart, how far is allowed."""

    what: str
    measured: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it is near enough; nan is not."""
        return self.measured <= self.allowed

    def __str__(self) -> str:
        return f"{self.what}: {self.measured:.2g} (allowed {self.allowed:.2g})"


def compare(network: nn.Module, model: OnnxClassifier, *, smooth: bool) -> list[Finding]:
    """Return every comparison of the two graphs behind `model` with `network`, which is not touched.

    On images drawn from a fixed seed: logits; value and gradient of the four losses; PGD-20 at 8/255
    from the same start. smooth: as `is_smooth` says of the forward graph.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    return [
        *_logits(network, model),
        *(finding for loss in LOSSES for finding in _loss(network, model, loss, smooth)),
        *_attack(network, model),
    ]


def is_smooth(forward: onnx.ModelProto) -> bool:
    """Return whether no operator of the graph has a kink."""
    return not KINKS.intersection(node.op_type for node in forward.graph.node)


def images(n: int, input_shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Return n images (N, C, H, W) in [0, 1]: coarse coloured blocks under noise, no two alike."""
    rng = np.random.default_rng((seed, n))
    channels, height, width = input_shape
    blocks = rng.random((n, channels, 4, 4)).repeat(-(-height // 4), axis=2).repeat(-(-width // 4), axis=3)
    noise = rng.normal(0, 0.1, (n, *input_shape))
    return np.clip(blocks[:, :, :height, :width] + noise, 0, 1).astype(np.float32)


def _batches(model: OnnxClassifier) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield images, labels and targets, a target never being the label."""
    classes = len(model.classes)
    for n in BATCHES:
        rng = np.random.default_rng(n)
        y = rng.integers(classes, size=n)
        yield images(n, model.input_shape), y, (y + rng.integers(1, classes, size=n)) % classes


def _logits(network: nn.Module, model: OnnxClassifier) -> list[Finding]:
    exact = copy.deepcopy(network).double()
    errors, between = [], []
    for x, y, _ in _batches(model):
        with torch.no_grad():
            expected = exact(torch.from_numpy(x).double()).numpy()
        logits = model.logits(x)
        errors += [*_row_errors(logits, expected)]
        between += [*_row_errors(model.loss_and_grad(x, y)[0], logits)]
    return [
        Finding("logits", max(errors), TOLERANCE),
        Finding("logits of the two files", max(between), TOLERANCE),
    ]


def _loss(network: nn.Module, model: OnnxClassifier, loss: Loss, smooth: bool) -> list[Finding]:
    """Return the comparisons of one loss; torch's own float32, in both memory formats, is measured beside it.

    dlr's are judged twice: divided by their condition (`_condition`), and undivided, where torch's own
    float32 gradient does not keep the tolerance either.
    """
    exact, last = (
        copy.deepcopy(network).double(),
        copy.deepcopy(network).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    )
    errors, own_errors, value_errors, scales, signs = [], [], [], [], []
    for x, y, target in _batches(model):
        images = torch.from_numpy(x)
        logits, value, grad = model.loss_and_grad(x, y, loss, target)
        expected_value, expected_grad = _by_autograd(exact, images.double(), y, loss, target)
        value_errors += [*(np.abs(value - expected_value) / _value_size(logits, expected_value, loss))]
        errors += [*_row_errors(grad, expected_grad)]
        own = [
            _by_autograd(network, images, y, loss, target)[1],
            _by_autograd(last, images.contiguous(memory_format=torch.channels_last), y, loss, target)[1],
        ]
        own_errors.append(np.maximum(*(_row_errors(g, expected_grad) for g in own)))
        scales += [*_condition(logits, loss)]
        steep = np.abs(expected_grad).max(axis=(1, 2, 3)) > FLAT
        signs += [*(np.sign(grad) != np.sign(expected_grad))[steep].mean(axis=(1, 2, 3))]
    scale, own_error = np.asarray(scales), np.concatenate(own_errors)
    found = [Finding(f"{loss} value", max(value_errors), TOLERANCE)]
    if not smooth:
        return [
            *found,
            Finding(f"{loss} gradient, median example", float(np.median(errors)), TOLERANCE),
            Finding(f"{loss} gradient, signs that differ", float(np.mean(signs)), SIGNS),
        ]
    worst = Finding(f"{loss} gradient, worst example", max(errors), _allowed(own_error))
    if loss not in ("dlr", "dlr_targeted"):
        return [*found, worst]
    what = f"{loss} gradient / condition, worst example"
    divided = Finding(what, max(errors / scale), _allowed(own_error / scale))
    return [*found, worst, divided]


def _value_size(logits: np.ndarray, value: np.ndarray, loss: Loss) -> np.ndarray:
    """Return what an error of each example's loss is measured by: its size, or that of what it is made of.

    Losses are differences of logits, so near 0 they keep the logits' rounding and not their own; dlr is
    such a difference over another.
    """
    if loss in ("dlr", "dlr_targeted") and logits.shape[1] > 3:
        ratio: np.ndarray = _condition(logits, loss) * np.maximum(1.0, np.abs(value))
        return ratio
    size: np.ndarray = np.maximum(np.abs(value), np.abs(logits).max(axis=1))
    return size


def _condition(logits: np.ndarray, loss: Loss) -> np.ndarray:
    """Return by how much a loss multiplies a relative error of the logits, at least 1, for each example.

    dlr divides by d = s1 - s3 (dlr_targeted by s1 - (s3 + s4) / 2), so logits that float32 rounds by a
    share r of the largest move it by the share r max|z| / d: near a tie no float32 code does better.
    """
    best = -np.sort(-logits.astype(np.float64), axis=1)
    if loss not in ("dlr", "dlr_targeted") or best.shape[1] < 4:
        return np.ones(len(logits))
    d = best[:, 0] - (best[:, 2] if loss == "dlr" else best[:, 2:4].mean(axis=1))
    condition: np.ndarray = np.maximum(1.0, np.abs(logits).max(axis=1) / np.maximum(d, 1e-12))
    return condition


def _allowed(own_errors: np.ndarray) -> float:
    """Return the tolerance, or thrice torch's own error in float32 where that is more.

    A d near zero multiplies whatever float32 rounds.
    """
    return max(TOLERANCE, 3 * float(own_errors.max()))


def _by_autograd(
    network: nn.Module, x: torch.Tensor, y: np.ndarray, loss: Loss, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return value (N,) and gradient of `loss` in the type of x, the network's part by torch."""
    x = x.clone().requires_grad_(True)
    logits = network(x)
    value, slope = LOSS_FUNCTIONS[loss](logits.detach(), torch.from_numpy(y), torch.from_numpy(target))
    (grad,) = torch.autograd.grad(logits, x, slope)
    return value.numpy(), grad.numpy()


def _row_errors(ours: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return each example's L2 error, relative to its size.

    The floor keeps a gradient that is zero (dlr with the true class third) from becoming nan.
    """
    ours, exact = (a.reshape(len(a), -1).astype(np.float64) for a in (ours, exact))
    sizes = np.linalg.norm(exact, axis=1)
    errors: np.ndarray = np.linalg.norm(ours - exact, axis=1) / np.maximum(sizes, 1e-6)
    return errors


def _attack(network: nn.Module, model: OnnxClassifier) -> list[Finding]:
    """PGD-20 on both, and each one's images shown to the other."""
    x = images(ATTACKED, model.input_shape)
    peer = TorchClassifier(network, model.classes, model.input_shape)
    y = model.logits(x).argmax(axis=1)  # attack what the network says of itself
    ours = pgd(model, x, y, eps=8 / 255, steps=20)
    theirs = pgd(peer, torch.from_numpy(x), torch.from_numpy(y), eps=8 / 255, steps=20)
    succeeded = np.asarray(theirs.success)
    judged_differently = sum(
        int(
            (
                model.logits(x_adv).argmax(axis=1)
                != np.asarray(peer.logits(torch.from_numpy(x_adv))).argmax(axis=1)
            ).sum()
        )
        for x_adv in (ours.x_adv, np.asarray(theirs.x_adv))
    )
    return [
        Finding(
            f"PGD-20 fools one alone, of {ATTACKED} images", float((ours.success != succeeded).sum()), STRAYED
        ),
        Finding("adversarial images the two judge differently", float(judged_differently), 0),
    ]
