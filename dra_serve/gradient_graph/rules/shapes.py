"""Operators that move, copy or drop elements."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import (
    Share,
    attributes,
    axis_of,
    like,
    refuse,
    rule,
    unbroadcast,
)


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    return [lambda: like(G, g, node.input[0])]


@rule("Transpose")
def transpose(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    order = attributes(node).get("perm", list(range(len(G.shape[node.input[0]])))[::-1])
    return [lambda: G("Transpose", g, perm=np.argsort(order).tolist())]


@rule("Expand")
def expand(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    return [lambda: unbroadcast(G, g, node.output[0], node.input[0])]


@rule("Tile")
def tile(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Split each repeated axis into (copies, size) and sum over the copies."""
    x = node.input[0]
    repeats = G.argument(node, 1)
    assert repeats is not None  # Tile has repeats
    split: list[int] = []
    copies: list[int] = []
    for axis, times in enumerate(repeats.tolist()):
        if times != 1:
            copies.append(len(split))
            split.append(times)
        size = G.shape[x][axis]
        split.append(size if isinstance(size, int) else -1)
    if split.count(-1) > 1:
        raise refuse(node, "two axes follow the batch")
    return [lambda: G("ReduceSum", G("Reshape", g, split), copies, keepdims=0) if copies else g]


@rule("Concat")
def concat(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    axis = axis_of(node, len(G.shape[node.output[0]]), default=0)
    ends = np.cumsum([size_of(G, node, name, axis) for name in node.input]).tolist()
    starts = [0, *ends[:-1]]
    return [partial(G, "Slice", g, [s], [e], [axis]) for s, e in zip(starts, ends, strict=True)]


@rule("Split", every_output=True)
def split(G: Graph, node: NodeProto, arriving: list[str | None]) -> Sequence[Share]:
    """An output that nothing used gets zeros."""
    axis = axis_of(node, len(G.shape[node.input[0]]), default=0)

    def share() -> str:
        pairs = zip(arriving, node.output, strict=True)
        return G("Concat", *(g or G("Expand", 0.0, G("Shape", y)) for g, y in pairs), axis=axis)

    return [share]


@rule("Pad")
def pad(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x = node.input[0]
    rank, mode = len(G.shape[x]), attributes(node).get("mode", "constant")
    given, axes = G.argument(node, 1), G.argument(node, 3)
    assert given is not None  # Pad has pads
    pads = np.zeros((2, rank), np.int64)
    pads[:, slice(None) if axes is None else axes] = given.reshape(2, -1)
    if mode == "constant":
        return [lambda: G("Pad", g, (-pads).reshape(-1))]

    def share() -> str:
        result = g
        for axis in np.flatnonzero(pads.any(axis=0)).tolist():
            size = size_of(G, node, x, axis)
            copied = np.pad(np.arange(size), tuple(pads[:, axis]), mode=mode)
            result = put_back(G, result, rank, axis, copied, size)
        return result

    return [share]


@rule("Slice")
def slice_(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    x, rank = node.input[0], len(G.shape[node.input[0]])
    starts, ends, axes, steps = (G.argument(node, place) for place in (1, 2, 3, 4))
    assert starts is not None  # Slice has starts
    assert ends is not None  # and ends
    axes = np.arange(len(starts)) if axes is None else axes % rank
    steps = np.ones_like(starts) if steps is None else steps

    def share() -> str:
        result = g
        pads = np.zeros((2, rank), np.int64)
        for start, end, axis, step in zip(*(a.tolist() for a in (starts, ends, axes, steps)), strict=True):
            if G.shape[x][axis] == G.shape[node.output[0]][axis] and step == 1:
                continue  # everything is kept
            size = size_of(G, node, x, axis)
            low, high, _ = slice(start, end, step).indices(size)
            if step == 1:
                pads[:, axis] = low, size - max(high, low)
            else:
                result = put_back(G, result, rank, axis, np.arange(size)[start:end:step], size)
        return G("Pad", result, pads.reshape(-1)) if pads.any() else result

    return [share]


def size_of(G: Graph, node: NodeProto, name: str, axis: int) -> int:
    size = G.shape[name][axis]
    if not isinstance(size, int):
        raise refuse(node, f"axis {axis} follows the batch")
    return size


def put_back(G: Graph, g: str, rank: int, axis: int, index: np.ndarray[Any, Any], size: int) -> str:
    """Return the gradient of x where y = x[index] along `axis` of `size`: what was copied is added up.

    A row of zeros is appended to g; each element of x gathers its copies, or that row, and sums them.
    rank: of g and x.
    """
    if (np.diff(index) == 1).all():  # one stretch: zeros before and after it are all that is missing
        return _zeros_around(G, g, rank, axis, int(index[0]), size - 1 - int(index[-1]))
    copies = [np.flatnonzero(index == i) for i in range(size)]
    most = max(map(len, copies))
    if {len(c) for c in copies} == {1}:  # a permutation, as from RGB to BGR
        return G("Gather", g, np.concatenate(copies), axis=axis)
    places = np.array([[*c, *[len(index)] * (most - len(c))] for c in copies], np.int64)
    padded = _zeros_around(G, g, rank, axis, 0, 1)
    return G("ReduceSum", G("Gather", padded, places, axis=axis), [axis + 1], keepdims=0)


def _zeros_around(G: Graph, g: str, rank: int, axis: int, before: int, after: int) -> str:
    """Pad one axis, written with the pads of every axis: where Pad names its axes, ONNX Runtime 1.32 asks
    for indices out of range when it moves a Transpose across."""
    pads = np.zeros((2, rank), np.int64)
    pads[:, axis] = before, after
    return G("Pad", g, pads.reshape(-1))


@rule("Trilu")
def trilu(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    return [lambda: G("Trilu", g, *node.input[1:], upper=int(attributes(node).get("upper", 1)))]


@rule("DepthToSpace")
def depth_to_space(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    given = attributes(node)
    b = int(given["blocksize"])
    if given.get("mode", "DCR") == "DCR":
        return [lambda: G("SpaceToDepth", g, blocksize=b)]
    channels, height, width = G.sizes(node, node.input[0], 1)

    def share() -> str:
        blocks = G("Reshape", g, [-1, channels // b**2, height, b, width, b])
        return G("Reshape", G("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4]), [-1, channels, height, width])

    return [share]


@rule("SpaceToDepth")
def space_to_depth(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    return [lambda: G("DepthToSpace", g, blocksize=int(attributes(node)["blocksize"]))]
