"""Nodes before someone else's graph, so that it takes x in [0, 1]."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dra_serve.bring_your_own.declaration import Declaration
from dra_serve.errors import BadRequest
from dra_serve.gradient_graph.prepare import set_nodes

_KINDS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8}


def input_form(graph: onnx.GraphProto, declared: Declaration) -> tuple[str, tuple[int, int, int]]:
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


def preprocess(
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
        if declared.range == 1:
            raise BadRequest(
                "range", given=1, allowed="255: the file takes bytes; with --range 255 it is attacked"
            )
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
