"""Operators that act on each element by itself."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule

# f(x) = y. Each entry writes f'(x) g, from x or from y, whichever is shorter.
UNARY: dict[str, Callable[[Graph, str, str, str], str]] = {
    "Identity": lambda G, g, x, y: g,
    "Neg": lambda G, g, x, y: G("Neg", g),
    "Abs": lambda G, g, x, y: G("Mul", g, G("Sign", x)),
    "Exp": lambda G, g, x, y: G("Mul", g, y),
    "Log": lambda G, g, x, y: G("Div", g, x),
    "Sqrt": lambda G, g, x, y: G("Div", G("Mul", g, 0.5), y),
    "Reciprocal": lambda G, g, x, y: G("Neg", G("Mul", g, G("Mul", y, y))),
    "Sin": lambda G, g, x, y: G("Mul", g, G("Cos", x)),
    "Cos": lambda G, g, x, y: G("Neg", G("Mul", g, G("Sin", x))),
    "Tan": lambda G, g, x, y: G("Mul", g, G("Add", _square(G, y), 1.0)),
    "Asin": lambda G, g, x, y: G("Div", g, G("Sqrt", _one_minus_square(G, x))),
    "Acos": lambda G, g, x, y: G("Neg", G("Div", g, G("Sqrt", _one_minus_square(G, x)))),
    "Atan": lambda G, g, x, y: G("Div", g, G("Add", _square(G, x), 1.0)),
    "Sinh": lambda G, g, x, y: G("Mul", g, G("Cosh", x)),
    "Cosh": lambda G, g, x, y: G("Mul", g, G("Sinh", x)),
    "Asinh": lambda G, g, x, y: G("Div", g, G("Sqrt", G("Add", _square(G, x), 1.0))),
    "Acosh": lambda G, g, x, y: G("Div", g, G("Sqrt", G("Sub", _square(G, x), 1.0))),
    "Atanh": lambda G, g, x, y: G("Div", g, _one_minus_square(G, x)),
    "Relu": lambda G, g, x, y: _relu(G, g, y),
    "Sigmoid": lambda G, g, x, y: G("Mul", g, G("Mul", y, one_minus_gate(G, y))),
    "Tanh": lambda G, g, x, y: G("Mul", g, _one_minus_square(G, y)),
    "Erf": lambda G, g, x, y: G(
        "Mul", g, G("Mul", G("Exp", G("Neg", G("Mul", x, x))), 2 / math.sqrt(math.pi))
    ),
    "Softplus": lambda G, g, x, y: G("Mul", g, G("Sigmoid", x)),
    "Softsign": lambda G, g, x, y: G("Mul", g, _square(G, _one_minus(G, G("Abs", y)))),
    "HardSwish": lambda G, g, x, y: _inside(
        G, x, -3.0, 3.0, G("Mul", g, G("Add", G("Mul", x, 1 / 3), 0.5)), G("Where", G("Less", x, 0.0), 0.0, g)
    ),
    "Mish": lambda G, g, x, y: _mish(G, g, x),
}


def _register_unary(operator: str, derivative: Callable[[Graph, str, str, str], str]) -> None:
    @rule(operator)
    def unary(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
        return [lambda: derivative(G, g, node.input[0], node.output[0])]


for _operator, _derivative in UNARY.items():
    _register_unary(_operator, _derivative)


def _square(G: Graph, a: str) -> str:
    return G("Mul", a, a)


def _one_minus(G: Graph, a: str) -> str:
    return G("Sub", 1.0, a)


def one_minus_gate(G: Graph, s: str) -> str:
    """Return 1 - s for s in [0, 1], by an operator of ONNX Runtime's blocked layout; Sub is none."""
    return G("HardSigmoid", s, alpha=-1.0, beta=1.0) if G.type[s] == np.float32 else _one_minus(G, s)


def _relu(G: Graph, g: str, y: str) -> str:
    """Before a convolution a product with the step of y, clip(3e38 y, 0, 1), exact for every normal y:
    ONNX Runtime has it in its blocked layout, unlike Where.

    Elsewhere Where, as 0 times an infinite g (that of Sqrt at 0) is not 0.
    """
    readers = {node.op_type for node in G.readers.get(y, ())}
    if G.type[y] == np.float32 and "Conv" in readers and readers <= {"Conv", "Add"}:
        return G("Mul", g, G("HardSigmoid", y, alpha=3e38, beta=0.0))
    return G("Where", G("Greater", y, 0.0), g, 0.0)


def _one_minus_square(G: Graph, a: str) -> str:
    return _one_minus(G, _square(G, a))


def _inside(G: Graph, x: str, low: float | str, high: float | str, inside: str, outside: str | float) -> str:
    return G("Where", G("And", G("GreaterOrEqual", x, low), G("LessOrEqual", x, high)), inside, outside)


def _mish(G: Graph, g: str, x: str) -> str:
    """x t with t = tanh(softplus(x)): t + x sigmoid(x) (1 - t^2)."""
    t = G("Tanh", G("Softplus", x))
    slope = G("Mul", G("Mul", x, G("Sigmoid", x)), _one_minus_square(G, t))
    return G("Mul", g, G("Add", t, slope))


@rule("LeakyRelu")
def leaky_relu(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    alpha = float(attributes(node).get("alpha", 0.01))
    return [lambda: G("Where", G("Greater", node.input[0], 0.0), g, G("Mul", g, alpha))]


@rule("PRelu")
def prelu(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, slope = node.input
    return [lambda: G("Where", G("Greater", x, 0.0), g, G("Mul", g, slope))]


@rule("Elu", "Celu", "Selu")
def elu(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Below zero y = scale alpha (exp(x / width) - 1), so the slope is (y + scale alpha) / width."""
    given = attributes(node)
    selu = node.op_type == "Selu"
    alpha = float(given.get("alpha", 1.6732632423543772 if selu else 1.0))
    scale = float(given.get("gamma", 1.0507009873554805)) if selu else 1.0
    width = alpha if node.op_type == "Celu" else 1.0
    x, y = node.input[0], node.output[0]
    return [
        lambda: G(
            "Where",
            G("Greater", x, 0.0),
            G("Mul", g, scale),
            G("Mul", g, G("Mul", G("Add", y, scale * alpha), 1 / width)),
        )
    ]


@rule("HardSigmoid")
def hard_sigmoid(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    alpha = float(attributes(node).get("alpha", 0.2))
    y = node.output[0]

    def share() -> str:
        strictly_inside = G("And", G("Greater", y, 0.0), G("Less", y, 1.0))
        return G("Where", strictly_inside, G("Mul", g, alpha), 0.0)

    return [share]


@rule("Clip")
def clip(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Passes g where min <= x <= max, ends included, as torch.clamp does."""
    x, low, high = [*node.input, "", ""][:3]
    return [lambda: _inside(G, x, low or -math.inf, high or math.inf, g, 0.0)]


@rule("Gelu")
def gelu(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """x Phi(x): Phi(x) + x phi(x); with approximate="tanh", Phi(x) = (1 + tanh(u)) / 2."""
    x = node.input[0]
    tanh_form = attributes(node).get("approximate", "none") == "tanh"
    return [lambda: _tanh_gelu(G, g, x) if tanh_form else _erf_gelu(G, g, x)]


def _erf_gelu(G: Graph, g: str, x: str) -> str:
    distribution = G("Mul", G("Add", G("Erf", G("Mul", x, math.sqrt(0.5))), 1.0), 0.5)
    density = G("Mul", G("Exp", G("Mul", _square(G, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return G("Mul", g, G("Add", distribution, G("Mul", x, density)))


def _tanh_gelu(G: Graph, g: str, x: str) -> str:
    """u = c (x + 0.044715 x^3): (1 + t) / 2 + x (1 - t^2) u' / 2 with t = tanh(u)."""
    c, cubic = math.sqrt(2 / math.pi), 0.044715
    square = _square(G, x)
    t = G("Tanh", G("Mul", G("Mul", x, c), G("Add", G("Mul", square, cubic), 1.0)))
    slope_u = G("Add", G("Mul", square, 3 * cubic * c), c)
    bend = G("Mul", G("Mul", x, _one_minus_square(G, t)), slope_u)
    return G("Mul", g, G("Mul", G("Add", G("Add", t, 1.0), bend), 0.5))


@rule("Dropout")
def dropout(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    training = G.argument(node, 2)
    if training is not None and training.any():
        raise refuse(node, "training mode has a random output")
    return [lambda: g]
