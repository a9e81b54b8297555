"""A network that keeps a server busy, for the tests of who waits and who is stopped."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def slow_onnx() -> Callable[..., onnx.ModelProto]:
    """Return make(input_shape, classes, width): convolutions at full resolution, so attacks take long."""
    return _convolutions


def _convolutions(input_shape: tuple[int, int, int], *, classes: int, width: int) -> onnx.ModelProto:
    rng, channels = np.random.default_rng(0), input_shape[0]
    shapes = {"W1": (width, channels, 3, 3), "W2": (width, width, 3, 3), "W3": (classes, width, 1, 1)}
    weights = {
        name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "W1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "W2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "W3"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *input_shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
