"""Operators that pick elements by index, or put them."""

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
    if places in G.active:
        raise refuse(node, "the indices depend on x")
    if indices is None or not isinstance(G.shape[x][axis], int):
        return [lambda: _scattered(G, g, node, axis)]
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
    """Return the share of a Gather along the batch, or by it: g is added up where it came from."""
    x, places = node.input
    if axis:
        raise refuse(node, "indices that follow the batch, along another axis than the first")
    zeros = G("Expand", 0.0, G("Shape", x))
    return G("ScatterND", zeros, G("Unsqueeze", places, [-1]), g, reduction="add")


@rule("GatherND")
def gather_nd(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, places = node.input
    if attributes(node).get("batch_dims", 0) or places in G.active:
        raise refuse(node, "batch_dims, or indices that depend on x")
    return [lambda: G("ScatterND", G("Expand", 0.0, G("Shape", x)), places, g, reduction="add")]


@rule("GatherElements")
def gather_elements(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, places = node.input
    axis = axis_of(node, len(G.shape[x]), default=0)
    if places in G.active:
        raise refuse(node, "the indices depend on x")
    return [
        lambda: G("ScatterElements", G("Expand", 0.0, G("Shape", x)), places, g, axis=axis, reduction="add")
    ]


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
    """Raise NoDerivative where the last of several updates of one place would win."""
    indices = G.fixed(node.input[1])
    if how == "none" and indices is not None:
        rows: np.ndarray[Any, Any] = indices.reshape(-1, indices.shape[-1])
        if len(np.unique(rows, axis=0)) == len(rows):
            return
    if how != "add":
        raise refuse(node, f"reduction {how} with indices that are not known to differ")


@rule("CumSum")
def cumulative_sum(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    given = attributes(node)
    exclusive, backwards = int(given.get("exclusive", 0)), int(given.get("reverse", 0))
    return [lambda: G("CumSum", g, node.input[1], exclusive=exclusive, reverse=1 - backwards)]
