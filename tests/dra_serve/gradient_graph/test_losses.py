"""The four losses at the logits, with few classes and many."""

import numpy as np
import pytest

from dra_serve.gradient_graph import differentiate
from tests.dra_serve.gradient_graph.small import matrix_of, model


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "dlr_targeted"])
def test_losses_with_few_and_many_classes(loss, classes, question):
    built = model("", classes=classes)
    asked = question.draw((40, 6), classes, loss=loss, low=-1)  # dlr is flat where y is third
    logits, value, grad = asked.ask_onnx(differentiate(built))
    matrix = matrix_of(built)
    expected_logits, expected_value, expected_grad = asked.ask_torch(lambda x: x @ matrix)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-3, atol=1e-4)


def test_saturated_cross_entropy_has_a_zero_gradient_and_no_nan(question):
    built = model("big = Mul(x, scale)", head="big", scale=np.float32(1e4))
    asked = question.draw((30, 6), 4, loss="ce", low=-1)
    logits, value, grad = asked.ask_onnx(differentiate(built))
    sure = logits.argmax(axis=1) == asked.y.numpy()
    assert sure.any()
    assert np.isfinite(value).all()
    assert np.isfinite(grad).all()
    assert (grad[sure] == 0).all()
    assert (np.abs(grad[~sure]).max(axis=1) > 0).all()
