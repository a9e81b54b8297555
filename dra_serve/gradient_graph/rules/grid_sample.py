"""Sampling an image at places that may themselves depend on x: spatial transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, like, refuse, rule


@dataclass(frozen=True)
class _Corner:
    """One of the four pixels around each place. flat: row by row, (N, 1, P); weight: of the pixel, zero
    outside the image; slopes: of the weight along (x, y), in pixels; all (N, 1, P)."""

    flat: str
    weight: str
    slopes: tuple[str, str]


@rule("GridSample")
def grid_sample(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Bilinear between four pixels (Jaderberg et al. 2015, equations 5 to 7), or the nearest one.

    Its share of the image goes back to the pixels it came from; its share of the grid is the slope of the
    four weights, and none for the nearest pixel.
    """
    given = attributes(node)
    image, grid = node.input
    mode, padding = given.get("mode", "linear"), given.get("padding_mode", "zeros")
    bilinear, nearest = mode in ("linear", "bilinear"), mode == "nearest"
    if len(G.shape[image]) != 4 or not (bilinear or nearest) or padding not in ("zeros", "border"):
        raise refuse(node, f"mode {mode}, padding_mode {padding}, {len(G.shape[image])} axes")
    height, width = G.sizes(node, image, 2)
    flat_g = G("Reshape", g, [0, 0, -1])

    def to_image() -> str:
        zeros = G("Reshape", G("Expand", 0.0, G("Shape", image)), [0, 0, -1])
        for corner in _corners(G, node, bilinear, height, width):
            added = G("Mul", flat_g, corner.weight)
            places = G("Expand", corner.flat, G("Shape", added))
            zeros = G("ScatterElements", zeros, places, added, axis=2, reduction="add")
        return like(G, zeros, image)

    def to_grid() -> str:
        pixels = G("Reshape", image, [0, 0, -1])
        along = []
        for corner in _corners(G, node, bilinear, height, width):
            seen = G("GatherElements", pixels, G("Expand", corner.flat, G("Shape", flat_g)), axis=2)
            weighed = G("ReduceSum", G("Mul", flat_g, seen), [1], keepdims=1)
            along.append([G("Mul", weighed, slope) for slope in corner.slopes])
        both = [G("Sum", *parts) for parts in zip(*along, strict=True)]
        stacked = G("Transpose", G("Concat", *both, axis=1), perm=[0, 2, 1])
        return like(G, G("Mul", stacked, np.array(_pixels_per_unit(node, height, width), np.float32)), grid)

    return [to_image, to_grid if bilinear else None]


def _corners(G: Graph, node: NodeProto, bilinear: bool, height: int, width: int) -> list[_Corner]:
    padding = attributes(node).get("padding_mode", "zeros")
    lows: list[str] = []  # a pair each: x, y
    offsets: list[str] = []
    inside_of: list[str | None] = []
    for axis, (size, unit) in enumerate(
        zip((width, height), _pixels_per_unit(node, height, width), strict=True)
    ):
        grid = G("Gather", node.input[1], np.array(axis, np.int64), axis=3)
        place = G("Add", G("Mul", G("Reshape", grid, [0, 1, -1]), unit), (size - 1) / 2)
        inside = None
        if padding == "border":
            inside = G("And", G("Greater", place, 0.0), G("Less", place, float(size - 1)))
            place = G("Clip", place, 0.0, float(size - 1))
        lows.append(G("Floor", place) if bilinear else G("Round", place))
        offsets.append(G("Sub", place, lows[-1]))
        inside_of.append(inside)
    if not bilinear:
        flat, present = _pixel(G, lows, (0, 0), height, width)
        return [_Corner(flat, present, (present, present))]
    found = []
    for steps in product((0, 1), (0, 1)):
        flat, present = _pixel(G, lows, steps, height, width)
        parts = [o if s else G("Sub", 1.0, o) for o, s in zip(offsets, steps, strict=True)]
        slopes = []
        for axis in (0, 1):
            slope = G("Mul", parts[1 - axis], present if steps[axis] else G("Neg", present))
            free = inside_of[axis]
            slopes.append(slope if free is None else G("Where", free, slope, 0.0))
        weight = G("Mul", G("Mul", *parts), present)
        found.append(_Corner(flat, weight, (slopes[0], slopes[1])))
    return found


def _pixel(G: Graph, lows: list[str], steps: tuple[int, int], height: int, width: int) -> tuple[str, str]:
    """Return the flat place of the pixel `steps` from `lows`, and 1 where it lies in the image, else 0."""
    x, y = (G("Add", low, float(step)) for low, step in zip(lows, steps, strict=True))
    kept_x, kept_y = G("Clip", x, 0.0, float(width - 1)), G("Clip", y, 0.0, float(height - 1))
    present = G("And", G("Equal", x, kept_x), G("Equal", y, kept_y))
    flat = G("Add", G("Mul", G("Cast", kept_y, to=7), [width]), G("Cast", kept_x, to=7))  # 7: int64
    return flat, G("Cast", present, to=1)  # 1: float32


def _pixels_per_unit(node: NodeProto, height: int, width: int) -> tuple[float, float]:
    """Return by how many pixels (x, y) move for one unit of the grid, which spans -1 to 1."""
    less = 1 if attributes(node).get("align_corners", 0) else 0
    return (width - less) / 2, (height - less) / 2
