"""Reductions along axes, and softmax."""

from collections.abc import Callable, Sequence

from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, axis_of, rule

# With g and y given back their reduced axes: the share of every element of x.
REDUCTIONS: dict[str, Callable[[Graph, str, str, str, list[int]], str]] = {
    "ReduceSum": lambda G, g, x, y, axes: g,
    "ReduceMean": lambda G, g, x, y, axes: G("Div", g, _count(G, x, g)),
    "ReduceSumSquare": lambda G, g, x, y, axes: G("Mul", g, G("Mul", x, 2.0)),
    "ReduceL1": lambda G, g, x, y, axes: G("Mul", g, G("Sign", x)),
    "ReduceL2": lambda G, g, x, y, axes: G("Mul", x, or_zero(G, G("Div", g, y), y)),
    "ReduceLogSumExp": lambda G, g, x, y, axes: G("Mul", g, G("Exp", G("Sub", x, y))),
    "ReduceProd": lambda G, g, x, y, axes: G("Mul", g, _product_of_others(G, x, axes)),
    "ReduceMax": lambda G, g, x, y, axes: _winners(G, g, x, y, axes),
    "ReduceMin": lambda G, g, x, y, axes: _winners(G, g, x, y, axes),
}


def _register(operator: str, share_of: Callable[[Graph, str, str, str, list[int]], str]) -> None:
    @rule(operator)
    def reduction(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
        x, y = node.input[0], node.output[0]
        axes = _axes(G, node)

        def share() -> str:
            kept = attributes(node).get("keepdims", 1) or not axes
            wide_g, wide_y = (g, y) if kept else (G("Unsqueeze", g, axes), G("Unsqueeze", y, axes))
            return G("Expand", share_of(G, wide_g, x, wide_y, axes), G("Shape", x))

        return [share]


for _operator, _share_of in REDUCTIONS.items():
    _register(_operator, _share_of)


def _axes(G: Graph, node: NodeProto) -> list[int]:
    """Return the reduced axes, counted from the front; an attribute before opset 18, then an input."""
    rank = len(G.shape[node.input[0]])
    given = G.argument(node, 1)
    axes = attributes(node).get("axes", []) if given is None else given.tolist()
    if not axes and not attributes(node).get("noop_with_empty_axes", 0):
        return list(range(rank))
    return sorted(axis % rank for axis in axes)


def _count(G: Graph, x: str, reduced: str) -> str:
    """Return how many elements of x went into one of `reduced`, as a float."""
    return G("CastLike", G("Div", G("Size", x), G("Size", reduced)), reduced)


def _product_of_others(G: Graph, x: str, axes: list[int]) -> str:
    """Return for each element the product of the others: beside one zero nothing but its own is left, beside
    two nothing is."""
    is_zero = G("Equal", x, 0.0)
    zeros = G("ReduceSum", G("CastLike", is_zero, x), axes, keepdims=1)
    rest = G("ReduceProd", G("Where", is_zero, 1.0, x), axes, keepdims=1)
    own = G("Where", G("Equal", zeros, 1.0), rest, 0.0)
    return G("Where", is_zero, own, G("Where", G("Equal", zeros, 0.0), G("Div", rest, x), 0.0))


def or_zero(G: Graph, share: str, norm: str) -> str:
    """Return `share`, and zero where the norm it was divided by is zero, as torch has it."""
    return G("Where", G("Greater", norm, 0.0), share, 0.0)


def _winners(G: Graph, g: str, x: str, y: str, axes: list[int]) -> str:
    """Equal extremes share, as in torch.amax."""
    wins = G("CastLike", G("Equal", x, y), g)
    return G("Mul", wins, G("Div", g, G("ReduceSum", wins, axes, keepdims=1)))


@rule("Softmax")
def softmax(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    y = node.output[0]
    axis = axis_of(node, len(G.shape[y]), default=-1)
    return [lambda: G("Mul", y, G("Sub", g, G("ReduceSum", G("Mul", g, y), [axis], keepdims=1)))]


@rule("LogSoftmax")
def log_softmax(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    y = node.output[0]
    axis = axis_of(node, len(G.shape[y]), default=-1)
    return [lambda: G("Sub", g, G("Mul", G("Exp", y), G("ReduceSum", g, [axis], keepdims=1)))]
