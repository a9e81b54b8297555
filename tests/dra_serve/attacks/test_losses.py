"""The four losses against their definitions, finite differences, torch and the gradient graph."""

import numpy as np
import pytest
import torch

from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.classifier import LOSSES
from dra_serve.errors import BadRequest
from dra_serve.gradient_graph import differentiate
from dra_serve.onnx_classifier import OnnxClassifier

pytestmark = pytest.mark.parametrize("loss", LOSSES)


def case(classes: int, n: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, n)
    return 3 * rng.standard_normal((n, classes)), y, (y + rng.integers(1, classes, n)) % classes


def by_definition(loss: str, z: np.ndarray, y: int, target: int) -> float:
    """One row, written as the docstring of losses.py writes it."""
    s = np.sort(z)[::-1]
    best_other = max(z[k] for k in range(len(z)) if k != y)
    if loss == "ce":
        return float(np.log(np.exp(z).sum()) - z[y])
    if loss == "dlr_targeted":
        if len(z) == 2:
            return float(z[target] - z[y])
        scale = s[0] - s[2] if len(z) == 3 else s[0] - (s[2] + s[3]) / 2
        return float((z[target] - z[y]) / (scale + 1e-12))
    scale = 1 if loss == "margin" or len(z) == 2 else s[0] - s[2] + 1e-12
    return float((best_other - z[y]) / scale)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_value_is_the_definition(loss, classes):
    z, y, target = case(classes)
    value, _ = LOSS_FUNCTIONS[loss](z, y, target)
    expected = [by_definition(loss, *row) for row in zip(z, y, target, strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-10)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_gradient_is_the_slope(loss, classes):
    z, y, target = case(classes)
    _, grad = LOSS_FUNCTIONS[loss](z, y, target)
    step = 1e-6
    for k in range(classes):
        e = step * np.eye(classes)[k]
        up, _ = LOSS_FUNCTIONS[loss](z + e, y, target)
        down, _ = LOSS_FUNCTIONS[loss](z - e, y, target)
        np.testing.assert_allclose(grad[:, k], (up - down) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_numpy_and_torch_agree(loss, classes):
    z, y, target = case(classes)
    ours = LOSS_FUNCTIONS[loss](z, y, target)
    theirs = LOSS_FUNCTIONS[loss](*map(torch.from_numpy, (z, y, target)))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_the_gradient_graph_agrees(loss, classes, linear_onnx):
    """On logits = x the graph's grad is the gradient at the logits."""
    z, y, target = case(classes)
    x = (z / 20 + 0.5).astype(np.float32).reshape(-1, 1, 1, classes)
    forward = linear_onnx(np.eye(classes), np.zeros(classes), (1, 1, classes))
    model = OnnxClassifier(
        forward.SerializeToString(),
        differentiate(forward).SerializeToString(),
        classes=[str(k) for k in range(classes)],
        input_shape=(1, 1, classes),
    )
    logits, value, grad = model.loss_and_grad(x, y, loss, target)
    expected_value, expected_grad = LOSS_FUNCTIONS[loss](logits, y, target)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad.reshape(-1, classes), expected_grad, rtol=1e-4, atol=1e-5)


def test_shifted_logits_have_the_same_loss(loss):
    z, y, target = case(10)
    here, there = (LOSS_FUNCTIONS[loss](a, y, target)[0] for a in (z, z + 7))
    np.testing.assert_allclose(here, there, rtol=1e-9)


def test_only_dlr_ignores_the_scale(loss):
    z, y, target = case(10)
    here, there = (LOSS_FUNCTIONS[loss](a, y, target)[0] for a in (z, 5 * z))
    assert np.allclose(here, there, rtol=1e-6) == loss.startswith("dlr")


def test_huge_logits_stay_finite(loss):
    z, y, target = case(10)
    value, grad = LOSS_FUNCTIONS[loss]((1e4 * z).astype(np.float32), y, target)
    assert np.isfinite(value).all()
    assert np.isfinite(grad).all()


def test_no_rows(loss):
    z, y, target = (a[:0] for a in case(10))
    value, grad = LOSS_FUNCTIONS[loss](z, y, target)
    assert value.shape == (0,)
    assert grad.shape == (0, 10)


def test_only_the_targeted_loss_needs_a_target(loss):
    z, y, _ = case(10)
    if loss == "dlr_targeted":
        with pytest.raises(BadRequest, match="target: got None"):
            LOSS_FUNCTIONS[loss](z, y, None)
    else:
        assert LOSS_FUNCTIONS[loss](z, y, None)[0].shape == (20,)
