"""Operators that pick elements by index, or put them.

An index that depends on x (a TopK, an ArgMax) is constant but for jumps: it gets nothing, as in torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, axis_of, refuse, rule
from dra_serve.gradient_graph.rules.shapes import put_back, size_of


@rule("Gather")
def gather(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, places = node.input
    axis = axis_of(node, len(G.shape[x]), default=0)
    indices = G.fixed(places)
    if indices is None or not isinstance(G.shape[x][axis], int):
        return [lambda: _scattered(G, g, node, axis), None]
    size = size_of(G, node, x, axis)
    indices = indices % size

    def share() -> str:
        flat = g
        if indices.ndim == 0:
            flat = G("Unsqueeze", g, [axis])
        elif indices.ndim > 1:
            after = G.sizes(node, x, axis + 1)
            flat = G("Reshape", g, [*[0] * axis, indices.size, *after])
        return put_back(G, flat, len(G.shape[x]), axis, indices.reshape(-1), size)

    return [share]


def _scattered(G: Graph, g: str, node: NodeProto, axis: int) -> str:
    """Return the share of a Gather whose places are known at run time: g is added up where it came from.

    ScatterND counts along the first axes: what was picked along is moved there, and back.
    """
    x, places = node.input
    rank, wide = len(G.shape[x]), len(G.shape[places])
    zeros = G("Expand", 0.0, G("Shape", x))
    if axis == 0:
        return G("ScatterND", zeros, G("Unsqueeze", places, [-1]), g, reduction="add")
    to_front = [axis, *(i for i in range(rank) if i != axis)]
    picked = list(range(axis, axis + wide))
    moved = G("Transpose", g, perm=[*picked, *(i for i in range(rank + wide - 1) if i not in picked)])
    added = G(
        "ScatterND",
        G("Transpose", zeros, perm=to_front),
        G("Unsqueeze", places, [-1]),
        moved,
        reduction="add",
    )
    return G("Transpose", added, perm=np.argsort(to_front).tolist())


@rule("GatherND")
def gather_nd(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, places = node.input
    if attributes(node).get("batch_dims", 0):
        raise refuse(node, "batch_dims")
    return [lambda: G("ScatterND", G("Expand", 0.0, G("Shape", x)), places, g, reduction="add"), None]


@rule("GatherElements")
def gather_elements(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, places = node.input
    axis = axis_of(node, len(G.shape[x]), default=0)
    return [lambda: _put(G, g, x, places, axis), None]


@rule("TopK")
def top_k(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Each value came from one place of x, which the second output names."""
    x, places = node.input[0], node.output[1]
    return [lambda: _put(G, g, x, places, axis_of(node, len(G.shape[x]), default=-1))]


def _put(G: Graph, g: str, x: str, places: str, axis: int) -> str:
    """Return zeros like x, with each element of g added at its place along `axis`."""
    return G("ScatterElements", G("Expand", 0.0, G("Shape", x)), places, g, axis=axis, reduction="add")


@rule("ScatterElements")
def scatter_elements(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """What was overwritten gets zero; each update gets what lies in its place."""
    x, places, updates = node.input
    axis, how = axis_of(node, len(G.shape[x]), default=0), attributes(node).get("reduction", "none")
    indices = G.fixed(places)
    if how == "none" and (indices is None or not _each_once(indices, axis)):
        raise refuse(node, "indices that are not known to differ")
    if how not in ("none", "add"):
        raise refuse(node, f"reduction {how}")

    def kept() -> str:
        zeros = G("Expand", 0.0, G("Shape", updates))
        return g if how == "add" else G("ScatterElements", g, places, zeros, axis=axis)

    return [kept, None, lambda: G("GatherElements", g, places, axis=axis)]


def _each_once(indices: np.ndarray[Any, Any], axis: int) -> bool:
    if indices.min(initial=0) < 0 <= indices.max(initial=0):  # counted from both ends: they may meet
        return False
    ordered = np.sort(indices, axis=axis)
    return bool((np.diff(ordered, axis=axis) != 0).all())


@rule("ScatterND")
def scatter_nd(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """What was overwritten gets zero; each update gets what lies in its place."""
    _, places, updates = node.input
    how = attributes(node).get("reduction", "none")
    _each_place_once(G, node, how)

    def kept() -> str:
        return g if how == "add" else G("ScatterND", g, places, G("Expand", 0.0, G("Shape", updates)))

    return [kept, None, lambda: G("GatherND", g, places)]


def _each_place_once(G: Graph, node: NodeProto, how: str) -> None:
    """Raise NoDerivative where the last of several updates of one place would win.

    Places that follow the batch are counted up by it: those that differ at the sizes tried always do.
    """
    tried = G.tried(node.input[1])
    if how == "none" and tried and all(_differ(indices) for indices in tried):
        return
    if how != "add":
        raise refuse(node, f"reduction {how} with indices that are not known to differ")


def _differ(indices: np.ndarray[Any, Any]) -> bool:
    rows: np.ndarray[Any, Any] = indices.reshape(-1, indices.shape[-1])
    return len(np.unique(rows, axis=0)) == len(rows) and not (rows.min(initial=0) < 0 <= rows.max(initial=0))


@rule("CumSum")
def cumulative_sum(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    given = attributes(node)
    exclusive, backwards = int(given.get("exclusive", 0)), int(given.get("reverse", 0))
    return [lambda: G("CumSum", g, node.input[1], exclusive=exclusive, reverse=1 - backwards)]
