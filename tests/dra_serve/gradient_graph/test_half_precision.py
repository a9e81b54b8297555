"""A network that calculates in float16, as files on the Hub do: its gradient is calculated in float32."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dra_serve.gradient_graph import differentiate
from dra_serve.gradient_graph.prepare import set_nodes
from tests.dra_serve.gradient_graph.rules import (
    test_arithmetic,
    test_convolution,
    test_indexing,
    test_matrices,
    test_normalisation,
    test_pooling,
    test_reductions,
)

MODULES = (test_arithmetic, test_convolution, test_indexing, test_matrices, test_normalisation, test_pooling,
           test_reductions)  # fmt: skip
NAMES = ("Conv 3x3", "Conv stride 2", "SiLU", "MatMul both, attention", "LayerNormalization",
         "GroupNormalization", "Softmax", "GlobalMaxPool", "Gather some, one twice", "Where condition on x",
         "MaxPool kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]")  # fmt: skip
CASES = [case for module in MODULES for case in module.CASES if case.name in NAMES]


def in_half_precision(model):
    """Everything between x and the logits, which stay float32, in float16."""
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for node in graph.node:
        node.input[:] = ["half" if name == "x" else name for name in node.input]
        node.output[:] = ["halves" if name == "logits" else name for name in node.output]
    before = helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16)
    after = helper.make_node("Cast", ["halves"], ["logits"], to=TensorProto.FLOAT)
    set_nodes(graph, [before, *graph.node, after])
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradient_is_the_float_networks_but_for_half_precisions_rounding(case, question, errors_by_row):
    model, network = case.model_and_network()
    asked = question.draw((8, *case.shape), 5, low=case.low, high=case.high)
    _, _, grad = asked.ask_onnx(differentiate(in_half_precision(model)))
    assert grad.dtype == np.float32
    assert np.median(errors_by_row(grad, asked.ask_torch(network)[2])) < 5e-3


def test_every_name_is_a_case():
    assert sorted(case.name for case in CASES) == sorted(NAMES)
