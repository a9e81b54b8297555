"""Nodes before and after someone else's graph, so that it takes x in [0, 1] and gives logits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dra_serve.bring_your_own.declaration import Declaration
from dra_serve.errors import BadRequest
from dra_serve.gradient_graph.batch import open_batch
from dra_serve.gradient_graph.prepare import normalise, rename, session, set_nodes

_KINDS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8}
_MOVES = {
    "Identity",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Cast",
    "Dropout",
    "Transpose",
}  # after a softmax
_LEAST = 1e-30  # a probability below it counts as it: the logarithm of 0 is no logit


@dataclass(frozen=True)
class Wrapped:
    """model: x (N, C, H, W) in [0, 1] -> logits (N, K). changed: False where it is the file's own graph.

    layout: the one in force. notes: what was done and nobody declared.
    """

    model: onnx.ModelProto
    changed: bool
    layout: str
    input_shape: tuple[int, int, int]
    classes: int
    notes: tuple[str, ...]


def wrap(model: onnx.ModelProto, declared: Declaration) -> Wrapped:
    """Return `model`, which is not changed, as a classifier on x (N, C, H, W), RGB in [0, 1].

    The declared preprocessing becomes nodes in front; a softmax at the end is taken off, and where the
    outputs are probabilities without one, their logarithm is taken: both are logits up to a shift of a
    row, which no loss sees. Raises BadRequest for a form that no declaration can put right.
    """
    graph = (ours := normalise(model)).graph
    notes: list[str] = []
    layout, (channels, height, width) = _input_form(graph, declared)
    before = _preprocess(graph, declared, layout, (channels, height, width), notes)
    after = _logits_at_the_end(ours, notes)
    rename(graph)
    open_already = graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_param")
    opened = ours if open_already else open_batch(ours)
    (answer,) = _answers(opened)
    if answer.ndim != 2 or answer.shape[1] < 2:
        raise BadRequest("model output shape", given=answer.shape, allowed="logits (N, K) with K >= 2")
    changed = before or after or opened is not ours or declared.input_size is not None
    return Wrapped(opened, changed, layout, (channels, height, width), int(answer.shape[1]), tuple(notes))


def _input_form(graph: onnx.GraphProto, declared: Declaration) -> tuple[str, tuple[int, int, int]]:
    """Return layout and (C, H, W), and write open sizes into the graph's input."""
    if len(graph.input) != 1:
        raise BadRequest("model inputs", given=[v.name for v in graph.input], allowed="exactly one")
    tensor = graph.input[0].type.tensor_type
    if tensor.elem_type not in _KINDS:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise BadRequest("model input type", given=kind, allowed="FLOAT, FLOAT16, DOUBLE or UINT8")
    dims = tensor.shape.dim
    sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
    shown = [size or (d.dim_param or "?") for size, d in zip(sizes, dims, strict=True)]
    if len(sizes) != 4:
        raise BadRequest("model input shape", given=shown, allowed="a batch of images: four sizes")
    layout = declared.layout or ("nhwc" if sizes[3] in (1, 3) and sizes[1] not in (1, 3) else "nchw")
    c, h, w = (3, 1, 2) if layout == "nhwc" else (1, 2, 3)
    channels = sizes[c] or 3
    if channels not in (1, 3):
        allowed = f"1 or 3 channels in {layout}; --layout says where they are"
        raise BadRequest("model input shape", given=shown, allowed=allowed)
    wanted = declared.input_size or (sizes[h], sizes[w])
    if None in wanted:
        raise BadRequest("input-size", given=None, allowed=f"HxW: {shown} leaves them open")
    fixed = [(size, size_wanted) for size, size_wanted in zip((sizes[h], sizes[w]), wanted, strict=True)]
    if any(size not in (None, size_wanted) for size, size_wanted in fixed):
        given = "x".join(map(str, wanted))
        raise BadRequest("input-size", given=given, allowed=f"{sizes[h]}x{sizes[w]}: the file fixes it")
    for axis, size in zip((c, h, w), (channels, *wanted), strict=True):
        dims[axis].dim_value = int(size or 0)
    if sizes[0] is None:
        dims[0].dim_param = "n"
    return layout, (channels, int(wanted[0] or 0), int(wanted[1] or 0))


def _preprocess(
    graph: onnx.GraphProto,
    declared: Declaration,
    layout: str,
    shape: tuple[int, int, int],
    notes: list[str],
) -> bool:
    """Put nodes in front that turn x into the file's own input; return whether there are any."""
    own, kind = graph.input[0].name, graph.input[0].type.tensor_type.elem_type
    nodes: list[onnx.NodeProto] = []
    channels, value = shape[0], "ours/x"

    def add(operator: str, *inputs: str, **attributes: Any) -> None:
        nonlocal value
        made = f"ours/{operator.lower()}{len(nodes)}"
        nodes.append(helper.make_node(operator, [value, *inputs], [made], **attributes))
        value = made

    def constant(name: str, array: np.ndarray) -> str:
        graph.initializer.append(numpy_helper.from_array(array, f"ours/{name}"))
        return f"ours/{name}"

    if declared.channels == "bgr":
        if channels != 3:
            raise BadRequest("channels", given="bgr", allowed="rgb: the file takes one channel")
        add("Gather", constant("bgr", np.array([2, 1, 0], np.int64)), axis=1)
    scale, shift = _affine(declared, channels)
    if (scale != 1).any():
        add("Mul", constant("scale", scale))
    if (shift != 0).any():
        add("Add", constant("shift", shift))
    if layout == "nhwc":
        add("Transpose", perm=[0, 2, 3, 1])
    if kind == TensorProto.UINT8:
        _read_floats(graph, own)
        notes.append("its 8-bit input is read as floats: the cast in front is left out")
    elif kind != TensorProto.FLOAT:
        add("Cast", to=kind)
    if not nodes and kind == TensorProto.FLOAT:
        return False
    nodes.append(helper.make_node("Identity", [value], [own]))
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    first = batch.dim_value if batch.HasField("dim_value") else "n"
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("ours/x", TensorProto.FLOAT, [first, *shape]))
    set_nodes(graph, [*nodes, *graph.node])
    return True


def _affine(declared: Declaration, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift (C, 1, 1) in the file's order of channels, such that x scale + shift is
    (x range - mean) / std; computed in float64."""
    parts = []
    for name, values, default in (("mean", declared.mean, 0.0), ("std", declared.std, 1.0)):
        given = (default,) if values is None else values
        if len(given) not in (1, channels):
            raise BadRequest(name, given=given, allowed=f"{channels} numbers, or one for all channels")
        parts.append(np.broadcast_to(np.array(given, np.float64), channels).reshape(channels, 1, 1))
    mean, std = parts
    return (declared.range / std).astype(np.float32), (-mean / std).astype(np.float32)


def _read_floats(graph: onnx.GraphProto, own: str) -> None:
    """Leave out the casts that turn 8-bit input into floats; BadRequest where bytes are used otherwise."""
    readers = [node for node in graph.node if own in node.input]
    to_float = [n for n in readers if n.op_type == "Cast" and n.attribute[0].i == TensorProto.FLOAT]
    if not readers or len(to_float) != len(readers):
        operators = sorted({node.op_type for node in readers})
        raise BadRequest("model input type", given=f"UINT8 into {operators}", allowed="a cast to FLOAT")
    for node in to_float:
        node.op_type = "Identity"
        del node.attribute[:]


def _logits_at_the_end(model: onnx.ModelProto, notes: list[str]) -> bool:
    """Make logits, float32 (N, K), of the file's output; return whether anything had to be done."""
    graph = model.graph
    answers = _answers(model)
    images = _batch(graph)
    place = next(
        (i for i, a in enumerate(answers) if a.ndim >= 2 and a.shape[0] == images and a.size > images), None
    )
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
    elif _are_probabilities(answer):
        value = _append(graph, "Max", value, np.array(_LEAST, answer.dtype))
        value = _append(graph, "Log", value)
        notes.append("its outputs are probabilities: their logarithm is taken")
    if answer.ndim > 2:
        value = _append(graph, "Flatten", value, axis=1)
    if answer.dtype != np.float32:
        value = _append(graph, "Cast", value, to=TensorProto.FLOAT)
    _only_output(graph, helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    return taken_off or len(answers) > 1 or len(graph.node) != before


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
    logits = _answers(model)[0].reshape(len(answer), -1).astype(np.float64)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)
    if np.allclose(probabilities, answer.reshape(len(answer), -1), rtol=1e-3, atol=1e-7):
        return True
    softmax.CopyFrom(kept)
    return False


def _are_probabilities(answer: np.ndarray) -> bool:
    rows = answer.reshape(len(answer), -1).astype(np.float64)
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3))


def _answers(model: onnx.ModelProto) -> list[np.ndarray]:
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
