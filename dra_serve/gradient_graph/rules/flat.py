"""Operators that are constant but for jumps: their derivative is zero, as torch has it.

A network whose values pass through them on the way is attacked along its other ways; where there is no
other, the reverse pass refuses. Which operators stopped a gradient stands in the gradient graph's metadata.
"""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.quantised import INTEGER_ARITHMETIC
from dra_serve.gradient_graph.rules.registry import Share, refuse, rule

FLAT = ("Round", "Floor", "Ceil", "Sign", "Hardmax", "OneHot", "Cast")
"""Operators that may stop a gradient, which is then said."""


@rule("Round", "Floor", "Ceil", "Sign", "Hardmax")
def flat(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    return [None]


@rule("OneHot")
def one_hot(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """The places get nothing; the two values must not depend on x."""
    return [None, None]


@rule("Cast")
def cast(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """From floats to floats; what is an integer or a bool on either side is a place, a mask or a rounding.

    Integers that a quantised network calculates with are none of these: refused, as they would hide it.
    """
    source, result = G.type[node.input[0]], G.type[node.output[0]]
    if np.issubdtype(source, np.floating) and np.issubdtype(result, np.floating):
        return [lambda: g]  # gradients are float32 everywhere
    if quantised := _integer_arithmetic_behind(G, node.input[0]):
        raise refuse(node, f"from {source} to {result}, of what {quantised} calculates")
    return [None]


def _integer_arithmetic_behind(G: Graph, name: str) -> str | None:
    """Return the operator of a quantised network that the integers or bools `name` come from, if one is."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop()
        node = G.producer.get(name)
        if name in seen or node is None or np.issubdtype(G.type[name], np.floating):
            continue
        if node.op_type in INTEGER_ARITHMETIC:
            return str(node.op_type)
        seen.add(name)
        waiting += [value for value in node.input if value in G.active]
    return None
