"""Models in other forms: put in one form, or refused by name."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dra_serve.errors import BadRequest
from dra_serve.gradient_graph import differentiate
from tests.dra_serve.gradient_graph.small import matrix_of, model


def _two_inputs():
    built = model("")
    built.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))
    return built


def _two_outputs():
    built = model("e = Exp(x)")
    built.graph.output.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, ["n", 6]))
    return built


def _logits_of_rank_3():
    built = model("t = Reshape(x, s) ", s=[0, 1, 6])
    built.graph.node[-1].input[0] = "t"
    return built


def _double_logits():
    built = model("")
    built.graph.node[-1].output[0] = "single"
    built.graph.node.append(helper.make_node("Cast", ["single"], ["logits"], to=TensorProto.DOUBLE))
    built.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return built


BAD_MODELS = {
    "two inputs": (_two_inputs, "model inputs"),
    "two outputs": (_two_outputs, "model outputs"),
    "open sizes": (lambda: model("", shape="n,c"), "model input shape"),
    "half precision": (lambda: model("", type="float16"), "model input type"),
    "double logits": (_double_logits, "model output type"),
    "one class": (lambda: model("", classes=1), "model output shape"),
    "logits of rank 3": (_logits_of_rank_3, "model output shape"),
    "opset 8": (lambda: model("", opset=8), "model opset"),
    "shapes that do not fit": (lambda: model("", features=7), "model"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_model_of_another_form_is_refused_by_name(name):
    build, field = BAD_MODELS[name]
    with pytest.raises(BadRequest) as caught:
        differentiate(build())
    assert caught.value.field == field


def test_names_are_ours_whatever_the_model_calls_things(question, errors_by_row):
    body = "y = Exp(pixels) loss = Mul(y, target) grad = Neg(loss) value = Sin(grad) logits = Mul(value, y)"
    built = model(body, x="pixels", head="logits", logits="scores", target=np.float32(1.5))
    gradient = differentiate(built)
    assert [v.name for v in gradient.graph.input] == ["x", "y", "loss", "target"]
    assert [v.name for v in gradient.graph.output] == ["logits", "value", "grad"]
    asked = question.draw((5, 6), 4)
    matrix = matrix_of(built)
    expected = asked.ask_torch(lambda x: (torch.sin(-1.5 * x.exp()) * x.exp()) @ matrix)
    assert errors_by_row(asked.ask_onnx(gradient)[2], expected[2]).max() < 1e-5


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21, 23])
def test_opsets_from_9_up(opset, question, errors_by_row):
    """Operators whose form changed: axes became inputs, Softmax lost its flattening, Clip its attributes."""
    axes_as_input = opset >= 18
    pool = (
        "m = ReduceMean<keepdims=0>(r, axes)"
        if axes_as_input
        else "m = ReduceMean<axes=[2,3], keepdims=0>(r)"
    )
    summed = "t = ReduceSum(p, one)" if opset >= 13 else "t = ReduceSum<axes=[1]>(p)"
    clipped = "c = Clip(x, low, high)" if opset >= 11 else "c = Clip<min=0.2, max=0.8>(x)"
    body = f"{clipped} r = Conv<pads=[1,1,1,1]>(c, w) {pool} p = Softmax<axis=1>(m) {summed}"
    body += " e = Exp(m) d = Add(e, t)"
    constants = {"w": np.random.default_rng(3).standard_normal((6, 2, 3, 3)).astype(np.float32)}
    constants |= {"axes": [2, 3]} if axes_as_input else {}
    constants |= {"one": [1]} if opset >= 13 else {}
    constants |= {"low": np.float32(0.2), "high": np.float32(0.8)} if opset >= 11 else {}
    built = model(body, shape="n,2,5,4", head="d", opset=opset, ir=min(10, max(4, opset - 10)), **constants)
    weight, matrix = torch.from_numpy(constants["w"]).double(), matrix_of(built)

    def network(x):
        m = torch.nn.functional.conv2d(x.clamp(0.2, 0.8), weight, padding=1).mean((2, 3))
        return (m.exp() + 1) @ matrix

    asked = question.draw((8, 2, 5, 4), 4)
    _, _, grad = asked.ask_onnx(differentiate(built))
    assert errors_by_row(grad, asked.ask_torch(network)[2]).max() < 1e-5


def test_constant_nodes_and_local_functions_are_understood(question, errors_by_row):
    built = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["" : 20, "local" : 1]>
        net (float[n,6] x) => (float[n,6] logits) {
            c = Constant<value = float {1.5}>()
            d = Constant<value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]>()
            z = local.scaled_exp(x, c)
            logits = Mul(z, d)
        }
        <domain: "local", opset_import: ["" : 20]>
        scaled_exp (a, b) => (e) { m = Mul(a, b) e = Exp(m) }
    """)
    asked = question.draw((5, 6), 6)
    weights = torch.arange(1, 7).double()
    expected = asked.ask_torch(lambda x: (1.5 * x).exp() * weights)
    gradient = differentiate(built)
    assert errors_by_row(asked.ask_onnx(gradient)[2], expected[2]).max() < 1e-5
    assert not gradient.functions
    assert (
        {node.domain for node in gradient.graph.node}
        == {opset.domain for opset in gradient.opset_import}
        == {""}
    )


def test_without_onnx_the_extra_is_named_and_importing_costs_nothing():
    code = """
import sys
sys.modules["onnx"] = None
import dra_serve.gradient_graph as g
from dra_serve.errors import MissingExtra
assert "onnxruntime" not in sys.modules
try:
    g.differentiate(None)
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "onnx is not installed; pip install 'dra-serve[onnx]'"
