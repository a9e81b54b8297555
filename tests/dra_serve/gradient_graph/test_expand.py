"""Branches that are always taken, and operators that ONNX defines by others."""

import numpy as np
import pytest
import torch

from dra_serve.gradient_graph import differentiate
from dra_serve.gradient_graph.rules import RULES
from tests.dra_serve.gradient_graph.small import matrix_of, model


def test_branch_whose_outcome_does_not_depend_on_x_is_carried_along(question, errors_by_row):
    """torch's old exporter writes such an If for squeeze; it reads names of the graph around it."""
    body = (
        "scale = If<then_branch = t () => (float[6] a) { a = Exp(loss) }, else_branch = e () => (float[6] b) "
    )
    body += "{ b = Neg(loss) }>(c) y = Mul(pixels, scale)"
    loss = np.linspace(0.1, 1, 6, dtype=np.float32)
    built = model(body, x="pixels", head="y", c=np.array(True), loss=loss)
    asked = question.draw((5, 6), 4)
    scale, matrix = torch.tensor(loss).double().exp(), matrix_of(built)
    expected = asked.ask_torch(lambda x: (x * scale) @ matrix)
    assert errors_by_row(asked.ask_onnx(differentiate(built))[2], expected[2]).max() < 1e-5


def test_branch_that_is_always_taken_is_put_in_place_of_the_if(question, errors_by_row):
    body = "s = Shape<start=1, end=2>(x) e = Equal(s, six) c = Squeeze(e) y = If<then_branch = t () => "
    body += "(float[n,6] a) { two = Constant<value_float=2.0>() d = Mul(x, two) a = Exp(d) }, "
    body += "else_branch = e () => (float[n,6] b) { b = Neg(x) }>(c)"
    built = model(body, head="y", six=[6])
    asked = question.draw((5, 6), 4)
    matrix = matrix_of(built)
    gradient = differentiate(built)
    assert "If" not in {node.op_type for node in gradient.graph.node}
    expected = asked.ask_torch(lambda x: (2 * x).exp() @ matrix)
    assert errors_by_row(asked.ask_onnx(gradient)[2], expected[2]).max() < 1e-5


DEFINED_BY_OTHERS = {
    "MeanVarianceNormalization": (
        "y = MeanVarianceNormalization<axes=[1]>(x)", 20, {},
        lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)),
    "ThresholdedRelu": (
        "y = ThresholdedRelu<alpha=0.4>(x)", 20, {}, lambda x: torch.where(x > 0.4, x, 0 * x)),
    "Shrink": (
        "y = Shrink<lambd=0.3, bias=0.1>(x)", 20, {},
        lambda x: torch.where(x > 0.3, x - 0.1, torch.where(x < -0.3, x + 0.1, 0 * x))),
    "ReduceLogSum": (
        "l = ReduceLogSum<keepdims=1>(x, a) y = Add(x, l)", 20, {"a": [1]},
        lambda x: x + x.sum(1, keepdim=True).log()),
    "Swish": ("y = Swish<alpha=1.5>(x)", 24, {}, lambda x: x * torch.sigmoid(1.5 * x)),
    "CenterCropPad": (
        "c = CenterCropPad<axes=[1]>(x, s) e = Exp(c) y = CenterCropPad<axes=[1]>(e, t)", 20,
        {"s": [4], "t": [6]}, lambda x: torch.nn.functional.pad(x[:, 1:5].exp(), (1, 1))),
    "CastLike": ("d = CastLike(x, l) e = Exp(d) y = CastLike(e, x)", 20, {"l": np.float64(1)}, torch.exp),
    "RotaryEmbedding": (
        "r = Reshape(x, s) b = Shape<end=1>(x) q = Concat<axis=0>(b, three) o = Expand(p, q) "
        "e = RotaryEmbedding(r, c, i, o) y = Reshape(e, t)", 23,
        {"s": [0, 1, 3, 2], "three": [3], "t": [0, 6], "c": np.cos(np.float32([[0], [1], [2]])),
         "i": np.sin(np.float32([[0], [1], [2]])), "p": [[0, 1, 2]]},
        lambda x: torch.view_as_real(
            torch.view_as_complex(x.unflatten(1, (3, 2))) * torch.exp(1j * torch.arange(3))).flatten(1)),
    "RMSNormalization": (
        "y = RMSNormalization<axis=-1>(x, w)", 23, {"w": np.linspace(0.5, 1.5, 6, dtype=np.float32)},
        lambda x: torch.nn.functional.rms_norm(x, (6,), torch.linspace(0.5, 1.5, 6).double(), eps=1e-5)),
    "Attention": (
        "q = Reshape(x, s) e = Exp(q) a = Attention<q_num_heads=1, kv_num_heads=1>(q, e, q) "
        "y = Reshape(a, t)", 23, {"s": [0, 3, 2], "t": [0, 6]},
        lambda x: torch.nn.functional.scaled_dot_product_attention(
            *(v.unsqueeze(1) for v in (x.unflatten(1, (3, 2)), x.unflatten(1, (3, 2)).exp(),
                                       x.unflatten(1, (3, 2))))).flatten(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINED_BY_OTHERS)
def test_operator_that_onnx_defines_by_others_needs_no_rule(name, question, errors_by_row):
    body, opset, constants, network = DEFINED_BY_OTHERS[name]
    assert name not in RULES
    built = model(body, head="y", opset=opset, ir=min(opset - 10, 11), **constants)
    asked = question.draw((6, 6), 4)
    matrix = matrix_of(built)
    _, _, grad = asked.ask_onnx(differentiate(built))
    assert errors_by_row(grad, asked.ask_torch(lambda x: network(x) @ matrix)[2]).max() < 1e-5
