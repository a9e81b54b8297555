"""Quantised values: the straight-through estimate, as torch's fake_quantize has it, and said aloud."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from dra_serve.gradient_graph import differentiate

CLASSES = 4


def model(body, *, shape="3,4,5", opset=21, **constants):
    built = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> '
        f"net (float[n,{shape}] x) => (float[n,{CLASSES}] logits)"
        "{" + body + " f = Flatten(y) logits = MatMul(f, matrix) }"
    )
    size = int(np.prod([int(s) for s in shape.split(",")]))
    constants["matrix"] = np.random.default_rng(1).standard_normal((size, CLASSES)).astype(np.float32) / 4
    built.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items())
    return built, torch.from_numpy(constants["matrix"]).double()


class Straight(torch.autograd.Function):
    """Rounding and saturation forward; backward as `torch.fake_quantize_per_channel_affine` documents it."""

    @staticmethod
    def forward(ctx, x, scale, zero, low, high):
        rounded = torch.round(x / scale) + zero
        ctx.save_for_backward((rounded >= low) & (rounded <= high))
        return (rounded.clamp(low, high) - zero) * scale

    @staticmethod
    def backward(ctx, g):
        (inside,) = ctx.saved_tensors
        return g * inside, None, None, None, None


PAIR = "q = QuantizeLinear(h, s, z) y = DequantizeLinear(q, s, z)"
CASES = {
    "uint8": ("h = Identity(x) " + PAIR, np.float32(0.02), np.uint8(100), 1),
    "int8": ("h = Identity(x) " + PAIR, np.float32(0.01), np.int8(3), 1),
    "int16": ("h = Identity(x) " + PAIR, np.float32(0.0001), np.int16(7), 1),
    "one scale a channel": (
        "h = Identity(x) q = QuantizeLinear<axis=1>(h, s, z) y = DequantizeLinear<axis=1>(q, s, z)",
        np.float32([0.01, 0.02, 0.005]), np.int8([3, 0, -5]), (-1, 1, 1)),
    "moved between": (
        "h = Identity(x) q = QuantizeLinear(h, s, z) t = Transpose<perm=[0,2,3,1]>(q) "
        "d = DequantizeLinear(t, s, z) y = Transpose<perm=[0,3,1,2]>(d)", np.float32(0.01), np.int8(0), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_torchs_straight_through_estimate(name, question, errors_by_row):
    body, scale, zero, shape = CASES[name]
    built, matrix = model(body, s=scale, z=zero)
    limits = np.iinfo(zero.dtype)
    s, z = (torch.from_numpy(np.asarray(a, np.float64)).reshape(shape) for a in (scale, zero))

    def network(x):
        return Straight.apply(x, s, z, limits.min, limits.max).flatten(1) @ matrix

    asked = question.draw((8, 3, 4, 5), CLASSES, low=-2, high=4)
    logits, _, grad = asked.ask_onnx(gradient := differentiate(built))
    torch_logits, _, torch_grad = asked.ask_torch(network)
    assert errors_by_row(logits, torch_logits).max() < 1e-5
    assert errors_by_row(grad, torch_grad).max() < 1e-5
    assert 0 < (torch_grad == 0).mean() < 1  # some values saturate, and not all
    said = {entry.key: entry.value for entry in gradient.metadata_props}
    assert said["dra_serve.straight_through"] == "QuantizeLinear"


def test_quantised_weights_alone_are_differentiated_exactly_and_nothing_is_said(question, errors_by_row):
    w = np.random.default_rng(0).integers(-90, 90, (6, 3, 3, 3)).astype(np.int8)
    scale = np.linspace(0.001, 0.002, 6).astype(np.float32)
    built, _ = model(
        "k = DequantizeLinear<axis=0>(w, s) c = Conv<pads=[1,1,1,1]>(x, k) y = ReduceMean<keepdims=0>(c, a)",
        shape="3,2,2", w=w, s=scale, a=np.array([2]),
    )  # fmt: skip
    matrix = torch.from_numpy(numpy_helper.to_array(built.graph.initializer[-1]).astype(np.float64))
    kernel = torch.from_numpy(w.astype(np.float64) * scale[:, None, None, None])

    def network(x):
        return torch.nn.functional.conv2d(x, kernel, padding=1).mean(2).flatten(1) @ matrix

    asked = question.draw((4, 3, 2, 2), CLASSES)
    gradient = differentiate(built)
    assert errors_by_row(asked.ask_onnx(gradient)[2], asked.ask_torch(network)[2]).max() < 1e-5
    assert "dra_serve.straight_through" not in {entry.key for entry in gradient.metadata_props}
