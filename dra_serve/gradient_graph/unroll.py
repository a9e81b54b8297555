"""Loop and Scan of a fixed number of rounds, written out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from dra_serve.gradient_graph.graph import depending_on
from dra_serve.gradient_graph.prepare import constants_to_initializers, measure, rename_in, set_nodes

MOST_NODES = 20_000
WHY_NOT = {
    "Loop": "a loop is differentiated where the number of its rounds is fixed, no condition ends it sooner, "
    f"and written out it has at most {MOST_NODES:,} nodes; export it unrolled",
    "Scan": "a scan is differentiated where its length is fixed, and written out it has at most "
    f"{MOST_NODES:,} nodes; export it unrolled",
}

Known = Callable[[str], np.ndarray[Any, Any] | None]  # a value that is the same for every x and batch


def unroll(model: onnx.ModelProto) -> bool:
    """Write out, in place, each Loop and Scan on the way from x that can be; return whether there was any."""
    graph = model.graph
    if not any(node.op_type in WHY_NOT for node in graph.node):
        return False
    runs = measure(model)
    active = depending_on(graph.input[0].name, list(graph.node))
    initializers = {t.name: numpy_helper.to_array(t) for t in graph.initializer}

    def known(name: str) -> np.ndarray[Any, Any] | None:
        if name in initializers:
            return initializers[name]
        seen = [run[name] for run in runs if name in run]
        same = name not in active and seen and all(np.array_equal(seen[0], other) for other in seen)
        return seen[0] if same else None

    def shapes(name: str) -> set[tuple[int, ...]]:
        return {initializers[name].shape} if name in initializers else {run[name].shape for run in runs}

    nodes, any_unrolled = [], False
    for node in graph.node:
        rounds = None
        if active.intersection(node.output):
            if node.op_type == "Loop":
                rounds = _loop(node, known)
            elif node.op_type == "Scan":
                rounds = _scan(node, shapes)
        if rounds is None:
            nodes.append(node)
            continue
        nodes += rounds
        any_unrolled = True
    set_nodes(graph, nodes)
    constants_to_initializers(graph)
    return any_unrolled


def _loop(node: NodeProto, known: Known) -> list[NodeProto] | None:
    """Return the rounds of a Loop; None unless their number is fixed and no condition ends it."""
    body, states = node.attribute[0].g, len(node.input) - 2
    trips = known(node.input[0]) if node.input[0] else None
    begins = known(node.input[1]) if node.input[1] else np.array(True)
    if trips is None or begins is None or not begins.all() or not _goes_on(body):
        return None
    number, goes_on = (value.name for value in body.input[:2])

    def fed(prefix: str, k: int) -> list[NodeProto]:
        return [_constant(prefix + number, np.array(k)), _constant(prefix + goes_on, np.array(True))]

    rounds = [partial(fed, k=k) for k in range(int(trips))]
    stacks = [_Stack(value.name, 0, range(len(rounds))) for value in body.output[1 + states :]]
    return _written(node, body, rounds, node.input[2:], body.input[2:], body.output[1 : 1 + states], stacks)


def _goes_on(body: onnx.GraphProto) -> bool:
    """Return whether the condition that a round leaves is the one it found, or constantly true."""
    producer = {name: node for node in body.node for name in node.output}
    name = body.output[0].name
    while name in producer and producer[name].op_type == "Identity":
        name = producer[name].input[0]
    if name == body.input[1].name:
        return True
    tensors = {tensor.name: tensor for tensor in body.initializer}
    if name in producer and producer[name].op_type == "Constant":
        tensors[name] = producer[name].attribute[0].t
    return name in tensors and bool(numpy_helper.to_array(tensors[name]).all())


def _scan(node: NodeProto, shapes: Callable[[str], set[tuple[int, ...]]]) -> list[NodeProto] | None:
    """Return the rounds of a Scan; None unless their number is fixed."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    body, n = given["body"], int(given["num_scan_inputs"])
    states = len(node.input) - n
    axes = given.get("scan_input_axes", [0] * n)
    lengths = {
        shape[axis] for name, axis in zip(node.input[states:], axes, strict=True) for shape in shapes(name)
    }
    if len(lengths) != 1:
        return None
    (length,) = lengths
    backwards = given.get("scan_input_directions", [0] * n)

    def fed(prefix: str, k: int) -> list[NodeProto]:
        nodes = []
        for outer, inner, axis, back in zip(
            node.input[states:], body.input[states:], axes, backwards, strict=True
        ):
            name = prefix + inner.name
            nodes.append(_constant(f"{name}/at", np.array(length - 1 - k if back else k)))
            nodes.append(helper.make_node("Gather", [outer, f"{name}/at"], [name], axis=axis))
        return nodes

    made = body.output[states:]
    stacks = [
        _Stack(value.name, axis, range(length)[::-1] if back else range(length))
        for value, axis, back in zip(
            made,
            given.get("scan_output_axes", [0] * len(made)),
            given.get("scan_output_directions", [0] * len(made)),
            strict=True,
        )
    ]
    rounds = [partial(fed, k=k) for k in range(length)]
    return _written(
        node, body, rounds, node.input[:states], body.input[:states], body.output[:states], stacks
    )


@dataclass(frozen=True)
class _Stack:
    """A value of every round that goes into one output, along a new axis, in this order of rounds."""

    name: str
    axis: int
    order: Sequence[int]


def _written(
    node: NodeProto,
    body: onnx.GraphProto,
    rounds: Sequence[Callable[[str], list[NodeProto]]],
    states: Sequence[str],
    found: Sequence[onnx.ValueInfoProto],
    left: Sequence[onnx.ValueInfoProto],
    stacks: Sequence[_Stack],
) -> list[NodeProto] | None:
    """Return `body` once a round, and what the node gives; None if that is too much.

    rounds: (prefix) -> nodes that make a round's other inputs, named by the prefix. states: values to begin
    with; found, left: the same inside, before and after a round.
    """
    if len(body.node) * len(rounds) > MOST_NODES or (stacks and not rounds):
        return None
    label = next(filter(None, node.output))
    own = {value.name for value in body.input} | {t.name for t in body.initializer}
    own.update(name for inner in body.node for name in inner.output if name)
    nodes: list[NodeProto] = []
    current = list(states)
    for k, fed in enumerate(rounds):
        prefix = f"{label}/{k}/"
        nodes += [_same(outer, prefix + value.name) for outer, value in zip(current, found, strict=True)]
        nodes += fed(prefix)
        nodes += [helper.make_node("Constant", [], [prefix + t.name], value=t) for t in body.initializer]
        copy = onnx.GraphProto()
        copy.CopyFrom(body)
        rename_in(copy, {name: prefix + name for name in own})
        nodes += copy.node
        current = [value.name if value.name not in own else prefix + value.name for value in left]
    ends = zip(current, node.output[: len(current)], strict=True)
    nodes += [_same(inner, outer) for inner, outer in ends if outer]
    for stack, outer in zip(stacks, node.output[len(current) :], strict=False):
        nodes.append(_constant(f"{outer}/axis", np.array([stack.axis])))
        rows = [f"{label}/{k}/{stack.name}" for k in stack.order]
        nodes += [helper.make_node("Unsqueeze", [row, f"{outer}/axis"], [f"{row}/row"]) for row in rows]
        nodes.append(helper.make_node("Concat", [f"{row}/row" for row in rows], [outer], axis=stack.axis))
    return nodes


def _same(old: str, new: str) -> NodeProto:
    return helper.make_node("Identity", [old], [new])


def _constant(name: str, value: np.ndarray[Any, Any]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
