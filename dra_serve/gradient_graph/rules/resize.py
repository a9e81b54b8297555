"""Interpolation: linear in its input, one axis at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from dra_serve.gradient_graph.graph import Graph
from dra_serve.gradient_graph.prepare import session
from dra_serve.gradient_graph.rules.registry import Share, attributes, refuse, rule


@rule("Resize")
def resize(G: Graph, node: NodeProto, g: str) -> Sequence[Share]:
    """Multiply by the transposed matrix of each resized axis.

    The matrices are read off ONNX Runtime's own Resize of an identity, so that every mode, rounding
    and coordinate rule is the one that runs.
    """
    x = node.input[0]
    if attributes(node).get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise refuse(node, "tf_crop_and_resize")
    rank, factors = len(G.shape[x]), _factors(G, node)

    def share() -> str:
        result = g
        for axis, factor in factors.items():
            before, after = (G.sizes(node, name, axis)[0] for name in (x, node.output[0]))
            order = list(range(rank))
            order[axis], order[-1] = order[-1], order[axis]
            moved = G("Transpose", result, perm=order)
            result = G("Transpose", G("MatMul", moved, _matrix(node, before, after, factor).T), perm=order)
        return result

    return [share]


def _factors(G: Graph, node: NodeProto) -> dict[int, float | None]:
    """Return the factor of each resized axis; None where its new size was given instead."""
    x, y = G.shape[node.input[0]], G.shape[node.output[0]]
    given = G.argument(node, 2)
    if given is None or given.size == 0:
        return {axis: None for axis in range(len(x)) if x[axis] != y[axis]}
    axes = attributes(node).get("axes", range(len(x)))
    factors = {axis % len(x): factor for axis, factor in zip(axes, given.tolist(), strict=True)}
    return {axis: factor for axis, factor in factors.items() if factor != 1}


def _matrix(node: NodeProto, before: int, after: int, factor: float | None) -> np.ndarray[Any, Any]:
    """Return the matrix (before, after) by which one axis is resized."""
    kept = {k: v for k, v in attributes(node).items() if k not in ("axes", "keep_aspect_ratio_policy")}
    if factor is None:
        inputs, how = ["identity", "", "", "how"], np.array([before, 1, after, 1])
    else:
        inputs, how = ["identity", "", "how"], np.array([1, 1, factor, 1], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Resize", inputs, ["matrix"], **kept)],
        "axis",
        [helper.make_tensor_value_info("identity", TensorProto.FLOAT, [before, 1, before, 1])],
        [helper.make_tensor_value_info("matrix", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(how, "how")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    identity = np.eye(before, dtype=np.float32).reshape(before, 1, before, 1)
    found: np.ndarray[Any, Any] = session(model).run(None, {"identity": identity})[0].reshape(before, after)
    return found
