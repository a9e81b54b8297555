"""Every rule as a small model in ONNX's text form, against torch in float64 and central differences."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)
from onnx import numpy_helper

from dra_serve.gradient_graph import differentiate
from dra_serve.gradient_graph.rules import RULES

CLASSES = 5


@dataclass
class Case:
    """`body` computes `y` from `x` and constants; `torch` does the same from x and the constants, float64."""

    name: str
    body: str
    shape: tuple[int, ...]  # of one example
    torch: Callable[..., torch.Tensor]
    constants: dict[str, tuple[int, ...] | list | np.ndarray] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    opset: int = 20

    def arrays(self) -> dict[str, np.ndarray]:
        """Tuples are shapes of random weights; lists are int64 arrays."""
        rng = np.random.default_rng(7)
        return {
            name: rng.uniform(0.5, 1.5, value).astype(np.float32)
            * rng.choice([-1, 1], value).astype(np.float32)
            if isinstance(value, tuple)
            else np.asarray(value)
            for name, value in self.constants.items()
        }

    def model_and_network(self):
        """Return the ONNX model x -> logits and the same function in torch; a random matrix ends both."""
        constants = self.arrays()
        weights = {
            name: torch.from_numpy(a).double() if a.dtype == np.float32 else torch.from_numpy(a)
            for name, a in constants.items()
        }
        x = torch.from_numpy(np.random.default_rng(6).uniform(self.low, self.high, (8, *self.shape)))
        y = self.torch(x, **weights).flatten(1).numpy()
        matrix = np.random.default_rng(8).standard_normal((y.shape[1], CLASSES))
        matrix = (matrix / (y @ matrix).std()).astype(np.float32)  # logits of size 1: no softmax saturates
        sizes = ",".join(map(str, self.shape))
        model = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : {self.opset}]> '
            f"net (float[n,{sizes}] x) => (float[n,{CLASSES}] logits)"
            "{" + self.body + " flat = Flatten(y) logits = MatMul(flat, matrix) }"
        )
        constants["matrix"] = matrix
        model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
        return model, lambda x: self.torch(x, **weights).flatten(1) @ torch.from_numpy(matrix).double()


def unary(operator: str, function: Callable[..., torch.Tensor], attributes: str = "", **limits) -> Case:
    return Case(f"{operator}{attributes}", f"y = {operator}{attributes}(x)", (2, 3, 4), function, **limits)


IMAGE = (4, 9, 8)


def conv(name: str, attributes: str, weight: tuple[int, ...], shape=IMAGE, **options) -> Case:
    def network(x, w, b):
        pads = options.get("pads")
        return F.conv2d(
            F.pad(x, pads) if pads else x, w, b, **{k: v for k, v in options.items() if k != "pads"}
        )

    body = f"y = Conv<{attributes}>(x, w, b)"
    return Case(f"Conv {name}", body, shape, network, {"w": weight, "b": weight[:1]})


CONVOLUTIONS = [
    conv("1x1", "kernel_shape=[1,1]", (6, 4, 1, 1)),
    conv("3x3", "pads=[1,1,1,1]", (6, 4, 3, 3), padding=1),
    conv("no padding", "group=1", (6, 4, 3, 2)),
    conv("padding wider than the kernel's reach", "pads=[3,3,3,3]", (6, 4, 3, 3), padding=3),
    conv("1x1 padded", "pads=[1,1,1,1]", (6, 4, 1, 1), padding=1),
    conv("dilation", "pads=[2,2,2,2], dilations=[2,2]", (6, 4, 3, 3), padding=2, dilation=2),
    conv("uneven dilation", "dilations=[3,1]", (6, 4, 2, 3), dilation=(3, 1)),
    conv("groups", "group=2, pads=[1,1,1,1]", (6, 2, 3, 3), padding=1, groups=2),
    conv("depthwise 7x7", "group=4, pads=[3,3,3,3]", (4, 1, 7, 7), padding=3, groups=4),
    conv("depthwise, two a channel", "group=4", (8, 1, 3, 3), groups=4),
    conv("stride 2", "strides=[2,2], pads=[1,1,1,1]", (6, 4, 3, 3), stride=2, padding=1),
    conv("stride 2, 1x1", "strides=[2,2]", (6, 4, 1, 1), stride=2),
    conv("stride 3, last pixels unread", "strides=[3,3]", (6, 4, 2, 2), stride=3),
    conv("patches", "strides=[4,4]", (6, 4, 4, 4), (4, 8, 8), stride=4),
    conv("stride 2, groups, dilation", "strides=[2,1], group=2, dilations=[2,1], pads=[1,0,1,0]",
         (6, 2, 3, 3),
         stride=(2, 1), padding=(1, 0), dilation=(2, 1), groups=2),
    conv("uneven pads", "pads=[0,1,2,3]", (6, 4, 3, 3), pads=(1, 3, 0, 2)),
    conv("uneven pads, stride 2", "strides=[2,2], pads=[0,1,2,3]", (6, 4, 3, 3), pads=(1, 3, 0, 2), stride=2),
    conv("SAME_UPPER", 'auto_pad="SAME_UPPER"', (6, 4, 2, 4), pads=(1, 2, 0, 1)),
    conv("SAME_LOWER", 'auto_pad="SAME_LOWER"', (6, 4, 2, 4), pads=(2, 1, 1, 0)),
    conv("SAME_UPPER, stride 2", 'auto_pad="SAME_UPPER", strides=[2,2]', (6, 4, 3, 3), pads=(0, 1, 1, 1),
         stride=2),
    conv("VALID", 'auto_pad="VALID"', (6, 4, 3, 3)),
    Case("Conv 1d", "y = Conv<pads=[1,1], strides=[2]>(x, w)", (4, 9),
         lambda x, w: F.conv1d(x, w, padding=1, stride=2), {"w": (5, 4, 3)}),
    Case("Conv 3d", "y = Conv<pads=[1,1,1,1,1,1]>(x, w)", (2, 4, 5, 3),
         lambda x, w: F.conv3d(x, w, padding=1), {"w": (3, 2, 3, 3, 3)}),
    Case("ConvTranspose", "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(x, w, b)", (4, 5, 6),
         lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1), {"w": (4, 3, 3, 3), "b": (3,)}),
    Case("ConvTranspose groups, output padding, dilation",
         "y = ConvTranspose<strides=[3,3], group=2, output_padding=[2,1], dilations=[1,2]>(x, w)", (4, 5, 6),
         lambda x, w: F.conv_transpose2d(x, w, stride=3, groups=2, output_padding=(2, 1), dilation=(1, 2)),
         {"w": (4, 3, 2, 2)}),
    Case("ConvTranspose 1x1, output padding", "y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, w)",
         (4, 5, 6),
         lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1), {"w": (4, 3, 1, 1)}),
]  # fmt: skip

MATRICES = [
    Case("Gemm", "y = Gemm(x, w, b)", (6,), lambda x, w, b: x @ w + b, {"w": (6, 7), "b": (7,)}),
    Case("Gemm transB, alpha, beta", "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", (6,),
         lambda x, w, b: 0.5 * x @ w.T + 2 * b, {"w": (7, 6), "b": (7,)}),
    Case("Gemm transA, both operands", "t = Transpose<perm=[1,0]>(x) s = Gemm<transA=1, alpha=2.0>(t, w) "
         "y = Gemm<transB=1, transA=1>(t, m, s)", (6,),
         lambda x, w, m: x @ m.T + 2 * x @ w, {"w": (6, 7), "m": (7, 6)}),
    Case("Gemm of x with x",
         "a = Transpose<perm=[1,0]>(x) s = Gemm<alpha=0.1>(x, a) y = Gemm<transA=1>(s, x)", (6,),
         lambda x: (0.1 * x @ x.T).T @ x),
    Case("Gemm of x with x, transposed", "s = Gemm<transB=1, alpha=0.1>(x, x) y = Gemm(s, x)", (6,),
         lambda x: 0.1 * x @ x.T @ x),
    Case("MatMul weight", "y = MatMul(x, w)", (3, 6), lambda x, w: x @ w, {"w": (6, 4)}),
    Case("MatMul weight on the left", "y = MatMul(w, x)", (2, 3, 6), lambda x, w: w @ x, {"w": (4, 3)}),
    Case("MatMul both, attention",
         "t = Transpose<perm=[0,1,3,2]>(x) s = MatMul(x, t) p = Softmax(s) y = MatMul(p, x)",
         (2, 3, 4), lambda x: torch.softmax(x @ x.mT, -1) @ x),
    Case("MatMul broadcast batch", "k = ReduceMean<keepdims=1>(x, axes) y = MatMul(x, k)", (2, 3, 3),
         lambda x, axes: x @ x.mean(1, keepdim=True), {"axes": [1]}),
    Case("MatMul broadcast, fewer axes", "k = ReduceMean<keepdims=0>(x, axes) y = MatMul(x, k)", (2, 3, 3),
         lambda x, axes: x @ x.mean((0, 1)), {"axes": [0, 1]}),
    Case("Einsum weight", 'y = Einsum<equation="nchw,cd->ndhw">(x, w)', (3, 4, 2),
         lambda x, w: torch.einsum("nchw,cd->ndhw", x, w), {"w": (3, 5)}),
    Case("Einsum, a diagonal", 'y = Einsum<equation="bii->bi">(x)', (4, 4),
         lambda x: torch.einsum("bii->bi", x)),
    Case("Einsum, a trace and a weight", 'y = Einsum<equation="biic,cd->bd">(x, w)', (3, 3, 4),
         lambda x, w: torch.einsum("biic,cd->bd", x, w), {"w": (4, 5)}),
    Case("Einsum, a letter summed alone", 'y = Einsum<equation="bij,jk->bk">(x, w)', (3, 4),
         lambda x, w: torch.einsum("bij,jk->bk", x, w), {"w": (4, 5)}),
    Case("Einsum, ellipsis", 'y = Einsum<equation="...ij,jk->...ik">(x, w)', (2, 3, 4),
         lambda x, w: x @ w, {"w": (4, 5)}),
    Case("Einsum, result left open", 'y = Einsum<equation="bij,jk">(x, w)', (3, 4),
         lambda x, w: x @ w, {"w": (4, 5)}),
    Case("Einsum both", 'y = Einsum<equation="bij, bkj -> bik">(x, x)', (3, 4),
         lambda x: torch.einsum("bij,bkj->bik", x, x)),
]  # fmt: skip

ARITHMETIC = [
    *(Case(f"{name} broadcast", f"y = {name}(x, a)", (3, 4, 2), function, {"a": (3, 1, 2)})
      for name, function in {"Add": lambda x, a: x + a, "Sub": lambda x, a: x - a,
                             "Mul": lambda x, a: x * a, "Div": lambda x, a: x / a}.items()),
    Case("Sub constant first", "y = Sub(a, x)", (3, 4), lambda x, a: a - x, {"a": (1, 4)}),
    Case("Div constant first", "y = Div(a, x)", (3, 4), lambda x, a: a / x, {"a": (1, 4)}, low=0.5),
    Case("x broadcast to more", "y = Mul(x, a)", (1, 4), lambda x, a: x * a, {"a": (3, 4)}),
    Case("x in all four", "p = Mul(x, x) q = Div(x, a) r = Div(p, q) s = Sub(r, p) y = Add(s, x)", (3, 4),
         lambda x, a: x * x / (x / a) - x * x + x, {"a": (4,)}, low=0.5),
    Case("both active, broadcast",
         "m = ReduceMean<keepdims=1>(x, axes) d = Sub(x, m) e = Mul(m, d) y = Div(e, m)",
         (3, 4), lambda x, axes: x - x.mean(2, keepdim=True), {"axes": [2]}, low=0.5),
    Case("broadcast adds axes", "m = ReduceSum<keepdims=0>(x, axes) y = Add(x, m)", (3, 4),
         lambda x, axes: x + x.sum((0, 1)), {"axes": [0, 1]}),
    Case("Sum of three", "y = Sum(x, a, x)", (3, 4), lambda x, a: 2 * x + a, {"a": (3, 1)}),
    Case("Mean of three", "y = Mean(x, a, x)", (3, 4), lambda x, a: (2 * x + a) / 3, {"a": (3, 1)}),
    Case("SiLU", "s = Sigmoid(x) y = Mul(x, s)", (3, 4), F.silu),
    Case("SiLU, gate first and used twice", "s = Sigmoid(x) m = Mul(s, x) y = Add(m, s)", (3, 4),
         lambda x: F.silu(x) + torch.sigmoid(x)),
    Case("gate of another value", "a = Neg(x) s = Sigmoid(a) y = Mul(x, s)", (3, 4),
         lambda x: x * torch.sigmoid(-x)),
    Case("Pow 2", "y = Pow(x, p)", (3, 4), lambda x, p: x**2, {"p": np.array(2.0, np.float32)}),
    Case("Pow 0.75", "y = Pow(x, p)", (3, 4), lambda x, p: x**0.75, {"p": np.array(0.75, np.float32)},
         low=0.5),
    Case("Pow -2", "y = Pow(x, p)", (3, 4), lambda x, p: x**-2, {"p": np.array(-2.0, np.float32)}, low=0.5),
    Case("Pow 3, integer", "y = Pow(x, p)", (3, 4), lambda x, p: x**3, {"p": np.array(3)}),
    Case("Pow, one exponent a channel", "y = Pow(x, p)", (3, 4), lambda x, p: x**p,
         {"p": np.array([[0.5], [-1.0], [2.5]], np.float32)}, low=0.5),
    Case("Max", "b = Neg(x) y = Max(x, a, b)", (3, 4), lambda x, a: torch.maximum(torch.maximum(x, a), -x),
         {"a": (4,)}),
    Case("Min", "y = Min(x, a)", (3, 4), lambda x, a: torch.minimum(x, a), {"a": (3, 1)}),
    Case("Max of equals", "y = Max(x, x)", (3, 4), lambda x: torch.maximum(x, x)),
    Case("Where constant condition", "y = Where(c, x, a)", (3, 4), lambda x, c, a: torch.where(c, x, a),
         {"c": np.array([True, False, True, True]), "a": (3, 4)}),
    Case("Where condition on x", "z = Sub(x, x) c = Greater(x, z) n = Exp(x) y = Where(c, x, n)", (3, 4),
         lambda x: torch.where(x > 0, x, x.exp())),
]  # fmt: skip

ELEMENTWISE = [
    unary("Identity", lambda x: x),
    unary("Neg", torch.neg),
    unary("Abs", torch.abs),
    unary("Exp", torch.exp),
    unary("Log", torch.log, low=0.2),
    unary("Sqrt", torch.sqrt, low=0.2),
    unary("Reciprocal", torch.reciprocal, low=0.3),
    unary("Sin", torch.sin),
    unary("Cos", torch.cos),
    unary("Tan", torch.tan, low=-1, high=1),
    unary("Asin", torch.asin, low=-0.9, high=0.9),
    unary("Acos", torch.acos, low=-0.9, high=0.9),
    unary("Atan", torch.atan),
    unary("Sinh", torch.sinh),
    unary("Cosh", torch.cosh),
    unary("Asinh", torch.asinh),
    unary("Acosh", torch.acosh, low=1.2),
    unary("Atanh", torch.atanh, low=-0.9, high=0.9),
    unary("Relu", torch.relu),
    unary("Sigmoid", torch.sigmoid),
    unary("Tanh", torch.tanh),
    unary("Erf", torch.erf),
    unary("Softplus", F.softplus),
    unary("Softsign", F.softsign),
    unary("HardSwish", F.hardswish, low=-5, high=5),
    unary("HardSigmoid", F.hardsigmoid, f"<alpha={1 / 6:.9f}>", low=-5, high=5),
    unary("HardSigmoid", lambda x: (0.2 * x + 0.5).clamp(0, 1), low=-4, high=4),
    unary("HardSigmoid", lambda x: (0.3 * x + 0.4).clamp(0, 1), "<alpha=0.3, beta=0.4>", low=-4, high=4),
    unary("Mish", F.mish),
    unary("LeakyRelu", F.leaky_relu),
    unary("LeakyRelu", lambda x: F.leaky_relu(x, 0.2), "<alpha=0.2>"),
    unary("Elu", F.elu),
    unary("Elu", lambda x: F.elu(x, 0.7), "<alpha=0.7>"),
    unary("Celu", lambda x: F.celu(x, 0.7), "<alpha=0.7>"),
    unary("Selu", F.selu),
    unary("Gelu", F.gelu),
    unary("Gelu", lambda x: F.gelu(x, approximate="tanh"), '<approximate="tanh">'),
    unary("Dropout", lambda x: x),
    unary("Cast", lambda x: x, "<to=1>"),
    Case("Cast there and back", "d = Cast<to=11>(x) e = Exp(d) y = Cast<to=1>(e)", (3, 4), torch.exp),
    Case("PRelu", "y = PRelu(x, a)", (3, 4, 2), lambda x, a: torch.where(x > 0, x, a * x), {"a": (3, 1, 1)}),
    Case("Clip", "y = Clip(x, a, b)", (3, 4), lambda x, a, b: x.clamp(a, b),
         {"a": np.float32(-1), "b": np.float32(0.5)}),
    Case("Clip above", "y = Clip(x, , b)", (3, 4), lambda x, b: x.clamp(max=b), {"b": np.float32(0.5)}),
    Case("Clip below", "y = Clip(x, a)", (3, 4), lambda x, a: x.clamp(min=a), {"a": np.float32(-0.5)}),
]  # fmt: skip


def reduction(
    name: str, function: Callable[..., torch.Tensor], attributes: str, axes: list | None, **limits
) -> Case:
    body = f"y = {name}<{attributes}>(x{', axes' if axes else ''})"
    network = (lambda x, axes: function(x)) if axes else function
    return Case(
        f"{name} {attributes} {axes}", body, (3, 4, 2), network, {"axes": axes} if axes else {}, **limits
    )


REDUCTIONS = [
    reduction("ReduceMean", lambda x: x.mean((2, 3)), "keepdims=0", [2, 3]),
    reduction("ReduceMean", lambda x: x.mean((2, 3), keepdim=True), "keepdims=1", [-1, -2]),
    reduction("ReduceMean", lambda x: x, "noop_with_empty_axes=1, keepdims=0", None),
    reduction("ReduceSum", lambda x: x.sum(1), "keepdims=0", [1]),
    reduction("ReduceSumSquare", lambda x: (x * x).sum((1, 3)), "keepdims=0", [1, 3]),
    reduction("ReduceL1", lambda x: x.abs().sum(1), "keepdims=0", [1]),
    reduction("ReduceL2", lambda x: x.norm(dim=1), "keepdims=0", [1]),
    reduction("ReduceLogSumExp", lambda x: x.logsumexp((2, 3)), "keepdims=0", [2, 3]),
    reduction("ReduceMax", lambda x: x.amax((2, 3)), "keepdims=0", [2, 3]),
    reduction("ReduceMin", lambda x: x.amin(1, keepdim=True), "keepdims=1", [1]),
    Case("ReduceMean of everything", "m = ReduceMean(x) y = Mul(x, m)", (3, 4), lambda x: x * x.mean()),
    Case("ReduceMax shares between equals", "r = Relu(x) m = ReduceMax(r, axes) y = Mul(m, a)", (3, 4),
         lambda x, axes, a: torch.relu(x).amax(2, keepdim=True) * a, {"axes": [2], "a": (4,)}, low=0.1),
    unary("Softmax", lambda x: x.softmax(-1)),
    unary("Softmax", lambda x: x.softmax(1), "<axis=1>"),
    unary("LogSoftmax", lambda x: x.log_softmax(-1)),
    unary("LogSoftmax", lambda x: x.log_softmax(2), "<axis=-2>"),
]  # fmt: skip


def max_pool(attributes: str, function: Callable[..., torch.Tensor], shape=(3, 7, 8)) -> Case:
    return Case(f"MaxPool {attributes}", f"y = MaxPool<{attributes}>(x)", shape, function)


def average_pool(attributes: str, function: Callable[..., torch.Tensor], shape=(3, 7, 8)) -> Case:
    return Case(f"AveragePool {attributes}", f"y = AveragePool<{attributes}>(x)", shape, function)


POOLS = [
    max_pool("kernel_shape=[2,2], strides=[2,2]", lambda x: F.max_pool2d(x, 2)),
    max_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]", lambda x: F.max_pool2d(x, 3, 2, 1)),
    max_pool("kernel_shape=[3,3]", lambda x: F.max_pool2d(x, 3, 1)),
    max_pool("kernel_shape=[2,2], dilations=[2,3]", lambda x: F.max_pool2d(x, 2, 1, dilation=(2, 3))),
    max_pool("kernel_shape=[3,3], strides=[2,2], ceil_mode=1",
             lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True)),
    max_pool('kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_UPPER"',
             lambda x: F.max_pool2d(F.pad(x, (0, 0, 0, 1), value=-9), 2)),
    max_pool("kernel_shape=[3], strides=[2]", lambda x: F.max_pool1d(x, 3, 2), (3, 9)),
    average_pool("kernel_shape=[2,2], strides=[2,2]", lambda x: F.avg_pool2d(x, 2)),
    average_pool("kernel_shape=[3,2], strides=[2,1]", lambda x: F.avg_pool2d(x, (3, 2), (2, 1))),
    average_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1",
                 lambda x: F.avg_pool2d(x, 3, 2, 1)),
    average_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]",
                 lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)),
    average_pool("kernel_shape=[3,3], strides=[2,2], ceil_mode=1",
                 lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True)),
    average_pool("kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], ceil_mode=1",
                 lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
    average_pool('kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_UPPER"',
                 lambda x: F.avg_pool2d(x, 2, ceil_mode=True)),
    Case("GlobalAveragePool 1d", "y = GlobalAveragePool(x)", (3, 5), lambda x: x.mean(2, keepdim=True)),
    Case("GlobalMaxPool", "y = GlobalMaxPool(x)", (3, 4, 5), lambda x: x.amax((2, 3), keepdim=True)),
    Case("GlobalMaxPool shares between equals", "r = Neg(x) c = Relu(r) m = GlobalMaxPool(c) y = Add(m, x)",
         (2, 3),
         lambda x: torch.relu(-x).amax(2, keepdim=True) + x, low=0.1),
    Case("GlobalAveragePool", "y = GlobalAveragePool(x)", (3, 4, 5), lambda x: x.mean((2, 3), keepdim=True)),
]  # fmt: skip

LP = [
    Case("LpPool", "y = LpPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)", IMAGE,
         lambda x: F.lp_pool2d(F.pad(x, (1, 1, 1, 1)), 2, 3, 2)),
    Case("LpPool of order 3", "y = LpPool<kernel_shape=[2,3], p=3>(x)", IMAGE,
         lambda x: F.avg_pool2d(x.abs() ** 3, (2, 3), 1, divisor_override=1) ** (1 / 3)),
    Case("GlobalLpPool", "y = GlobalLpPool<p=3>(x)", IMAGE,
         lambda x: (x.abs() ** 3).sum((2, 3), keepdim=True) ** (1 / 3)),
]  # fmt: skip

NORMALISATIONS = [
    Case("LayerNormalization", "y = LayerNormalization(x, w, b)", (3, 6),
         lambda x, w, b: F.layer_norm(x, (6,), w, b), {"w": (6,), "b": (6,)}),
    Case("LayerNormalization over two axes", "y = LayerNormalization<axis=2, epsilon=0.01>(x, w)", (3, 4, 2),
         lambda x, w: F.layer_norm(x, (4, 2), w, eps=0.01), {"w": (4, 2)}),
    Case("BatchNormalization", "y = BatchNormalization<epsilon=0.01>(x, w, b, m, v)", (3, 4, 2),
         lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, eps=0.01),
         {"w": (3,), "b": (3,), "m": (3,), "v": np.float32([0.5, 1, 2])}),
    Case("BatchNormalization of (N, C)", "y = BatchNormalization(x, w, b, m, v)", (3,),
         lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b),
         {"w": (3,), "b": (3,), "m": (3,), "v": np.float32([0.5, 1, 2])}),
    *(Case(f"LRN over {size}", f"y = LRN<size={size}, alpha=0.5, beta=0.6, bias=1.5>(x)", (5, 2, 3),
           partial(lambda x, size: F.local_response_norm(x, size, alpha=0.5, beta=0.6, k=1.5), size=size))
      for size in (3, 5)),
    Case("LpNormalization", "y = LpNormalization<axis=1>(x)", (3, 4), lambda x: F.normalize(x, dim=1)),
    Case("LpNormalization of order 1", "y = LpNormalization<p=1>(x)", (3, 4),
         lambda x: F.normalize(x, p=1, dim=-1)),
    Case("L2 norm of zeros", "m = Min(x, z) n = Neg(m) r = Relu(m) l = ReduceL2<keepdims=1>(r, a) "
         "y = Add(l, x)", (3, 4), lambda x, z, a: x, {"z": np.float32(0), "a": [1]}),
    Case("InstanceNormalization", "y = InstanceNormalization(x, w, b)", (3, 4, 2),
         lambda x, w, b: F.instance_norm(x, weight=w, bias=b), {"w": (3,), "b": (3,)}),
    Case("GroupNormalization", "y = GroupNormalization<num_groups=2>(x, w, b)", (4, 3, 2),
         lambda x, w, b: F.group_norm(x, 2, w, b), {"w": (4,), "b": (4,)}, opset=21),
    Case("GroupNormalization, a scale a group", "y = GroupNormalization<num_groups=2>(x, w, b)", (4, 3, 2),
         lambda x, w, b: F.group_norm(x, 2, w.repeat_interleave(2), b.repeat_interleave(2)), {"w": (2,),
         "b": (2,)}),
]  # fmt: skip


def pad(mode: str, onnx_pads: list[int], torch_pads: tuple[int, ...], torch_mode: str | None = None) -> Case:
    return Case(f"Pad {mode} {onnx_pads}", f'y = Pad<mode="{mode}">(x, p)', (3, 4, 5),
                lambda x, p: F.pad(x, torch_pads, torch_mode or mode), {"p": onnx_pads})  # fmt: skip


def sliced(name: str, function: Callable[..., torch.Tensor], s, e, a, st=None) -> Case:
    body = "y = Slice(x, s, e, a, st)" if st else "y = Slice(x, s, e, a)"
    return Case(f"Slice {name}", body, (3, 4, 6), lambda x, **_: function(x),
                {"s": s, "e": e, "a": a, **({"st": st} if st else {})})  # fmt: skip


END = 2**63 - 1
SHAPES = [
    Case("Reshape", "y = Reshape(x, s)", (3, 4), lambda x, s: x.reshape(-1, 2, 6), {"s": [0, 2, -1]}),
    Case("Reshape by a computed shape",
         "s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, r) y = Reshape(x, t)",
         (3, 4), lambda x, r: x.reshape(-1, 2, 6), {"r": [2, 6]}),
    Case("Reshape into the batch", "z = Reshape(x, s) e = Exp(z) y = Reshape(e, r)", (3, 4), lambda x, s,
         r: x.exp(),
         {"s": [-1, 4], "r": [-1, 3, 4]}),
    Case("Flatten", "f = Flatten<axis=2>(x) y = Reshape(f, s)", (3, 4), lambda x, s: x, {"s": [-1, 3, 4]}),
    Case("Squeeze, Unsqueeze", "u = Unsqueeze(x, a) e = Exp(u) y = Squeeze(e, b)", (3, 4), lambda x, a,
         b: x.exp(),
         {"a": [1, 3], "b": [3]}),
    Case("Transpose", "y = Transpose<perm=[0,3,1,2]>(x)", (3, 4, 2), lambda x: x.permute(0, 3, 1, 2)),
    Case("Transpose reversed", "t = Transpose(x) e = Exp(t) y = Transpose(e)", (3, 4), lambda x: x.exp()),
    Case("Expand", "y = Expand(x, s)", (1, 4), lambda x, s: x.expand(-1, 3, -1), {"s": [1, 3, 1]}),
    Case("Expand, more axes", "u = Expand(x, s) y = Transpose<perm=[1,0,2,3]>(u)", (1, 4),
         lambda x, s: x.expand(2, -1, 3, 4).transpose(0, 1), {"s": [2, 1, 3, 1]}),
    Case("Tile", "y = Tile(x, r)", (3, 4), lambda x, r: x.repeat(1, 2, 3), {"r": [1, 2, 3]}),
    Case("Tile once", "y = Tile(x, r)", (3, 4), lambda x, r: x, {"r": [1, 1, 1]}),
    Case("Concat", "e = Exp(x) s = Sin(e) y = Concat<axis=-2>(x, e, s)", (3, 4),
         lambda x: torch.cat([x, x.exp(), x.exp().sin()], -2)),
    Case("Concat with a constant", "s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, r) c = Expand(a, t) "
         "y = Concat<axis=1>(c, x)", (3, 4),
         lambda x, a, r: torch.cat([a.expand(len(x), -1, -1), x], 1), {"a": (1, 1, 4), "r": [1, 4]}),
    Case("Split", "a, b = Split<axis=1>(x, s) e = Exp(b) y = Concat<axis=1>(e, a)", (5, 2),
         lambda x, s: torch.cat([x[:, 2:].exp(), x[:, :2]], 1), {"s": [2, 3]}),
    Case("Split, one part unused", "a, b, c = Split<axis=-1, num_outputs=3>(x) y = Mul(a, c)", (2, 6),
         lambda x: x[..., :2] * x[..., 4:]),
    pad("constant", [0, 0, 1, 2, 0, 1, 0, 3], (2, 3, 1, 0, 0, 1)),
    pad("constant", [0, 0, -1, 0, 0, 0, 2, -2], (0, -2, -1, 2)),
    pad("reflect", [0, 0, 1, 2, 0, 0, 3, 4], (2, 4, 1, 3)),
    pad("edge", [0, 0, 1, 2, 0, 0, 0, 3], (2, 3, 1, 0), "replicate"),
    pad("wrap", [0, 0, 1, 2, 0, 0, 0, 3], (2, 3, 1, 0), "circular"),
    Case("Pad axes", "y = Pad(x, p, , a)", (3, 4, 5), lambda x, p, a: F.pad(x, (1, 2)),
         {"p": [1, 2], "a": [-1]}),
    sliced("one axis", lambda x: x[:, 1:3], [1], [3], [1]),
    sliced("ends open", lambda x: x[:, :, 2:, :-1], [2, 0], [END, -1], [2, -1]),
    sliced("whole batch too", lambda x: x[:, 1:], [0, 1], [END, END], [0, 1]),
    sliced("steps", lambda x: x[:, :, ::2, 1:6:3], [0, 1], [END, 6], [2, 3], [2, 3]),
    sliced("backwards", lambda x: x.flip(3)[:, :2], [-1, 0], [-(2**62), 2], [3, 1], [-1, 1]),
    sliced("backwards, some", lambda x: x[..., [4, 2]], [4], [0], [3], [-2]),
    Case("Gather one", "y = Gather<axis=1>(x, i)", (3, 4), lambda x, i: x[:, -1], {"i": np.array(-1)}),
    Case("Gather some, one twice", "y = Gather<axis=2>(x, i)", (3, 4, 2), lambda x, i: x[:, :, i],
         {"i": [3, 0, 3, -3]}),
    Case("Gather one between transposes", "r = Reshape(x, s) t = Transpose<perm=[2,0,1,3]>(r) "
         "a = Gather<axis=0>(t, zero) b = Gather<axis=0>(t, two) e = Transpose<perm=[0,2,1]>(a) "
         "f = Transpose<perm=[0,2,1]>(b) m = Mul(e, f) y = Exp(m)", (2, 12),
         lambda x, s, **_: (x.unflatten(2, (3, 4))[:, :, 0] * x.unflatten(2, (3, 4))[:, :, 2]).exp().mT,
         {"s": [0, 2, 3, 4], "zero": np.array(0), "two": np.array(2)}, low=-1, high=1),
    Case("Gather by a matrix", "y = Gather<axis=1>(x, i)", (3, 4), lambda x, i: x[:, i],
         {"i": [[0, 2], [2, 2]]}),
    Case("Gather a permutation", "y = Gather<axis=1>(x, i)", (3, 4), lambda x, i: x[:, [2, 0, 1]],
         {"i": [2, 0, 1]}),
    Case("Gather by places that follow the batch",
         "f = Reshape(x, r) s = Size(x) p = Range(zero, s, two) g = Gather(f, p) y = Reshape(g, t)", (3, 4),
         lambda x, r, t, **_: x.reshape(-1)[::2].reshape(-1, 6),
         {"r": [-1], "zero": np.array(0), "two": np.array(2), "t": [-1, 6]}),
    Case("GatherND, one place twice", "t = Transpose<perm=[1,2,0]>(x) g = GatherND(t, i) "
         "y = Transpose<perm=[1,0]>(g)", (3, 4), lambda x, i: x[:, [0, 2, 0], [1, 3, 1]],
         {"i": [[0, 1], [2, 3], [0, 1]]}),
    Case("GatherElements", "s = Shape(x) z = Expand(two, s) y = GatherElements<axis=1>(x, z)", (3, 4),
         lambda x, two: x[:, 2:].expand(-1, 3, -1), {"two": np.array(2)}),
    Case("Gather one before the batch", "t = Transpose<perm=[1,0,2]>(x) y = Gather<axis=0>(t, i)",
         (3, 4), lambda x, i: x[:, 1], {"i": np.array(1)}),
    Case("Col2Im", "y = Col2Im<strides=[2,1], pads=[1,0,1,0], dilations=[1,2]>(x, s, b)", (12, 12),
         lambda x, s, b: F.fold(x, (5, 6), (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
         {"s": [5, 6], "b": [3, 2]}),
    Case("ScatterND", "t = Transpose<perm=[1,0,2]>(x) u = Gather(t, j) e = Exp(u) s = ScatterND(t, i, e) "
         "y = Transpose<perm=[1,0,2]>(s)", (3, 4),
         lambda x, i, j: torch.stack([x[:, 0], x[:, 0].exp(), x[:, 2]], 1), {"i": [[1]], "j": [0]}),
    Case("ScatterND at places that follow the batch",
         "f = Reshape(x, r) s = Size(x) p = Range(zero, s, two) q = Unsqueeze(p, one) g = Gather(f, p) "
         "e = Exp(g) z = ScatterND(f, q, e) y = Reshape(z, t)", (4,),
         lambda x, **_: torch.stack([x[:, 0].exp(), x[:, 1], x[:, 2].exp(), x[:, 3]], 1),
         {"r": [-1], "zero": np.array(0), "two": np.array(2), "one": [1], "t": [-1, 4]}),
    Case("ScatterND add", 'u = Gather(x, j) e = Exp(u) y = ScatterND<reduction="add">(x, i, e)', (3, 4),
         lambda x, i, j: x.index_add(0, torch.tensor([1, 1]), x[:2].exp()), {"i": [[1], [1]], "j": [0, 1]}),
    Case("Gather by the largest columns of the batch", "c = ReduceSum<keepdims=0>(x, z) v, i = TopK(c, k) "
         "y = Gather<axis=2>(x, i)", (3, 4), lambda x, z, k: x[:, :, x.sum((0, 1)).topk(2).indices],
         {"z": [0, 1], "k": [2]}),
    Case("TopK", "y, i = TopK<axis=1>(x, k)", (5, 4), lambda x, k: x.topk(3, dim=1).values, {"k": [3]}),
    Case("TopK, the least", "y, i = TopK<largest=0>(x, k)", (3, 6),
         lambda x, k: x.topk(2, largest=False).values, {"k": [2]}),
    Case("TopK, places used", "v, i = TopK(x, k) g = GatherElements<axis=-1>(x, i) y = Mul(v, g)", (3, 6),
         lambda x, k: x.topk(2).values ** 2, {"k": [2]}),
    Case("ScatterElements", "t = Transpose<perm=[1,0]>(x) u = Gather(t, j) e = Exp(u) s = Shape(e) "
         "p = Expand(i, s) z = ScatterElements<reduction=\"add\">(t, p, e) y = Transpose<perm=[1,0]>(z)",
         (4,), lambda x, i, j: x.index_add(1, torch.tensor([1, 1]), x[:, :2].exp()),
         {"i": [[1], [1]], "j": [0, 1]}),
    Case("ScatterElements, overwriting", "f = Reshape(x, r) a = Gather(f, j) e = Exp(a) "
         "z = ScatterElements(f, i, e) y = Reshape(z, b)", (4,),
         lambda x, **_: torch.cat([x.flatten()[:1], x.flatten()[[0, 1]].exp().flip(0), x.flatten()[3:]])
         .reshape(-1, 4), {"r": [-1], "b": [-1, 4], "i": [2, 1], "j": [0, 1]}),
    Case("CumSum", "y = CumSum(x, a)", (3, 4), lambda x, a: x.cumsum(2), {"a": np.array(2)}),
    Case("CumSum exclusive, backwards", "y = CumSum<exclusive=1, reverse=1>(x, a)", (3, 4),
         lambda x, a: x.flip(1).cumsum(1).flip(1) - x, {"a": np.array(1)}),
    Case("Trilu", "y = Trilu<upper=0>(x, k)", (3, 4), lambda x, k: torch.tril(x, 1), {"k": np.array(1)}),
    Case("DepthToSpace DCR", "y = DepthToSpace<blocksize=2>(x)", (8, 3, 4),
         lambda x: x.reshape(-1, 2, 2, 2, 3, 4).permute(0, 3, 4, 1, 5, 2).reshape(-1, 2, 6, 8)),
    Case("DepthToSpace CRD", 'y = DepthToSpace<blocksize=2, mode="CRD">(x)', (8, 3, 4),
         lambda x: F.pixel_shuffle(x, 2)),
    Case("SpaceToDepth", "y = SpaceToDepth<blocksize=2>(x)", (3, 4, 6),
         lambda x: x.reshape(-1, 3, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).reshape(-1, 12, 2, 3)),
    Case("pixel_unshuffle as torch writes it",
         "a = Reshape(x, s) b = Transpose<perm=[0,1,3,5,2,4]>(a) y = Reshape(b, r)",
         (3, 4, 6), lambda x, s, r: F.pixel_unshuffle(x, 2), {"s": [-1, 3, 2, 2, 3, 2], "r": [-1, 12, 2, 3]}),
]  # fmt: skip


def resize(name: str, attributes: str, sizes: list[int] | None, scales: list | None, **options) -> Case:
    """options: as for torch's interpolate."""
    inputs, constants = ("x, , , s", {"s": sizes}) if sizes else ("x, , s", {"s": np.float32(scales)})
    return Case(f"Resize {name}", f"y = Resize<{attributes}>({inputs})", (2, 4, 6),
                lambda x, s: F.interpolate(x, **options), constants)  # fmt: skip


ASYMMETRIC = 'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
HALF = 'axes=[2,3], coordinate_transformation_mode="half_pixel", mode='
CORNERS = 'axes=[2,3], mode="linear", coordinate_transformation_mode="align_corners"'
RESIZES = [
    resize("nearest", ASYMMETRIC, None, [1, 1, 2, 2], scale_factor=2),
    resize("nearest to sizes", "axes=[2,3], " + ASYMMETRIC, [7, 3], None, size=(7, 3)),
    resize("linear", HALF + '"linear"', [9, 4], None, size=(9, 4), mode="bilinear"),
    resize("linear by scale", HALF + '"linear"', None, [2.5, 1], mode="bilinear", scale_factor=(2.5, 1)),
    resize("linear, corners aligned", CORNERS, [7, 6], None, size=(7, 6), mode="bilinear",
           align_corners=True),
    resize("cubic", HALF + '"cubic", cubic_coeff_a=-0.75', [7, 9], None, size=(7, 9), mode="bicubic"),
]  # fmt: skip

GRID = np.random.default_rng(5).uniform(-1.3, 1.3, (3, 4, 2)).astype(np.float32)


def grid_sample(attributes: str, **options) -> Case:
    """One grid for all, some of it outside the image. options: as for torch's grid_sample."""
    return Case(f"GridSample {attributes}",
                f"s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, r) m = Expand(q, t) "
                f"y = GridSample<{attributes}>(x, m)", (2, 5, 6),
                lambda x, r, q: F.grid_sample(x, q.expand(len(x), -1, -1, -1), **options),
                {"r": [3, 4, 2], "q": GRID[None]})  # fmt: skip


def grid_from_x(x, corners, padding):
    grid = (x[:, :, :3, :4].permute(0, 2, 3, 1) * 0.7).sin() * 1.1
    return F.grid_sample(x, grid, align_corners=corners, padding_mode=padding)


def moving_grid(attributes: str, corners: bool, padding: str = "zeros") -> Case:
    return Case(f"GridSample at places that depend on x, {attributes}",
                "c = Slice(x, b, e, a) p = Transpose<perm=[0,2,3,1]>(c) q = Mul(p, w) s = Sin(q) "
                f"g = Mul(s, v) y = GridSample<{attributes}>(x, g)", (2, 5, 6),
                lambda x, **_: grid_from_x(x, corners, padding),
                {"b": [0, 0], "e": [3, 4], "a": [2, 3], "w": np.float32(0.7),
                 "v": np.float32(1.1)})  # fmt: skip


GRIDS = [
    grid_sample("align_corners=0", align_corners=False),
    grid_sample("align_corners=1", align_corners=True),
    grid_sample('padding_mode="border"', align_corners=False, padding_mode="border"),
    grid_sample('mode="nearest"', align_corners=False, mode="nearest"),
    moving_grid("align_corners=0", False),
    moving_grid("align_corners=1", True),
    moving_grid('padding_mode="border"', False, "border"),
]


def lstm_of(x, w, r, b=None, h=None, c=None, *, reverse=(False,)):
    """ONNX's LSTM (gates i, o, f, u) of x (N, T, inputs) -> (N, T, directions, hidden)."""
    sides = []
    for d, backwards in enumerate(reverse):
        width = r.shape[2]
        hidden = x.new_zeros(len(x), width) if h is None else h[d].expand(len(x), -1)
        cell = x.new_zeros(len(x), width) if c is None else c[d].expand(len(x), -1)
        seen = []
        for t in sorted(range(x.shape[1]), reverse=backwards):
            gates = x[:, t] @ w[d].T + hidden @ r[d].T
            gates = gates if b is None else gates + b[d].reshape(2, -1).sum(0)
            i, o, f = torch.sigmoid(gates[:, : 3 * width]).chunk(3, 1)
            cell = f * cell + i * torch.tanh(gates[:, 3 * width :])
            hidden = o * torch.tanh(cell)
            seen.append(hidden)
        sides.append(torch.stack(seen[::-1] if backwards else seen, 1))
    return torch.stack(sides, 2)


def lstm(name: str, reverse: tuple[bool, ...]) -> Case:
    d = len(reverse)
    return Case(f"LSTM {name}", "t = Transpose<perm=[1,0,2]>(x) "
                f'v, h, c = LSTM<hidden_size=3, direction="{name}">(t, w, r, b) '
                "y = Transpose<perm=[2,0,1,3]>(v)",
                (5, 4), partial(lstm_of, reverse=reverse),
                {"w": (d, 12, 4), "r": (d, 12, 3), "b": (d, 24)})  # fmt: skip


RECURRENT = [
    lstm("forward", (False,)),
    lstm("reverse", (True,)),
    lstm("bidirectional", (False, True)),
    Case("LSTM with a state to begin with", "t = Transpose<perm=[1,0,2]>(x) s = Shape<start=0, end=1>(x) "
         "e = Concat<axis=0>(one, s, k) m = Expand(h, e) n = Expand(c, e) "
         "v, p, q = LSTM<hidden_size=3>(t, w, r, , , m, n) y = Transpose<perm=[2,0,1,3]>(v)", (5, 4),
         lambda x, w, r, h, c, **_: lstm_of(x, w, r, None, h, c),
         {"w": (1, 12, 4), "r": (1, 12, 3), "h": (1, 1, 3), "c": (1, 1, 3), "one": [1], "k": [3]}),
]  # fmt: skip

CASES = [
    *CONVOLUTIONS, *MATRICES, *ARITHMETIC, *ELEMENTWISE, *REDUCTIONS, *POOLS, *LP, *NORMALISATIONS, *SHAPES,
    *RESIZES, *GRIDS, *RECURRENT,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, question, errors_by_row):
    model, network = case.model_and_network()
    asked = question.draw((8, *case.shape), CLASSES, low=case.low, high=case.high)
    logits, value, grad = asked.ask_onnx(differentiate(model))
    torch_logits, torch_value, torch_grad = asked.ask_torch(network)

    assert errors_by_row(logits, torch_logits).max() < 1e-5
    np.testing.assert_allclose(value, torch_value, rtol=1e-4, atol=1e-4)
    assert np.abs(torch_grad).max() > 1e-3
    assert errors_by_row(grad, torch_grad).max() < 2e-5

    direction = torch.from_numpy(np.random.default_rng(9).standard_normal(asked.x.shape))
    slopes = asked.ask_differences(network, direction)  # summed: some cases mix examples
    np.testing.assert_allclose((grad * direction.numpy()).sum(), slopes.sum(), rtol=1e-4, atol=1e-4)


def test_every_rule_has_a_case():
    used = {node.op_type for case in CASES for node in case.model_and_network()[0].graph.node}
    assert set(RULES) - {"QuantizeLinear", "DequantizeLinear"} <= used  # test_quantised.py has those
