"""Recurrent networks: what their directions have in common, and the plain one, back through time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, helper

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule


@dataclass(frozen=True)
class Walk:
    """One direction of a recurrent node over x (T, N, inputs); sequences are kept in x's own order.

    reverse: 1 where it runs from the end. hidden, before: y_t and what it was a step earlier, (T, N, hidden);
    gy: the gradient at y. weight (gates hidden, inputs), recurrent (gates hidden, hidden); bias
    (2, gates hidden), of either, or "". state: this direction's part of a state, or of the gradient at one,
    (N, hidden); zeros for none.
    """

    G: Graph
    place: int
    reverse: int
    x: str
    hidden: str
    before: str
    gy: str
    weight: str
    recurrent: str
    bias: str
    state: Callable[[str | None], str]

    def earlier(self, values: str, start: str) -> str:
        """Return at t what `values` (T, N, hidden) were a step earlier in this direction."""
        return _earlier(self.G, values, start, self.reverse)

    def scan(
        self, states: Sequence[str], sequences: Sequence[str], body: onnx.GraphProto, *, back: bool
    ) -> str:
        """Return the sequence that `body` writes walking over `sequences`; back: from the end of the walk."""
        way = 1 - self.reverse if back else self.reverse
        n = len(states)
        return self.G(
            "Scan", *states, *sequences, outputs=n + 1, take=n, body=body, num_scan_inputs=len(sequences),
            scan_input_directions=[way] * len(sequences), scan_output_directions=[way],
        )  # fmt: skip

    def product(self, values: str, matrix: str) -> str:
        """Return values (T, N, k) times the transposed matrix (m, k): (T, N, m)."""
        return self.G("MatMul", values, self.G("Transpose", matrix, perm=[1, 0]))

    def biased(self, value: str, row: int) -> str:
        """Return `value` plus one row of the bias, that of x (0) or of y (1)."""
        return self.G("Add", value, self.G("Gather", self.bias, [row], axis=0)) if self.bias else value

    def split(self, value: str, parts: int) -> list[str]:
        """Return the gates of (T, N, parts hidden)."""
        return [
            self.G("Split", value, outputs=parts, take=k, axis=2, num_outputs=parts) for k in range(parts)
        ]


def back_through_time(
    G: Graph,
    node: NodeProto,
    arriving: Sequence[str | None],
    usual: Sequence[list[str]],
    share_of: Callable[[Walk], str],
) -> Sequence[Share]:
    """Return the share of x, summed over directions; states to begin with must not depend on it.

    usual: the activations that `share_of` knows, of one direction.
    """
    given = attributes(node)
    reverse = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[given.get("direction", "forward")]
    activations = [a.decode() for a in given.get("activations", [])]
    sides = [activations[i : i + len(usual[0])] for i in range(0, len(activations), len(usual[0]))]
    if not all(side in usual for side in sides):
        raise refuse(node, f"activations {activations}")
    odd = {"clip", "activation_alpha", "activation_beta"} & set(given)
    odd |= {name for name in ("input_forget", "layout") if given.get(name, 0)}
    odd |= {
        name
        for place, name in ((4, "sequence_lens"), (7, "peepholes"))
        if "".join(node.input[place : place + 1])
    }
    if odd:
        raise refuse(node, ", ".join(sorted(odd)))

    def share() -> str:
        parts = [share_of(_walk(G, node, arriving, place, way)) for place, way in enumerate(reverse)]
        return G("Sum", *parts) if len(parts) > 1 else parts[0]

    return [share]


def _walk(G: Graph, node: NodeProto, arriving: Sequence[str | None], place: int, reverse: int) -> Walk:
    x, w, r, b, _, h0 = [*node.input, *[""] * 3][:6]
    y = node.output[0]

    def own(name: str, axis: int) -> str:
        return G("Squeeze", G("Slice", name, [place], [place + 1], [axis]), [axis])

    hidden = own(y, 1)
    nothing = G("Expand", 0.0, G("Shape", G("Squeeze", G("Slice", hidden, [0], [1], [0]), [0])))

    def state(name: str | None) -> str:
        return own(name, 0) if name else nothing

    return Walk(
        G=G,
        place=place,
        reverse=reverse,
        x=x,
        hidden=hidden,
        before=_earlier(G, hidden, state(h0), reverse),
        gy=own(arriving[0], 1) if arriving[0] else G("Expand", 0.0, G("Shape", hidden)),
        weight=own(w, 0),
        recurrent=own(r, 0),
        bias=G("Reshape", own(b, 0), [2, -1]) if b else "",
        state=state,
    )


def _earlier(G: Graph, values: str, start: str, reverse: int) -> str:
    first = G("Unsqueeze", start, [0])
    if reverse:
        return G("Concat", G("Slice", values, [1], [2**62], [0]), first, axis=0)
    return G("Concat", first, G("Slice", values, [0], [-1], [0]), axis=0)


@rule("RNN", every_output=True)
def rnn(G: Graph, node: NodeProto, arriving: Sequence[str | None]) -> Sequence[Share]:
    """y_t = f(W x_t + R y_(t-1) + b), f tanh or relu, whose slope follows from y."""
    activations = attributes(node).get("activations", [b"Tanh"] * 2)
    last = arriving[1] if len(arriving) > 1 else None

    def share_of(walk: Walk) -> str:
        y = walk.hidden
        if activations[walk.place] == b"Relu":
            slope = G("CastLike", G("Greater", y, 0.0), y)
        else:
            slope = G("Sub", 1.0, G("Mul", y, y))
        gates = walk.scan([walk.state(last)], [walk.gy, slope],
                          _plain(walk.recurrent), back=True)  # fmt: skip
        return G("MatMul", gates, walk.weight)

    return back_through_time(G, node, arriving, [["Tanh"], ["Relu"]], share_of)


def _plain(recurrent: str) -> onnx.GraphProto:
    """(dh; gy, slope) -> (dh'; gradient before f)."""
    nodes = [
        ("Add", ["gy", "dh"], "dy"),
        ("Mul", ["dy", "slope"], "gate"),
        ("MatMul", ["gate", recurrent], "dh_before"),  # the weights are seen from inside
    ]
    return body("plain", nodes, ["dh", "gy", "slope"], ["dh_before", "gate"])


def body(
    name: str, nodes: Sequence[tuple[str, list[str], str]], inputs: list[str], outputs: list[str]
) -> onnx.GraphProto:
    """Return a Scan's body of (operator, inputs, output); a Concat is along axis 1."""

    def typed(value: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(value, TensorProto.FLOAT, None)

    built = [
        helper.make_node(operator, taken, [made], axis=1)
        if operator == "Concat"
        else helper.make_node(operator, taken, [made])
        for operator, taken, made in nodes
    ]
    return helper.make_graph(built, name, list(map(typed, inputs)), list(map(typed, outputs)))
