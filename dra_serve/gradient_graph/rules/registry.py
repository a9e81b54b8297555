"""The table of rules and what most of them use."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from onnx import NodeProto, helper

from dra_serve.errors import NoDerivative
from dra_serve.gradient_graph.graph import Graph

Share: TypeAlias = Callable[[], str] | None
"""Makes the nodes of one input's share and returns its name; None where the share is zero by right."""

Rule: TypeAlias = Callable[[Graph, NodeProto, Any], Sequence[Share]]
"""(graph, node, gradient of its output) -> one Share an input.

Shares are called for inputs that depend on x only. An input past the end of the list must not depend
on x: the pass refuses. The rules of EVERY_OUTPUT take a list, a gradient or None for each output; to the
others a gradient comes at the first output alone.
"""

RULES: dict[str, Rule] = {}
EVERY_OUTPUT: set[str] = set()


def rule(*operators: str, every_output: bool = False) -> Callable[[Rule], Rule]:
    """Register the decorated function for `operators`."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        EVERY_OUTPUT.update(operators if every_output else ())
        return function

    return register


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the node's attributes as Python values; texts are str."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in values.items()}


def refuse(node: NodeProto, detail: str) -> NoDerivative:
    """Return the error to raise for an attribute or form that has no rule."""
    return NoDerivative(node.op_type, node.name, detail)


def axis_of(node: NodeProto, rank: int, default: int) -> int:
    """Return the node's `axis`, counted from the front."""
    axis = int(attributes(node).get("axis", default))
    return axis + rank if axis < 0 else axis


def like(G: Graph, g: str, name: str) -> str:
    """Return `g` in the shape of the forward value `name`: same elements, same order."""
    return G("Reshape", g, G("Shape", name))


def unbroadcast(G: Graph, g: str, result: str, operand: str) -> str:
    """Sum `g`, shaped like `result`, over the axes along which `operand` was repeated."""
    big, small = G.shape[result], G.shape[operand]
    extra = len(big) - len(small)
    repeated = [i for i, d in enumerate(small, start=extra) if d == 1 and big[i] != 1]
    if repeated:
        g = G("ReduceSum", g, repeated, keepdims=1)
    return G("ReduceSum", g, list(range(extra)), keepdims=0) if extra else g
