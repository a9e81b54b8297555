"""Convolutions and their transposes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule
from dra_serve.gradient_graph.rules.strided_conv import Taps, interleave, phases, turned


@dataclass(frozen=True)
class Window:
    """How a kernel walks over its input; one entry a spatial axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]  # padding before the first element
    over: list[int]  # how far the last window reaches past the input (negative: how far it stops short)

    @classmethod
    def of(cls, G: Graph, node: NodeProto, kernel: list[int]) -> "Window":
        """Read the window of a Conv or a pooling node, auto_pad and ceil_mode resolved by its sizes."""
        given, rank = attributes(node), len(kernel)
        strides = list(given.get("strides", [1] * rank))
        dilations = list(given.get("dilations", [1] * rank))
        inputs, outputs = (G.sizes(node, name, 2) for name in (node.input[0], node.output[0]))
        walked = zip(outputs, strides, dilations, kernel, strict=True)
        spans = [(y - 1) * s + d * (k - 1) + 1 for y, s, d, k in walked]
        begins = list(given.get("pads", [0] * 2 * rank))[:rank]
        auto = given.get("auto_pad", "NOTSET")
        if auto.startswith("SAME"):
            total = [max(span - x, 0) for span, x in zip(spans, inputs, strict=True)]
            begins = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
        elif auto == "VALID":
            begins = [0] * rank
        over = [span - b - x for span, b, x in zip(spans, begins, inputs, strict=True)]
        return cls(kernel, strides, dilations, begins, over)

    def spread(self, G: Graph, g: str, weight: str, group: int) -> str:
        """Return the adjoint of the convolution with `weight`: each g goes back to where it came from."""
        return G(
            "ConvTranspose",
            g,
            weight,
            strides=self.strides,
            dilations=self.dilations,
            pads=[*self.begins, *(max(over, 0) for over in self.over)],
            output_padding=[max(-over, 0) for over in self.over],
            group=group,
        )


@rule("Conv")
def conv(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Weights that depend on x (conditional convolutions) get a share too, and so does such a bias."""
    kernel = G.sizes(node, node.input[1])[2:]
    window = Window.of(G, node, kernel)
    everywhere = [0, *range(2, 2 + len(kernel))]
    return [
        _to_input(G, node, g, window),
        lambda: _to_weight(G, node, g, window),
        lambda: G("ReduceSum", g, everywhere, keepdims=0),
    ]


def _to_input(G: Graph, node: NodeProto, g: str, window: Window) -> Share:
    """At stride 1 a Conv with the kernel turned round: ONNX Runtime has no fast path for ConvTranspose."""
    weight, kernel = node.input[1], window.kernel
    sizes, outs = (G.sizes(node, name, 2) for name in (node.input[0], node.output[0]))
    group = int(attributes(node).get("group", 1))

    def spread() -> str:
        return window.spread(G, g, weight, group)

    if set(window.strides) == {1}:
        reach = [d * (k - 1) for d, k in zip(window.dilations, kernel, strict=True)]
        pads = [r - p for r, p in zip([*reach, *reach], [*window.begins, *window.over], strict=True)]
        taps = [Taps(k - 1, k, 1, 0, 0) for k in kernel]
        if min(pads) < 0:
            return spread
        return lambda: G(
            "Conv", g, turned(G, weight, group, taps), dilations=window.dilations, pads=pads, group=group
        )
    if set(window.dilations) != {1}:
        return spread
    axes = zip(kernel, window.strides, window.begins, sizes, outs, strict=True)
    each_axis = [
        [Taps.of(phase, kernel=k, stride=s, begin=b, size=size, out=out) for phase in range(s)]
        for k, s, b, size, out in axes
    ]

    def share() -> str:
        split = phases(G, g, weight, group, each_axis, sizes)
        if split is None:
            return spread()
        whole = interleave(G, split) or spread()
        G.phases[whole] = split
        return whole

    return share


def _to_weight(G: Graph, node: NodeProto, g: str, window: Window) -> str:
    """Return the sum over images and places of g times the x that each tap met: a Conv of x by g, in which
    images are the channels, and strides and dilations change places."""
    group = int(attributes(node).get("group", 1))
    (channels, *sizes), (outputs, *outs) = (G.sizes(node, n, 1) for n in (node.input[0], node.output[0]))
    axes = list(range(len(sizes)))
    rest = [3 + axis for axis in axes]
    by_group = G("Reshape", node.input[0], [0, group, channels // group, *sizes])
    x = G("Reshape", G("Transpose", by_group, perm=[2, 1, 0, *rest]), [channels // group, -1, *sizes])
    by_group = G("Reshape", g, [0, group, outputs // group, *outs])
    kernel = G("Reshape", G("Transpose", by_group, perm=[1, 2, 0, *rest]), [outputs, -1, *outs])
    taps = G(
        "Conv",
        x,
        kernel,
        strides=window.dilations,
        dilations=window.strides,
        pads=[*window.begins, *(max(over, 0) for over in window.over)],
        group=group,
    )  # and more taps than the kernel has, where the last pixels were unread
    spatial = [2 + axis for axis in axes]
    return G("Transpose", G("Slice", taps, [0] * len(axes), window.kernel, spatial), perm=[1, 0, *spatial])


@rule("ConvTranspose")
def conv_transpose(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    given = attributes(node)
    if given.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in given:
        raise refuse(node, "auto_pad or output_shape")
    kept = {name: given[name] for name in ("strides", "dilations", "pads", "group") if name in given}
    wanted = G.sizes(node, node.input[0], 2)

    def share() -> str:
        result = G("Conv", g, node.input[1], **kept)  # output_padding may leave room for one window more
        ends, axes = wanted, list(range(2, 2 + len(wanted)))
        return G("Slice", result, [0] * len(axes), ends, axes) if given.get("output_padding") else result

    return [share]


@rule("Col2Im")
def col2im(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Col2Im adds blocks up into an image; backwards each block reads its pixels: a Conv by unit kernels."""
    given, block = attributes(node), G.argument(node, 2)
    assert block is not None  # Col2Im has a block shape
    (channels,), places = G.sizes(node, node.output[0], 1)[:1], int(block.prod())
    unit = np.eye(places, dtype=np.float32).reshape(places, 1, *block.tolist())
    kernels = np.tile(unit, (channels, *[1] * (unit.ndim - 1)))
    kept = {name: given[name] for name in ("strides", "dilations", "pads") if name in given}
    read = partial(G, "Conv", g, kernels, group=channels, **kept)
    return [lambda: G("Reshape", read(), [0, channels * places, -1])]
