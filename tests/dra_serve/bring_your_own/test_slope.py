"""A gradient against finite differences."""

import numpy as np
import onnx
import pytest

import dra_serve
from dra_serve.bring_your_own.slope import measure_slope
from tests.dra_serve.bring_your_own.theirs import Network, export


@pytest.mark.parametrize("wrong", [1.03, 0, "part"])
def test_a_wrong_gradient_is_told_by_finite_differences(tmp_path, wrong):
    path = export(Network(), tmp_path / "wrong.onnx")
    right = dra_serve.load(path)
    assert measure_slope(right).error < 1e-3

    class Wrong:
        input_shape, classes, has_gradient, logits = right.input_shape, right.classes, True, right.logits

        def loss_and_grad(self, x, y, loss="ce", target=None):
            logits, value, grad = right.loss_and_grad(x, y, loss, target)
            if wrong == "part":
                grad[:, :, :, :5] = 0
                return logits, value, grad
            return logits, value, grad * np.float32(wrong)

    slope = measure_slope(Wrong())
    assert slope.error > 0.02
    assert slope.words().startswith("WARNING: finite differences differ from its gradient by")


def test_a_gradient_that_rounding_hides_is_not_called_wrong_or_right(linear_onnx, tmp_path):
    """Logits of 1e4 that hardly depend on x: float32 cannot tell two steps apart."""
    weights = np.random.default_rng(0).standard_normal((4, 192)) * 1e-4
    onnx.save(linear_onnx(weights, np.array([1e4, 0, 0, 0.0]), (3, 8, 8)), tmp_path / "stiff.onnx")
    assert "say nothing of its gradient" in dra_serve.load(tmp_path / "stiff.onnx").notes[-1]


def test_a_gradient_of_one_sign_is_not_called_wrong(linear_onnx, tmp_path):
    """Found when the width of a step was read off its largest change, here a negative one."""
    weights = np.zeros((4, 192))
    weights[0], weights[1] = 0.02, -0.01
    onnx.save(linear_onnx(weights, np.array([0, 0, -9, -9.0]), (3, 8, 8)), tmp_path / "one_sign.onnx")
    assert "finite differences agree" in dra_serve.load(tmp_path / "one_sign.onnx").notes[-1]
