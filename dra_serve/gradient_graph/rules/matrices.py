"""Matrix products and Einsum."""

from collections.abc import Sequence
from functools import partial
from string import ascii_letters, ascii_uppercase

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule, unbroadcast


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
    if (
        len(G.shape[a]) > 1 and len(G.shape[b]) == 1
    ):  # a vector's own share is refused: it must not depend on x
        return [lambda: G("MatMul", G("Unsqueeze", g, [-1]), G("Unsqueeze", b, [0]))]
    if len(G.shape[a]) < 2:
        raise refuse(node, "a vector on the left")

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
