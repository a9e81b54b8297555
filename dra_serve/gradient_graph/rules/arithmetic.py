"""Arithmetic with broadcasting."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.elementwise import one_minus_gate
from dra_serve.gradient_graph.rules.registry import Share, rule, unbroadcast


@rule("Add", "Sum")
def add(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    return [_summed(G, node, name, lambda: g) for name in node.input]


@rule("Mean")
def mean(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Of the operands, element by element."""
    return [_summed(G, node, name, lambda: G("Mul", g, 1 / len(node.input))) for name in node.input]


@rule("Sub")
def sub(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    a, b = node.input
    return [_summed(G, node, a, lambda: g), _summed(G, node, b, lambda: G("Neg", g))]


@rule("Mul")
def mul(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    a, b = node.input
    for x, s in ((a, b), (b, a)):  # SiLU: x sigmoid(x) at once, a third of the nodes
        gate = G.producer.get(s)
        if gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == x:
            share = _silu(G, g, node.output[0], s)
            return [share if name == x else None for name in (a, b)]
    return [_summed(G, node, a, lambda: G("Mul", g, b)), _summed(G, node, b, lambda: G("Mul", g, a))]


def _silu(G: Graph, g: str, y: str, s: str) -> Share:
    return lambda: G("Mul", g, G("Add", s, G("Mul", y, one_minus_gate(G, s))))


@rule("Div")
def div(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    a, b = node.input
    y = node.output[0]
    return [
        _summed(G, node, a, lambda: G("Div", g, b)),
        _summed(G, node, b, lambda: G("Neg", G("Div", G("Mul", g, y), b))),
    ]


@rule("Pow")
def power(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """x^p with a constant p: p x^(p-1), written without Pow for the usual p = 2."""
    x, p = node.input
    exponent = G.argument(node, 1)
    assert exponent is not None  # Pow has two inputs
    if (exponent == 2).all():
        return [_summed(G, node, x, lambda: G("Mul", g, G("Mul", x, 2.0)))]
    less = exponent.astype(np.float32) - np.float32(1)
    slope = partial(G, "Pow", x, less)
    return [_summed(G, node, x, lambda: G("Mul", g, G("Mul", G("CastLike", p, x), slope())))]


@rule("Max", "Min")
def extreme(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """The winners of each element share its gradient equally, as in torch.maximum."""

    def wins(name: str) -> str:
        return G("CastLike", G("Equal", name, node.output[0]), g)

    def share(name: str) -> str:
        winners = G("Sum", *(wins(other) for other in node.input))
        return G("Div", G("Mul", g, wins(name)), winners)

    return [_summed(G, node, name, partial(share, name)) for name in node.input]


@rule("Where")
def where(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """The condition gets nothing: it is constant but for a jump."""
    condition, a, b = node.input
    return [
        None,
        _summed(G, node, a, lambda: G("Where", condition, g, 0.0)),
        _summed(G, node, b, lambda: G("Where", condition, 0.0, g)),
    ]


def _summed(G: Graph, node: NodeProto, operand: str, share: Callable[[], str]) -> Share:
    return lambda: unbroadcast(G, share(), node.output[0], operand)


@rule("Mod")
def mod(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Of a and constant b: a - n b, where n is constant but for jumps, as in torch.fmod."""
    return [_summed(G, node, node.input[0], lambda: g)]
