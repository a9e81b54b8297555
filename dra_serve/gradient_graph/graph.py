"""The builder: a forward graph to which gradient nodes are appended."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dra_serve.errors import NoDerivative

Dim: TypeAlias = int | str
"""A size: an int, or a text such as "n" or "49n" that stands for sizes which follow the batch."""

Value: TypeAlias = str | float | Sequence[int] | np.ndarray[Any, Any]
"""What a node may take: a name, a float32 scalar, int64s, or an array."""

FORWARD_ONLY = ("Shape", "Size", "EyeLike")  # depend on the form of their input, not on its values


class Graph:
    """Forward nodes, then whatever is appended by calling the graph: `G("Mul", g, y) -> name`.

    shape, type: of every forward value. active: the forward values that depend on x. producer: the
    node behind a forward value, readers: those that take it. phases: gradients that can be had in parts
    (rules/strided_conv.py). The same call twice gives the same node, so rules need not share.
    """

    def __init__(self, model: onnx.ModelProto, runs: Sequence[dict[str, Any]]) -> None:
        """model: as `prepare.prepare` leaves it; runs: every value at each batch size tried."""
        self.forward_nodes = list(model.graph.node)
        self.nodes = list(self.forward_nodes)
        self.x, self.logits = model.graph.input[0].name, model.graph.output[0].name
        self.initializers = {t.name: t for t in model.graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self.active = depending_on(self.x, self.nodes)
        self.phases: dict[str, Any] = {}
        self.shape: dict[str, tuple[Dim, ...]] = {n: tuple(t.dims) for n, t in self.initializers.items()}
        self.type = {
            n: np.dtype(helper.tensor_dtype_to_np_dtype(t.data_type)) for n, t in self.initializers.items()
        }
        self._fixed: dict[str, np.ndarray[Any, Any]] = {}
        for name, *values in ((name, *(run[name] for run in runs)) for name in runs[0]):
            if not all(isinstance(value, np.ndarray) for value in values):
                continue  # a sequence or an optional: no rule takes one
            self.shape[name] = tuple(
                _dimension(sizes) for sizes in zip(*(v.shape for v in values), strict=True)
            )
            self.type[name] = values[0].dtype
            if name not in self.active and all(np.array_equal(values[0], value) for value in values):
                self._fixed[name] = values[0]
        self._runs = runs
        self._made: dict[Any, Any] = {}

    def __call__(
        self,
        operator: str,
        *inputs: Value,
        name: str | None = None,
        outputs: int = 1,
        take: int = 0,
        **attributes: Any,
    ) -> str:
        """Append a node and return the name of output number `take` of its `outputs`."""
        names = [self.constant(v) if not isinstance(v, str) else v for v in inputs]
        if operator not in FORWARD_ONLY:
            names = [self._single(name) for name in names]
        key = (operator, *names, name, repr(sorted(attributes.items())))
        if key not in self._made:
            made = self._made[key] = [name or f"grad/{len(self._made)}.{i}" for i in range(outputs)]
            self.nodes.append(helper.make_node(operator, names, made, name=made[0], **attributes))
        output: str = self._made[key][take]
        return output

    def _single(self, name: str) -> str:
        """Return a value as float32, in which gradients are calculated whatever the network calculates in."""
        if self.type.get(name) not in (np.float16, np.float64):
            return name
        key = ("float32", name)
        if key not in self._made:
            made = self._made[key] = f"grad/{len(self._made)}"
            self.nodes.append(helper.make_node("Cast", [name], [made], name=made, to=onnx.TensorProto.FLOAT))
        single: str = self._made[key]
        return single

    def constant(self, value: float | Sequence[int] | np.ndarray[Any, Any]) -> str:
        """Return the name of an initializer holding `value`; equal ones are stored once."""
        if isinstance(value, float):
            value = np.array(value, np.float32)
        elif isinstance(value, np.generic):  # what NumPy makes of arithmetic on 0-d arrays
            value = np.asarray(value)
        elif not isinstance(value, np.ndarray):
            value = np.array(value, np.int64).reshape(-1)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._made:
            name = self._made[key] = f"grad/{len(self._made)}"
            self.initializers[name] = numpy_helper.from_array(
                np.ascontiguousarray(value).reshape(value.shape), name
            )
        made: str = self._made[key]
        return made

    def fixed(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the array behind a forward value that is the same for every x, or None."""
        if name in self._fixed:
            return self._fixed[name]
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        return None

    def tried(self, name: str) -> list[np.ndarray[Any, Any]]:
        """Return what a forward value that does not depend on x was at each batch size; [] if it does."""
        if name in self.initializers:
            return [numpy_helper.to_array(self.initializers[name])]
        return [] if name in self.active else [run[name] for run in self._runs]

    def argument(self, node: onnx.NodeProto, place: int) -> np.ndarray[Any, Any] | None:
        """Return the node's input at `place` as an array; None if absent; NoDerivative if not fixed."""
        if len(node.input) <= place or not node.input[place]:
            return None
        array = self.fixed(node.input[place])
        if array is None:
            raise NoDerivative(node.op_type, node.name, f"input {place} is not a constant")
        return array

    def sizes(self, node: onnx.NodeProto, name: str, start: int = 0) -> list[int]:
        """Return the sizes of a forward value from axis `start`; NoDerivative if one follows the batch."""
        sizes = [d for d in self.shape[name][start:] if isinstance(d, int)]
        if len(sizes) != len(self.shape[name][start:]):
            raise NoDerivative(
                node.op_type, node.name, f"{name} has sizes {self.shape[name]}, not fixed from {start}"
            )
        return sizes

    def finish(self, metadata: dict[str, str], base: onnx.ModelProto) -> onnx.ModelProto:
        """Return the model with what its outputs need and nothing else; `base` gives the opset."""
        needed, kept = {"logits", "value", "grad"}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(reads(node) - {""})
        images, logits = list(self.shape[self.x]), list(self.shape[self.logits])
        inputs = [_value("x", onnx.TensorProto.FLOAT, images)]
        inputs += [_value(name, onnx.TensorProto.INT64, images[:1]) for name in ("y", "loss", "target")]
        outputs = [("logits", logits), ("value", images[:1]), ("grad", images)]
        graph = helper.make_graph(
            kept[::-1],
            "gradient",
            inputs,
            [_value(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs],
            [tensor for name, tensor in self.initializers.items() if name in needed],
            value_info=self._values(kept, without={name for name, _ in outputs}),
        )
        domains = {node.domain for node in kept} | {""}
        opsets = [opset for opset in base.opset_import if opset.domain in domains]
        model = helper.make_model(graph, producer_name="dra_serve", opset_imports=opsets)
        model.ir_version = base.ir_version
        helper.set_model_props(model, metadata)
        return model

    def _values(self, nodes: list[onnx.NodeProto], without: set[str]) -> list[onnx.ValueInfoProto]:
        """Return the shapes we know of what `nodes` make.

        ONNX Runtime loses the batch's name in a Reshape to [-1, ...], and without it cannot tell that a
        gradient and its value have one shape: it then leaves the blocked layout at every product of both.
        """
        values = []
        for name in (name for node in nodes for name in node.output):
            if name in self.shape and name not in without and self.type[name] == np.float32:
                sizes = [d if d == "n" or isinstance(d, int) else None for d in self.shape[name]]
                values.append(_value(name, onnx.TensorProto.FLOAT, sizes))
        return values


def depending_on(x: str, nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Return the values that depend on what `x` holds, itself among them; nodes in order."""
    active = {x}
    for node in nodes:
        if node.op_type not in FORWARD_ONLY and active.intersection(reads(node)):
            active.update(node.output)
    return active - {""}


def reads(node: onnx.NodeProto) -> set[str]:
    """Return what the node reads, the branches of an If or Loop included: they see the graph around them."""
    inner = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return set(node.input).union(*(reads(n) for graph in inner for n in graph.node))


def _value(name: str, kind: int, shape: Sequence[Dim | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _dimension(sizes: Sequence[int]) -> Dim:
    """Return one size for those seen at the batches tried: (7, 7) is 7, (2, 3) "n", (98, 147) "49n"."""
    if len(set(sizes)) == 1:
        return sizes[0]
    factor, rest = divmod(sizes[0], 2)
    if rest == 0 and sizes[1] == 3 * factor:
        return "n" if factor == 1 else f"{factor}n"
    return "/".join(map(str, sizes))
