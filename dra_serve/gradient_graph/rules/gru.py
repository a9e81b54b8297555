"""A GRU over a sequence, back through time."""

from collections.abc import Sequence

import onnx
from onnx import NodeProto

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.rules.recurrent import Walk, back_through_time, body
from dra_serve.gradient_graph.rules.registry import Share, attributes, rule


@rule("GRU", every_output=True)
def gru(G: Graph, node: NodeProto, arriving: Sequence[str | None]) -> Sequence[Share]:
    """y_t = (1 - z) u + z y_(t-1), u = tanh(W x_t + q), with gates z and r of x_t and y_(t-1).

    q = R (r y_(t-1)) + b as in Cho et al. 2014; with linear_before_reset, r (R y_(t-1) + b), as torch has it
    (equations as in ONNX's GRU). All of them follow from y, for all t at once; the gradients take a Scan.
    """
    width = G.sizes(node, node.input[2], 2)[0]
    reset_last = bool(attributes(node).get("linear_before_reset", 0))
    last = arriving[1] if len(arriving) > 1 else None

    def share_of(walk: Walk) -> str:
        first, rest = (
            G("Slice", walk.recurrent, [start], [stop], [0])
            for start, stop in ((0, 2 * width), (2 * width, 2**62))
        )
        of_x = walk.biased(walk.product(walk.x, walk.weight), 0)
        if reset_last:
            xz, xr, xu = walk.split(of_x, 3)
            hz, hr, reset = walk.split(walk.biased(walk.product(walk.before, walk.recurrent), 1), 3)
        else:
            xz, xr, xu = walk.split(walk.biased(of_x, 1), 3)
            (hz, hr), reset = walk.split(walk.product(walk.before, first), 2), walk.before
        z, r = G("Sigmoid", G("Add", xz, hz)), G("Sigmoid", G("Add", xr, hr))
        q = G("Mul", r, reset)
        if not reset_last:
            q = walk.product(q, rest)
        u = G("Tanh", G("Add", xu, q))
        at_z = G("Mul", G("Sub", walk.before, u), _gate_slope(G, z))
        at_u = G("Mul", G("Sub", 1.0, z), G("Sub", 1.0, G("Mul", u, u)))
        at_r = G("Mul", reset, _gate_slope(G, r))
        back = _reset_last(walk.recurrent) if reset_last else _reset_first(first, rest)
        gates = walk.scan([walk.state(last)], [walk.gy, z, r, at_z, at_r, at_u], back, back=True)
        return G("MatMul", gates, walk.weight)

    return back_through_time(G, node, arriving, [["Sigmoid", "Tanh"]], share_of)


def _gate_slope(G: Graph, s: str) -> str:
    return G("Sub", s, G("Mul", s, s))


_INPUTS = ["dh", "gy", "z", "r", "at_z", "at_r", "at_u"]


def _reset_last(recurrent: str) -> onnx.GraphProto:
    """(dh; gy, z, r, slopes of z, r, u) -> (dh'; gradient at the gates (N, 3 hidden))."""
    nodes = [
        ("Add", ["gy", "dh"], "dy"), ("Mul", ["dy", "z"], "kept"),
        ("Mul", ["dy", "at_z"], "gz"), ("Mul", ["dy", "at_u"], "gu"), ("Mul", ["gu", "at_r"], "gr"),
        ("Concat", ["gz", "gr", "gu"], "gates"),
        ("Mul", ["gu", "r"], "gq"), ("Concat", ["gz", "gr", "gq"], "recurred"),
        ("MatMul", ["recurred", recurrent], "through"),  # the weights are seen from inside
        ("Add", ["kept", "through"], "dh_before"),
    ]  # fmt: skip
    return body("back", nodes, _INPUTS, ["dh_before", "gates"])


def _reset_first(first: str, rest: str) -> onnx.GraphProto:
    """The same, where r acts before R; first, rest: the rows of R for z and r, and for u."""
    nodes = [
        ("Add", ["gy", "dh"], "dy"), ("Mul", ["dy", "z"], "kept"),
        ("Mul", ["dy", "at_z"], "gz"), ("Mul", ["dy", "at_u"], "gu"),
        ("MatMul", ["gu", rest], "g_held"), ("Mul", ["g_held", "at_r"], "gr"),
        ("Concat", ["gz", "gr", "gu"], "gates"),
        ("Concat", ["gz", "gr"], "recurred"), ("MatMul", ["recurred", first], "through"),
        ("Mul", ["g_held", "r"], "held"),
        ("Sum", ["kept", "through", "held"], "dh_before"),
    ]  # fmt: skip
    return body("back", nodes, _INPUTS, ["dh_before", "gates"])
