"""Pooling over windows and over everything."""

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import NodeProto, TensorProto, helper

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.convolution import Window
from dra_serve.gradient_graph.rules.reductions import or_zero
from dra_serve.gradient_graph.rules.registry import Share, attributes, like, rule


@rule("MaxPool")
def max_pool(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Pool again for the winners' places, which count over the whole batch, and add g there."""
    x = node.input[0]
    kept = {name: value for name, value in attributes(node).items() if name != "storage_order"}

    def share() -> str:
        places = G("MaxPool", x, outputs=2, take=1, **kept)
        zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
        nothing = G("ConstantOfShape", G("Reshape", G("Size", x), [1]), value=zero)
        flat = G(
            "ScatterElements", nothing, G("Reshape", places, [-1]), G("Reshape", g, [-1]), reduction="add"
        )
        return like(G, flat, x)

    return [share]


@rule("AveragePool")
def average_pool(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Each window hands out g / (what it counted), through a depthwise kernel of ones."""
    given = attributes(node)
    window = Window.of(G, node, list(given["kernel_shape"]))
    inputs, outputs = (G.sizes(node, name, 2) for name in (node.input[0], node.output[0]))
    (channels,) = G.sizes(node, node.input[0], 1)[:1]
    if given.get("count_include_pad", 0):
        ends = list(given.get("pads", [0] * 2 * len(inputs)))[len(inputs) :]
        if given.get("auto_pad", "NOTSET") != "NOTSET":
            ends = [max(over, 0) for over in window.over]
    else:
        ends = [0] * len(inputs)
    counts = np.ones((1, 1, *[1] * len(inputs)), np.float32)
    for axis in range(len(inputs)):
        first = -window.begins[axis] if given.get("count_include_pad", 0) else 0
        past = inputs[axis] + ends[axis]
        starts = np.arange(outputs[axis]) * window.strides[axis] - window.begins[axis]
        places = starts[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
        counted = ((places >= first) & (places < past)).sum(axis=1)
        counts = counts * counted.astype(np.float32).reshape(
            [-1 if i == axis + 2 else 1 for i in range(len(inputs) + 2)]
        )
    ones = np.ones((channels, 1, *window.kernel), np.float32)
    return [lambda: window.spread(G, G("Div", g, counts), G.constant(ones), channels)]


@rule("GlobalAveragePool")
def global_average_pool(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x = node.input[0]
    pixels = prod(G.sizes(node, x, 2))
    return [lambda: G("Expand", G("Mul", g, 1 / pixels), G("Shape", x))]


@rule("LpPool")
def lp_pool(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """y = (sum |x|^p)^(1/p): sign(x) |x|^(p-1) times the sum of g y^(1-p) over the windows that hold x."""
    given, x, y = attributes(node), node.input[0], node.output[0]
    window, order = Window.of(G, node, list(given["kernel_shape"])), int(given.get("p", 2))
    (channels,) = G.sizes(node, x, 1)[:1]
    ones = np.ones((channels, 1, *window.kernel), np.float32)
    return [
        lambda: _of_power(G, x, order, window.spread(G, _by_norm(G, g, y, order), G.constant(ones), channels))
    ]


@rule("GlobalLpPool")
def global_lp_pool(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, y, order = node.input[0], node.output[0], int(attributes(node).get("p", 2))
    return [lambda: _of_power(G, x, order, _by_norm(G, g, y, order))]


def _by_norm(G: Graph, g: str, y: str, order: int) -> str:
    """Return g y^(1-p), zero where the norm is."""
    return or_zero(G, G("Mul", g, G("Pow", y, float(1 - order))), y)


def _of_power(G: Graph, x: str, order: int, share: str) -> str:
    if order == 2:
        return G("Mul", x, share)
    return G("Mul", share, G("Mul", G("Sign", x), G("Pow", G("Abs", x), float(order - 1))))


@rule("GlobalMaxPool")
def global_max_pool(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Equal winners share."""
    x, y = node.input[0], node.output[0]

    def share() -> str:
        wins = G("CastLike", G("Equal", x, y), g)
        winners = G("ReduceSum", wins, list(range(2, len(G.shape[x]))), keepdims=1)
        return G("Mul", wins, G("Div", g, winners))

    return [share]
