"""The gradient through a strided convolution, phase by phase.

With stride s, the elements s m + r of x (for each r < s its phase) meet every s-th tap of the kernel only.
So the gradient at a phase is a small convolution of g at stride 1; all phases together have as many taps
as the kernel, and no product is wasted on zeros. Shi et al. 2016, "Is the deconvolution layer the same as
a convolutional layer?"

ONNX Runtime runs these in its blocked layout, which it has not for ConvTranspose. Two
gradients of one value are added phase by phase, so that the 1x1 shortcut beside a 3x3 kernel costs a quarter
of the additions and no second interleaving.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from dra_serve.gradient_graph.graph import Graph

BLOCK = 16  # channels; ONNX Runtime keeps its blocked layout for multiples of it


@dataclass(frozen=True)
class Phases:
    """A gradient (N, channels, *sizes) in parts, the last axis fastest; None for a phase of zeros."""

    parts: tuple[str | None, ...]
    strides: tuple[int, int]
    channels: int
    sizes: tuple[int, int]


@dataclass(frozen=True)
class Taps:
    """The part of one axis' kernel that a phase meets, last tap first, and the pads of its convolution."""

    last: int
    count: int
    stride: int
    before: int
    after: int

    @classmethod
    def of(cls, phase: int, *, kernel: int, stride: int, begin: int, size: int, out: int) -> "Taps":
        """x[stride m + phase] meets tap `first + stride j` in g[m + ahead - j]; size of x, out of g."""
        ahead, first = divmod(phase + begin, stride)
        count = len(range(first, kernel, stride))
        last, before = first + stride * (count - 1), count - 1 - ahead
        return cls(last, count, stride, before, size // stride + ahead - out)


def turned(G: Graph, weight: str, group: int, taps: Sequence[Taps]) -> str:
    """Return `weight` (M, C / group, *kernel) as (C, M / group, *taps), the taps from last to first.

    Done by nodes that ONNX Runtime folds at load, so that the file holds the kernel once.
    """
    (out, width, *kernel), rank = G.shape[weight], len(taps)
    assert isinstance(out, int)  # `conv` has asked for fixed sizes
    assert isinstance(width, int)
    w = G("Reshape", weight, np.array([group, out // group, width, *kernel]))
    w = G("Transpose", w, perm=[0, 2, 1, *range(3, 3 + rank)])
    w = G("Reshape", w, np.array([group * width, out // group, *kernel]))
    ends = [t.last - t.stride * t.count for t in taps]
    ends = [end if end >= 0 else -(2**62) for end in ends]
    return G(
        "Slice", w, [t.last for t in taps], ends, [2 + i for i in range(rank)], [-t.stride for t in taps]
    )


def phases(
    G: Graph, g: str, weight: str, group: int, each_axis: Sequence[Sequence[Taps]], sizes: Sequence[int]
) -> Phases | None:
    """Return the gradient of x in phases, or None where this is not the faster way or does not apply.

    each_axis: the taps of every phase of an axis; sizes: of x along those axes.
    """
    strides = tuple(len(axis) for axis in each_axis)
    width = G.shape[weight][1]
    assert isinstance(width, int)
    if len(strides) != 2 or max(strides) > 2 or group * width % BLOCK:
        return None
    if any(size % stride for size, stride in zip(sizes, strides, strict=True)):
        return None
    parts: list[str | None] = []
    for taps in product(*each_axis):
        pads = [*(t.before for t in taps), *(t.after for t in taps)]
        if not all(t.count for t in taps):
            parts.append(None)
        elif min(pads) < 0:
            return None
        else:
            parts.append(G("Conv", g, turned(G, weight, group, taps), pads=pads, group=group))
    return Phases(tuple(parts), (strides[0], strides[1]), group * width, (sizes[0], sizes[1]))


def interleave(G: Graph, phases: Phases) -> str | None:
    """Return the whole gradient; None if a phase is zeros, which ConvTranspose does better.

    Moved with the channels last, where an element is a row of memory. The 1x1 convolution by ones at the
    end changes nothing; it makes ONNX Runtime go on in its blocked layout.
    """
    parts = [part for part in phases.parts if part is not None]
    if len(parts) < len(phases.parts):
        return None
    (sh, sw), (h, w), channels = phases.strides, phases.sizes, phases.channels
    blocks = G("Transpose", G("Concat", *parts, axis=1), perm=[0, 2, 3, 1])
    blocks = G(
        "Transpose", G("Reshape", blocks, [0, h // sh, w // sw, sh, sw, channels]), perm=[0, 1, 3, 2, 4, 5]
    )
    whole = G("Transpose", G("Reshape", blocks, [0, h, w, channels]), perm=[0, 3, 1, 2])
    whole = G("Conv", whole, np.ones((channels, 1, 1, 1), np.float32), group=channels)
    G.phases[whole] = phases
    return whole


def add(G: Graph, a: str, b: str) -> str:
    """Return the sum of two gradients of one value, phase by phase where both came so."""
    ours, theirs = G.phases.get(a), G.phases.get(b)
    if ours is not None and theirs is not None and ours.strides == theirs.strides:
        pairs = zip(ours.parts, theirs.parts, strict=True)
        parts = tuple(G("Add", p, q) if p and q else p or q for p, q in pairs)
        if (whole := interleave(G, replace(ours, parts=parts))) is not None:
            return whole
    return G("Add", a, b)
