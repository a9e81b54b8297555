"""An LSTM over a sequence, back through time."""

from collections.abc import Sequence

import onnx
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.recurrent import Walk, back_through_time, body
from dra_serve.gradient_graph.rules.registry import Share, rule


@rule("LSTM", every_output=True)
def lstm(G: Graph, node: NodeProto, arriving: Sequence[str | None]) -> Sequence[Share]:
    """y_t = o tanh(c_t), c_t = f c_(t-1) + i u, with the gates i, o, f, u of x_t and y_(t-1).

    The gates follow from y, which the forward pass gives, for all t at once; the cells c take a Scan, and so
    do the gradients, the other way (Hochreiter and Schmidhuber 1997; equations as in ONNX's LSTM).
    """
    c0 = node.input[6] if len(node.input) > 6 else ""
    _, last_h, last_c = [*arriving, None, None][:3]

    def share_of(walk: Walk) -> str:
        before_gates = G("Add", walk.biased(walk.product(walk.x, walk.weight), 0),
                         walk.biased(walk.product(walk.before, walk.recurrent), 1))  # fmt: skip
        squashed = zip(("Sigmoid", "Sigmoid", "Sigmoid", "Tanh"), walk.split(before_gates, 4), strict=True)
        i, o, f, u = (G(squash, gate) for squash, gate in squashed)
        first = walk.state(c0)
        cells = walk.scan([first], [f, G("Mul", i, u)], _cells(), back=False)
        sequences = [walk.gy, i, o, f, u, walk.earlier(cells, first), G("Tanh", cells)]
        ends = [walk.state(last_h), walk.state(last_c)]
        gates = walk.scan(ends, sequences, _back(walk.recurrent), back=True)
        return G("MatMul", gates, walk.weight)

    return back_through_time(G, node, arriving, [["Sigmoid", "Tanh", "Tanh"]], share_of)


def _cells() -> onnx.GraphProto:
    """(c; f, iu) -> (c'; c')."""
    nodes = [
        ("Mul", ["f", "c"], "kept"),
        ("Add", ["kept", "iu"], "next"),
        ("Identity", ["next"], "cell"),
    ]
    return body("cells", nodes, ["c", "f", "iu"], ["next", "cell"])


def _back(recurrent: str) -> onnx.GraphProto:
    """(dh, dc; gy, i, o, f, u, c, t) -> (dh', dc'; gradient at the gates (N, 4 hidden)).

    c: the cell before; t = tanh of the cell after. A gate s passes s (1 - s), u passes 1 - u^2.
    """
    nodes = [
        ("Add", ["gy", "dh"], "dy"),
        ("Mul", ["t", "t"], "tt"), ("Mul", ["o", "tt"], "ott"), ("Sub", ["o", "ott"], "slope"),
        ("Mul", ["dy", "slope"], "through"), ("Add", ["through", "dc"], "cell"),
        ("Mul", ["cell", "u"], "at_i"), ("Mul", ["dy", "t"], "at_o"), ("Mul", ["cell", "c"], "at_f"),
        *(part for s in "iof" for part in (
            ("Mul", [s, s], f"{s}{s}"), ("Sub", [s, f"{s}{s}"], f"slope_{s}"),
            ("Mul", [f"at_{s}", f"slope_{s}"], f"g{s}"))),
        ("Mul", ["u", "u"], "uu"), ("Mul", ["i", "uu"], "iuu"), ("Sub", ["i", "iuu"], "slope_u"),
        ("Mul", ["cell", "slope_u"], "gu"),
        ("Concat", ["gi", "go", "gf", "gu"], "gates"),
        ("MatMul", ["gates", recurrent], "dh_before"),  # the weights are seen from inside
        ("Mul", ["cell", "f"], "dc_before"),
    ]  # fmt: skip
    inputs = ["dh", "dc", "gy", "i", "o", "f", "u", "c", "t"]
    return body("back", nodes, inputs, ["dh_before", "dc_before", "gates"])
