"""The forward graph put in one form: opset >= 18, constants as initializers, our names, an open batch."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from dra_serve.errors import BadRequest
from dra_serve.gradient_graph.graph import reads

OLDEST_OPSET, RULES_OPSET = 9, 18  # the rules write opset 18: reductions take axes as an input
RESERVED = ("x", "y", "loss", "target", "logits", "value", "grad")
BATCHES = (2, 3)  # two sizes tell what follows the batch; `graph._dimension` counts on these


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy from `x` to `logits` with nothing in it that the rules need not know."""
    model = normalise(_at_least_opset(_inlined(model), RULES_OPSET))
    _check_form(model.graph)
    rename(model.graph)
    _name_sequences(model.graph)
    return model


def normalise(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with local functions written out, constants as initializers and no metadata."""
    model = _inlined(model)
    strip(model)
    constants_to_initializers(model.graph)
    _drop_initializers_from_inputs(model.graph)
    del model.graph.value_info[:]
    return model


def strip(model: onnx.ModelProto) -> None:
    """Remove exporters' metadata and doc strings in place: they hold stack traces with local paths."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    for part in [model, graph, *graph.node, *graph.initializer, *values, *model.functions]:
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            part.ClearField("metadata_props")
    for function in model.functions:
        for node in function.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return inliner.inline_local_functions(copy) if model.functions else copy


def _at_least_opset(model: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset >= wanted:
        return model
    if opset < OLDEST_OPSET:
        raise BadRequest("model opset", given=opset, allowed=f"{OLDEST_OPSET} and later")
    try:
        return version_converter.convert_version(model, wanted)
    except Exception:  # whatever the C++ converter throws; a folded weight may be all it cannot take
        model = _folded(normalise(model))
    try:
        return version_converter.convert_version(model, wanted)
    except Exception as error:
        allowed = f"one that onnx can convert to {wanted}; export it again ({str(error).splitlines()[0]})"
        raise BadRequest("model opset", given=opset, allowed=allowed) from error


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which whatever no input reaches is computed and stored: standardised weights."""
    graph = model.graph
    reached, nodes = {value.name for value in graph.input}, list(graph.node)
    for node in nodes:
        if reached.intersection(reads(node)):
            reached.update(node.output)
    computed = [node for node in nodes if not reached.intersection(node.output)]
    kept = [node for node in nodes if reached.intersection(node.output)]
    wanted = {name for node in kept for name in reads(node)} & {n for node in computed for n in node.output}
    constants = onnx.ModelProto()
    constants.CopyFrom(model)
    del constants.graph.node[:], constants.graph.input[:], constants.graph.output[:]
    constants.graph.node.extend(computed)
    constants.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    if not wanted:
        return model
    found = session(constants).run(sorted(wanted), {})
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    del folded.graph.node[:]
    folded.graph.node.extend(kept)
    folded.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), name) for name, a in zip(sorted(wanted), found, strict=True)
    )
    return folded


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn Constant nodes into initializers, in place."""
    constants = [node for node in graph.node if node.op_type == "Constant"]
    for node in constants:
        (attribute,) = node.attribute
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            value = numpy_helper.to_array(value)
        elif attribute.name.startswith("value_int"):
            value = np.array(value, np.int64)
        elif attribute.name.startswith("value_float"):
            value = np.array(value, np.float32)
        else:
            continue  # strings and sparse tensors: no rule takes one
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        graph.node.remove(node)


def _drop_initializers_from_inputs(graph: onnx.GraphProto) -> None:
    """Before IR version 4 every initializer was listed as an input too."""
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    del graph.input[:]
    graph.input.extend(inputs)


def _check_form(graph: onnx.GraphProto) -> None:
    for kind, values in (("inputs", graph.input), ("outputs", graph.output)):
        if len(values) != 1:
            raise BadRequest(f"model {kind}", given=[v.name for v in values], allowed="exactly one")
    tensor = graph.input[0].type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    if len(sizes) < 2 or not all(isinstance(size, int) and size > 0 for size in sizes[1:]):
        raise BadRequest("model input shape", given=sizes, allowed="a batch, then fixed sizes")
    if tensor.elem_type != TensorProto.FLOAT:
        raise BadRequest(
            "model input type", given=TensorProto.DataType.Name(tensor.elem_type), allowed="FLOAT"
        )


def _name_sequences(graph: onnx.GraphProto) -> None:
    """Ask recurrent nodes for their whole sequence, also where the last state alone is used: in place."""
    for node in graph.node:
        if node.op_type in ("RNN", "GRU", "LSTM") and not node.output[0]:
            node.output[0] = f"{next(filter(None, node.output))}/sequence"


def rename(graph: onnx.GraphProto) -> None:
    """Call the input x and the output logits; move inner values out of the way of our names."""
    names = {name: f"forward/{name}" for name in RESERVED}
    names |= {graph.input[0].name: "x", graph.output[0].name: "logits"}
    rename_in(graph, names)


def rename_in(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values, in place, in the graphs inside this one too."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for branch in [attribute.g, *attribute.graphs]:  # reads names of the graph around it
                rename_in(branch, names)
    for value in [*graph.input, *graph.output, *graph.initializer]:
        value.name = names.get(value.name, value.name)


def set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put `nodes`, which may be the graph's own, in place of those it has."""
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def measure(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return every value of the graph at batches 2 and 3, or at the only batch the file allows.

    ONNX Runtime is asked rather than onnx's shape inference, which gives up on shapes that are
    computed; two runs tell sizes that follow the batch from sizes that do not. Raises BadRequest if the
    model does not run.
    """
    (first, *sizes) = model.graph.input[0].type.tensor_type.shape.dim
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    batches = (first.dim_value,) if first.HasField("dim_value") else BATCHES
    images = [np.zeros((n, *(size.dim_value for size in sizes)), np.float32) for n in batches]
    try:
        probing = session(probe)
        values = [probing.run(names, {"x": x}) for x in images]
    except Exception as error:  # ONNX Runtime has an own class for each reason
        reason = str(error).rpartition(" : ")[2]
        raise BadRequest("model", given=reason, allowed="a graph that ONNX Runtime can run") from error
    return [{"x": x, **dict(zip(names, found, strict=True))} for x, found in zip(images, values, strict=True)]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a quick, unoptimised session of one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # failures are raised; a batch tried in vain is none
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
