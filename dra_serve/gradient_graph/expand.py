"""Operators without a rule, written as operators with one."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner

from dra_serve.gradient_graph.graph import depending_on
from dra_serve.gradient_graph.prepare import constants_to_initializers, measure, set_nodes
from dra_serve.gradient_graph.rules.quantised import INTEGER_ARITHMETIC
from dra_serve.gradient_graph.unroll import unroll


def expand(model: onnx.ModelProto, known: Iterable[str]) -> onnx.ModelProto:
    """Return `model` without an If whose outcome, and a Loop or Scan whose rounds do not depend on x, and
    with ONNX's own definition in place of each operator that `known` lacks and ONNX defines by others
    (RMSNormalization, Attention...).

    model: as `prepare.prepare` leaves it, and not changed. What can be expanded no further stays.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    while _take_branches(copy) or unroll(copy):
        pass
    for _ in range(3):  # a definition may use an operator that is itself defined by others
        names = _defined_by_others(copy, known)
        if not names:
            break
        copy = _written_out(copy, names)
    return copy


def _take_branches(model: onnx.ModelProto) -> bool:
    """Put the branch that is taken in place of each If that can be decided; torch's old exporter writes
    one for a squeeze. Return whether there was any."""
    graph = model.graph
    if not any(node.op_type == "If" for node in graph.node):
        return False
    runs = measure(model)
    active = depending_on(graph.input[0].name, list(graph.node))
    initializers = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    nodes, taken = [], False
    for node in graph.node:
        outcomes = (
            []
            if node.op_type != "If" or node.input[0] in active
            else [bool(np.all(initializers.get(node.input[0], run.get(node.input[0], True)))) for run in runs]
        )
        if len(set(outcomes)) != 1:
            nodes.append(node)
            continue
        name = "then_branch" if outcomes[0] else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == name)
        graph.initializer.extend(branch.initializer)
        nodes += branch.node
        pairs = zip(branch.output, node.output, strict=True)
        nodes += [helper.make_node("Identity", [inner.name], [outer]) for inner, outer in pairs if outer]
        taken = True
    set_nodes(graph, nodes)
    constants_to_initializers(graph)
    return taken


def _defined_by_others(model: onnx.ModelProto, known: Iterable[str]) -> set[str]:
    """Return the operators on the way from x that have no rule, but a definition."""
    active = depending_on(model.graph.input[0].name, list(model.graph.node))
    names = {
        node.op_type
        for node in model.graph.node
        if node.domain in ("", "ai.onnx")
        and node.op_type not in (*INTEGER_ARITHMETIC, *known)
        and active.intersection(node.output)
    }
    return {name for name in names if onnx.defs.has(name) and has_definition(onnx.defs.get_schema(name))}


def has_definition(schema: Any) -> bool:
    """Return whether ONNX defines the operator of this schema by others."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def _written_out(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
    )
    typed = onnx.shape_inference.infer_shapes(typed)
    written = inliner.inline_selected_functions(
        typed, [("", name) for name in sorted(names)], exclude=False, inline_schema_functions=True
    )
    constants_to_initializers(written.graph)
    del written.graph.value_info[:]
    return written
