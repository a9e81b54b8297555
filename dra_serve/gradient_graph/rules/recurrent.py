"""An LSTM over a sequence: back through time, by one Scan."""

from collections.abc import Sequence

import onnx
from onnx import NodeProto, TensorProto, helper

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule


@rule("LSTM")
def lstm(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """y_t = o tanh(c_t), c_t = f c_(t-1) + i u, with the gates i, o, f, u of x_t and y_(t-1).

    The gates follow from y, which the forward pass gives, for all t at once; the cells c take a Scan, and so
    do the gradients, the other way (Hochreiter and Schmidhuber 1997; equations as in ONNX's LSTM).
    """
    given = attributes(node)
    kept = [*node.input, *[""] * 8][:8]
    if {"activations", "clip"} & set(given) or given.get("input_forget", 0) or given.get("layout", 0):
        raise refuse(node, "activations, clip, input_forget or layout")
    if kept[4] or kept[7]:
        raise refuse(node, "sequence_lens or peepholes")
    direction = given.get("direction", "forward")
    turned = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]

    def share() -> str:
        parts = [_one_direction(G, node, g, place, reverse) for place, reverse in enumerate(turned)]
        return G("Sum", *parts) if len(parts) > 1 else parts[0]

    return [share]


def _one_direction(G: Graph, node: NodeProto, g: str, place: int, reverse: int) -> str:
    """Return the share of the sequence (T, N, inputs) through direction `place`, which runs from its end
    where `reverse` is 1. Sequences are kept in their own order."""
    x, w, r, b, _, h0, c0 = [*node.input, *[""] * 7][:7]
    y = node.output[0]

    def own(name: str, axis: int) -> str:
        return G("Squeeze", G("Slice", name, [place], [place + 1], [axis]), [axis])

    def before(values: str, start: str) -> str:
        """Return at t what `values` were a step earlier in this direction."""
        if reverse:
            return G("Concat", G("Slice", values, [1], [2**62], [0]), start, axis=0)
        return G("Concat", start, G("Slice", values, [0], [-1], [0]), axis=0)

    hidden, gy = own(y, 1), own(g, 1)
    nothing = G("Expand", 0.0, G("Shape", G("Slice", hidden, [0], [1], [0])))  # (1, N, hidden)
    first_h, first_c = (G("Slice", n, [place], [place + 1], [0]) if n else nothing for n in (h0, c0))
    weight, recurrent = own(w, 0), own(r, 0)  # (4 hidden, inputs) and (4 hidden, hidden)
    before_gates = G(
        "Add",
        G("MatMul", x, G("Transpose", weight, perm=[1, 0])),
        G("MatMul", before(hidden, first_h), G("Transpose", recurrent, perm=[1, 0])),
    )
    if b:
        both = G("Reshape", own(b, 0), [2, -1])
        before_gates = G("Add", before_gates, G("ReduceSum", both, [0], keepdims=0))
    i, o, f, u = (
        G(squash, G("Split", before_gates, outputs=4, take=k, axis=2, num_outputs=4))
        for k, squash in enumerate(("Sigmoid", "Sigmoid", "Sigmoid", "Tanh"))
    )
    cells = G(
        "Scan", G("Squeeze", first_c, [0]), f, G("Mul", i, u),
        outputs=2, take=1, body=_cells(), num_scan_inputs=2,
        scan_input_directions=[reverse] * 2, scan_output_directions=[reverse],
    )  # fmt: skip
    still = G("Squeeze", nothing, [0])
    back = 1 - reverse
    at_gates = G(
        "Scan", still, still, gy, i, o, f, u, before(cells, first_c), G("Tanh", cells),
        outputs=3, take=2, body=_back_through_time(recurrent), num_scan_inputs=7,
        scan_input_directions=[back] * 7, scan_output_directions=[back],
    )  # fmt: skip
    return G("MatMul", at_gates, weight)


def _cells() -> onnx.GraphProto:
    """(c; f, iu) -> (c'; c')."""
    nodes = [
        helper.make_node("Mul", ["f", "c"], ["kept"]),
        helper.make_node("Add", ["kept", "iu"], ["next"]),
        helper.make_node("Identity", ["next"], ["cell"]),
    ]
    return _graph("cells", nodes, ["c", "f", "iu"], ["next", "cell"])


def _back_through_time(recurrent: str) -> onnx.GraphProto:
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
    ]  # fmt: skip
    built = [helper.make_node(operator, inputs, [output]) for operator, inputs, output in nodes]
    built += [
        helper.make_node("Concat", ["gi", "go", "gf", "gu"], ["gates"], axis=1),
        helper.make_node("MatMul", ["gates", recurrent], ["dh_before"]),  # the weights are seen from inside
        helper.make_node("Mul", ["cell", "f"], ["dc_before"]),
    ]
    return _graph("back", built, ["dh", "dc", "gy", "i", "o", "f", "u", "c", "t"],
                  ["dh_before", "dc_before", "gates"])  # fmt: skip


def _graph(name: str, nodes: list[NodeProto], inputs: list[str], outputs: list[str]) -> onnx.GraphProto:
    def typed(value: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(value, TensorProto.FLOAT, None)

    return helper.make_graph(nodes, name, list(map(typed, inputs)), list(map(typed, outputs)))
