"""Quantised values: rounding has no useful derivative, so it is passed straight through, and that is said."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule

STRAIGHT_THROUGH = ("QuantizeLinear",)
"""Operators whose rule is no derivative. A gradient graph that used one names it in its metadata."""

INTEGER_ARITHMETIC = ("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "DynamicQuantizeLinear")
"""Operators of quantised networks that have no rule, and must not pass for indices or masks."""


@rule("QuantizeLinear")
def quantize(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """y = saturate(round(x / scale) + zero), taken for x / scale + zero where it does not saturate.

    The derivative is zero almost everywhere. This is the straight-through estimate of Bengio et al. 2013,
    with torch's fake_quantize: nothing passes where the value leaves the range; for attacks it is BPDA,
    Athalye et al. 2018, section 4.1.
    """
    x, _, zero = [*node.input, ""][:3]
    kind = G.type[node.output[0]]
    if not np.issubdtype(kind, np.integer) or attributes(node).get("block_size", 0):
        raise refuse(node, f"to {kind}, or in blocks")
    scale = _along_axis(G, node, node.input[1])
    low, high = float(np.iinfo(kind).min), float(np.iinfo(kind).max)

    def share() -> str:
        rounded = G("Round", G("Div", x, scale))
        if zero:
            rounded = G("Add", rounded, G("CastLike", _along_axis(G, node, zero), rounded))
        inside = G("And", G("GreaterOrEqual", rounded, low), G("LessOrEqual", rounded, high))
        return G("Where", inside, G("Div", g, scale), 0.0)

    return [share]


@rule("DequantizeLinear")
def dequantize(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """y = (x - zero) scale: linear, but for a gradient at integers, which is a float32 here."""
    if attributes(node).get("block_size", 0):
        raise refuse(node, "in blocks")
    return [lambda: G("Mul", g, _along_axis(G, node, node.input[1]))]


def _along_axis(G: Graph, node: NodeProto, values: str) -> str:
    """Return one value, or one a slice along the node's axis, in a shape that meets x."""
    if int(np.prod(G.sizes(node, values))) == 1:
        return G("Reshape", values, np.array([], np.int64))
    rank = len(G.shape[node.input[0]])
    axis = int(attributes(node).get("axis", 1)) % rank
    return G("Reshape", values, [-1 if i == axis else 1 for i in range(rank)])
