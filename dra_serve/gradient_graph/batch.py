"""A batch fixed in the file, opened where that leaves the answers alone."""

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from dra_serve.gradient_graph.prepare import measure, session


def open_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with an open batch, or `model` itself if that cannot be had.

    Exporters that fix the batch write it into the shapes of Reshape too. There the first size is
    freed; whether that was right is seen from the answers: a batch of three must give the logits of
    its three images one by one.
    """
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not first.HasField("dim_value"):
        return model
    batch = first.dim_value
    (values,) = measure(model)
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    opened.graph.output[0].type.ClearField("tensor_type")
    opened.graph.output[0].type.tensor_type.elem_type = model.graph.output[0].type.tensor_type.elem_type
    _free_reshapes(opened.graph, values)
    return opened if _same_answers(model, opened, batch) else model


def _free_reshapes(graph: onnx.GraphProto, values: dict[str, Any]) -> None:
    fixed = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in fixed:
            sizes = np.array([-1, *values[node.output[0]].shape[1:]], np.int64)
            node.input[1] = f"open/{node.output[0]}"
            graph.initializer.append(numpy_helper.from_array(sizes, node.input[1]))


def _same_answers(fixed: onnx.ModelProto, opened: onnx.ModelProto, batch: int) -> bool:
    sizes = [size.dim_value for size in fixed.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = np.random.default_rng(0).random((3 * batch, *sizes), np.float32)
    parts = [session(fixed).run(None, {"x": part})[0] for part in np.split(x, 3)]
    try:
        (whole,) = session(opened).run(None, {"x": x})
    except Exception:  # ONNX Runtime has an own class for each reason; any of them means no
        return False
    return whole.shape[0] == 3 * batch and np.allclose(whole, np.concatenate(parts), rtol=1e-4, atol=1e-5)
