"""Nodes after someone else's graph, so that it gives logits."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dra_serve.errors import BadRequest
from dra_serve.gradient_graph.prepare import session

_MOVES = (
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Cast",
    "Dropout",
    "Transpose",
)  # after a softmax
_LEAST = 1e-30  # a probability below it counts as it: the logarithm of 0 is no logit


def logits_at_the_end(model: onnx.ModelProto, notes: list[str]) -> bool:
    """Make logits, float32 (N, K), of the file's output; return whether anything had to be done."""
    graph = model.graph
    answers = answers_of(model)
    images = _batch(graph)
    place = next((i for i, answer in enumerate(answers) if _may_be_logits(answer, images)), None)
    if place is None:
        raise BadRequest(
            "model output shape", given=[a.shape for a in answers], allowed="logits (N, K) with K >= 2"
        )
    output, answer, before = graph.output[place], answers[place], len(graph.node)
    if len(answers) > 1:
        notes.append(f"of its {len(answers)} outputs {output.name} is taken")
    _only_output(graph, output)
    value, softmax = output.name, _softmax_behind(graph, output.name)
    taken_off = softmax is not None and _take_off(model, softmax, answer)
    if taken_off:
        notes.append("the softmax at its end is taken off")
    if answer.dtype != np.float32:  # first: float16 has no 1e-30
        value = _append(graph, "Cast", value, to=TensorProto.FLOAT)
    if not taken_off and _are_probabilities(answer):
        value = _append(graph, "Max", value, np.array(_LEAST, np.float32))
        value = _append(graph, "Log", value)
        notes.append("its outputs are probabilities: their logarithm is taken")
    if answer.ndim > 2:
        value = _append(graph, "Flatten", value, axis=1)
    _only_output(graph, helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    return taken_off or len(answers) > 1 or len(graph.node) != before


def _may_be_logits(answer: np.ndarray, images: int) -> bool:
    """Floats, a row an image, along one axis: no label, no feature map."""
    floats = np.issubdtype(answer.dtype, np.floating)
    return bool(
        floats
        and answer.shape[:1] == (images,)
        and max(answer.shape[1:], default=1) == answer.size / images > 1
    )


def _softmax_behind(graph: onnx.GraphProto, value: str) -> onnx.NodeProto | None:
    """Return the Softmax from which the output is had by moving alone, if there is one."""
    producer = {name: node for node in graph.node for name in node.output}
    node = producer.get(value)
    while node is not None and node.op_type in _MOVES:
        node = producer.get(node.input[0])
    return node if node is not None and node.op_type == "Softmax" else None


def _take_off(model: onnx.ModelProto, softmax: onnx.NodeProto, answer: np.ndarray) -> bool:
    """Let a Softmax pass its input on, if the softmax of what then comes out is what came out before."""
    kept = onnx.NodeProto.FromString(softmax.SerializeToString())
    softmax.op_type = "Identity"
    del softmax.attribute[:]
    logits = answers_of(model)[0].reshape(len(answer), -1).astype(np.float64)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    if np.allclose(probabilities, answer.reshape(len(answer), -1), rtol=1e-3, atol=1e-7):
        return True
    softmax.CopyFrom(kept)
    return False


def _are_probabilities(answer: np.ndarray) -> bool:
    rows = answer.reshape(len(answer), -1).astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3))


def answers_of(model: onnx.ModelProto) -> list[np.ndarray]:
    """Return the outputs for random images in the form that the graph takes now."""
    given = model.graph.input[0]
    tensor = given.type.tensor_type
    sizes = [_batch(model.graph), *(d.dim_value for d in tensor.shape.dim[1:])]
    x = np.random.default_rng(0).random(sizes, np.float32)
    x = x.astype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    try:
        return [np.asarray(a) for a in session(model).run(None, {given.name: x})]
    except Exception as error:  # ONNX Runtime has an own class for each reason
        reason = str(error).rpartition(" : ")[2]
        allowed = f"a graph that ONNX Runtime can run on {'x'.join(map(str, sizes))}"
        raise BadRequest("model", given=reason, allowed=allowed) from error


def _batch(graph: onnx.GraphProto) -> int:
    """Return how many images the graph is tried on: as many as it fixes, or three."""
    return graph.input[0].type.tensor_type.shape.dim[0].dim_value or 3


def _append(graph: onnx.GraphProto, operator: str, value: str, *arrays: np.ndarray, **given: Any) -> str:
    made = f"ours/{operator.lower()}"
    names = [f"{made}/{i}" for i in range(len(arrays))]
    graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True))
    graph.node.append(helper.make_node(operator, [value, *names], [made], **given))
    return made


def _only_output(graph: onnx.GraphProto, output: onnx.ValueInfoProto) -> None:
    kept = onnx.ValueInfoProto.FromString(output.SerializeToString())
    del graph.output[:]
    graph.output.append(kept)
