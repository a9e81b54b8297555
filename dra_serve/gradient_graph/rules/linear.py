"""Convolutions and matrix products."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from string import ascii_letters, ascii_uppercase

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule, unbroadcast
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
    """At stride 1 a Conv with the kernel turned round: ONNX Runtime has no fast path for ConvTranspose."""
    x, weight = node.input[:2]
    G.sizes(node, weight)
    kernel, sizes, outs = (G.sizes(node, name, 2) for name in (weight, x, node.output[0]))
    group = int(attributes(node).get("group", 1))
    window = Window.of(G, node, kernel)

    def spread() -> str:
        return window.spread(G, g, weight, group)

    if set(window.strides) == {1}:
        reach = [d * (k - 1) for d, k in zip(window.dilations, kernel, strict=True)]
        pads = [r - p for r, p in zip([*reach, *reach], [*window.begins, *window.over], strict=True)]
        taps = [Taps(k - 1, k, 1, 0, 0) for k in kernel]
        if min(pads) < 0:
            return [spread]
        return [
            lambda: G(
                "Conv", g, turned(G, weight, group, taps), dilations=window.dilations, pads=pads, group=group
            )
        ]
    if set(window.dilations) != {1}:
        return [spread]
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

    return [share]


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


@rule("Gemm")
def gemm(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """y = alpha a' b' + beta c, where a' is a or its transpose."""
    given = attributes(node)
    alpha, beta = float(given.get("alpha", 1.0)), float(given.get("beta", 1.0))
    a, b, c = [*node.input, ""][:3]
    ta, tb = int(given.get("transA", 0)), int(given.get("transB", 0))

    def share_a() -> str:
        if ta:
            return G("Gemm", b, g, alpha=alpha, transA=tb, transB=1)
        return G("Gemm", g, b, alpha=alpha, transB=1 - tb)

    def share_b() -> str:
        if tb:
            return G("Gemm", g, a, alpha=alpha, transA=1, transB=ta)
        return G("Gemm", a, g, alpha=alpha, transA=1 - ta)

    return [share_a, share_b, lambda: unbroadcast(G, G("Mul", g, beta), node.output[0], c)]


@rule("MatMul")
def matmul(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    a, b = node.input
    if min(len(G.shape[a]), len(G.shape[b])) < 2:
        raise refuse(node, "a vector operand")

    def swapped(name: str) -> str:
        order = list(range(len(G.shape[name])))
        return G("Transpose", name, perm=[*order[:-2], order[-1], order[-2]])

    return [
        lambda: _sum_batch(G, G("MatMul", g, swapped(b)), node, a),
        lambda: _sum_batch(G, G("MatMul", swapped(a), g), node, b),
    ]


def _sum_batch(G: Graph, g: str, node: NodeProto, operand: str) -> str:
    """Sum over batch axes along which the operand was repeated; its matrix axes are its own."""
    big, small = G.shape[node.output[0]][:-2], G.shape[operand][:-2]
    extra = len(big) - len(small)
    repeated = [i for i, d in enumerate(small, start=extra) if d == 1 and big[i] != 1]
    if repeated:
        g = G("ReduceSum", g, repeated, keepdims=1)
    return G("ReduceSum", g, list(range(extra)), keepdims=0) if extra else g


@rule("Einsum")
def einsum(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Each operand's share is the Einsum of g and the other operands, toward its own letters.

    A letter that the operand repeats (a diagonal) is spread by an identity matrix, one that it alone has
    (it was summed) by ones.
    """
    terms, result = _letters(G, node)
    size = {
        letter: d
        for term, name in zip(terms, node.input, strict=True)
        for letter, d in zip(term, G.shape[name], strict=True)
        if d != 1
    }

    def fixed_size(letter: str) -> int:
        d = size.get(letter, 1)
        if not isinstance(d, int):
            raise refuse(node, f"letter {letter} follows the batch")
        return d

    def share(place: int) -> str:
        operands = [(result, g), *((terms[i], n) for i, n in enumerate(node.input) if i != place)]
        unused = iter(sorted(set(ascii_letters) - set("".join([*terms, result]))))
        toward = ""
        for letter in terms[place]:
            if letter in toward:
                again = next(unused)
                operands.append((letter + again, G.constant(np.eye(fixed_size(letter), dtype=np.float32))))
                letter = again
            elif letter not in "".join(term for term, _ in operands):
                operands.append((letter, G.constant(np.ones(fixed_size(letter), np.float32))))
            toward += letter
        equation = f"{','.join(term for term, _ in operands)}->{toward}"
        return G("Einsum", *(name for _, name in operands), equation=equation)

    return [partial(share, place) for place in range(len(terms))]


def _letters(G: Graph, node: NodeProto) -> tuple[list[str], str]:
    """Return the letters of each operand and of the result: an ellipsis and a result left open are written
    out. Refuses sizes of 1 that are repeated under one letter."""
    equation = str(attributes(node)["equation"]).replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        result = ("..." if "." in left else "") + "".join(once)
    ranks = [
        len(G.shape[name]) - len(t.replace("...", "")) for t, name in zip(terms, node.input, strict=True)
    ]
    free = "".join(sorted(set(ascii_uppercase) - set(equation)))[: max(ranks)]
    terms = [t.replace("...", free[len(free) - r :] if r else "") for t, r in zip(terms, ranks, strict=True)]
    result = result.replace("...", free)
    sizes: dict[str, set[int | str]] = {}
    for term, name in zip(terms, node.input, strict=True):
        for letter, d in zip(term, G.shape[name], strict=True):
            sizes.setdefault(letter, set()).add(d)
    if any(len(found) > 1 for found in sizes.values()) or len(set(result)) < len(result):
        raise refuse(node, f"equation {equation} with operands repeated along a letter")
    return terms, result
