"""What `differentiate` accepts, refuses and writes; the losses at the logits."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from dra_serve.errors import BadRequest, NoDerivative
from dra_serve.gradient_graph import differentiate
from dra_serve.gradient_graph.rules import RULES


def model(
    body,
    *,
    shape="n,6",
    classes=4,
    opset=20,
    ir=9,
    head="x",
    x="x",
    logits="logits",
    type="float",
    **constants,
):
    """A model in ONNX's text form; `head` is the value a random matrix turns into logits."""
    text = (
        f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1]> '
        f"net ({type}[{shape}] {x}) => ({type}[{shape.split(',')[0]},{classes}] {logits})"
        f"{{ {body} flat = Flatten({head}) {logits} = MatMul(flat, matrix) }}"
    )
    built = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    features = constants.pop("features", 6)
    arrays = {"matrix": rng.standard_normal((features, classes)).astype(np.float32)}
    arrays |= {name: np.asarray(value) for name, value in constants.items()}
    built.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return built


def matrix_of(built):
    return torch.tensor(numpy_helper.to_array(built.graph.initializer[0])).double()


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "dlr_targeted"])
def test_losses_with_few_and_many_classes(loss, classes, question):
    built = model("", classes=classes)
    asked = question.draw((40, 6), classes, loss=loss, low=-1)  # dlr is flat where y is third
    logits, value, grad = asked.ask_onnx(differentiate(built))
    matrix = matrix_of(built)
    expected_logits, expected_value, expected_grad = asked.ask_torch(lambda x: x @ matrix)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-3, atol=1e-4)


def test_saturated_cross_entropy_has_a_zero_gradient_and_no_nan(question):
    built = model("big = Mul(x, scale)", head="big", scale=np.float32(1e4))
    asked = question.draw((30, 6), 4, loss="ce", low=-1)
    logits, value, grad = asked.ask_onnx(differentiate(built))
    sure = logits.argmax(axis=1) == asked.y.numpy()
    assert sure.any()
    assert np.isfinite(value).all()
    assert np.isfinite(grad).all()
    assert (grad[sure] == 0).all()
    assert (np.abs(grad[~sure]).max(axis=1) > 0).all()


def test_unknown_operator_is_refused_by_name():
    built = model("y = Compress<axis=1>(x, all)", head="y", all=np.ones(6, bool))
    built.graph.node[0].name = "picking"
    with pytest.raises(NoDerivative, match=r"operator Compress \(node picking\)") as caught:
        differentiate(built)
    assert caught.value.operator == "Compress"


def test_operator_of_another_domain_is_refused_though_its_name_is_known():
    built = model("y = com.microsoft.Gelu(x)", head="y")
    with pytest.raises(NoDerivative, match="operator Gelu"):
        differentiate(built)


REFUSED = {
    "BatchNormalization in training": (
        "y, m2, v2 = BatchNormalization<training_mode=1>(x, s, s, s, s)", "y",
        {"s": np.ones(6, np.float32)}, "training"),
    "Dropout in training": (
        "y = Dropout(x, r, t)", "y", {"r": np.float32(0.5), "t": np.array(True)}, "training"),
    "a scale that depends on x": (
        "w = ReduceMean<keepdims=0>(x, a) y = LayerNormalization(x, w)", "y", {"a": [0]},
        "input 1 depends on x"),
    "rounding to integers": ("i = Cast<to=7>(x) y = Cast<to=1>(i)", "y", {}, "steps"),
    "places as values": ("v, i = TopK(x, k) y = Cast<to=1>(i)", "y", {"k": [6]}, "steps"),
    "the statistics of a LayerNormalization": (
        "l, m, i = LayerNormalization(x, s) y = Add(l, m)", "y",
        {"s": np.ones(6, np.float32)}, "second output"),
    "an exponent that depends on x": ("y = Pow(b, x)", "y", {"b": np.float32(2)}, "Pow"),
    "an Einsum that sums over the batch": (
        'e = Einsum<equation="ij->j">(x) y = Mul(x, e)', "y", {}, "letter i follows the batch"),
    "a branch that reads x unseen": (
        "s = ReduceSum<keepdims=0>(x) c = Cast<to=9>(s) y = If<then_branch = t () => (float[n,6] a) "
        "{ a = Exp(x) }, else_branch = e () => (float[n,6] b) { b = Neg(x) }>(c)", "y", {}, "operator If"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_form_without_a_rule_is_refused_not_zero(name):
    body, head, constants, match = REFUSED[name]
    built = model(body, head=head, **constants)
    with pytest.raises(NoDerivative, match=match):
        differentiate(built)


def test_logits_that_ignore_x_are_refused():
    built = model("s = Shape(x) c = ConstantOfShape(s)", head="c")
    with pytest.raises(NoDerivative, match="do not depend on x"):
        differentiate(built)


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


def test_branch_whose_outcome_does_not_depend_on_x_is_carried_along(question, errors_by_row):
    """torch's old exporter writes such an If for squeeze; it reads names of the graph around it."""
    body = (
        "scale = If<then_branch = t () => (float[6] a) { a = Exp(loss) }, else_branch = e () => (float[6] b) "
    )
    body += "{ b = Neg(loss) }>(c) y = Mul(pixels, scale)"
    loss = np.linspace(0.1, 1, 6, dtype=np.float32)
    built = model(body, x="pixels", head="y", c=np.array(True), loss=loss)
    asked = question.draw((5, 6), 4)
    scale, matrix = torch.tensor(loss).double().exp(), matrix_of(built)
    expected = asked.ask_torch(lambda x: (x * scale) @ matrix)
    assert errors_by_row(asked.ask_onnx(differentiate(built))[2], expected[2]).max() < 1e-5


def test_branch_that_is_always_taken_is_put_in_place_of_the_if(question, errors_by_row):
    body = "s = Shape<start=1, end=2>(x) e = Equal(s, six) c = Squeeze(e) y = If<then_branch = t () => "
    body += "(float[n,6] a) { two = Constant<value_float=2.0>() d = Mul(x, two) a = Exp(d) }, "
    body += "else_branch = e () => (float[n,6] b) { b = Neg(x) }>(c)"
    built = model(body, head="y", six=[6])
    asked = question.draw((5, 6), 4)
    matrix = matrix_of(built)
    gradient = differentiate(built)
    assert "If" not in {node.op_type for node in gradient.graph.node}
    expected = asked.ask_torch(lambda x: (2 * x).exp() @ matrix)
    assert errors_by_row(asked.ask_onnx(gradient)[2], expected[2]).max() < 1e-5


DEFINED_BY_OTHERS = {
    "MeanVarianceNormalization": (
        "y = MeanVarianceNormalization<axes=[1]>(x)", 20, {},
        lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)),
    "ThresholdedRelu": (
        "y = ThresholdedRelu<alpha=0.4>(x)", 20, {}, lambda x: torch.where(x > 0.4, x, 0 * x)),
    "Shrink": (
        "y = Shrink<lambd=0.3, bias=0.1>(x)", 20, {},
        lambda x: torch.where(x > 0.3, x - 0.1, torch.where(x < -0.3, x + 0.1, 0 * x))),
    "ReduceLogSum": (
        "l = ReduceLogSum<keepdims=1>(x, a) y = Add(x, l)", 20, {"a": [1]},
        lambda x: x + x.sum(1, keepdim=True).log()),
    "Swish": ("y = Swish<alpha=1.5>(x)", 24, {}, lambda x: x * torch.sigmoid(1.5 * x)),
    "CenterCropPad": (
        "c = CenterCropPad<axes=[1]>(x, s) e = Exp(c) y = CenterCropPad<axes=[1]>(e, t)", 20,
        {"s": [4], "t": [6]}, lambda x: torch.nn.functional.pad(x[:, 1:5].exp(), (1, 1))),
    "CastLike": ("d = CastLike(x, l) e = Exp(d) y = CastLike(e, x)", 20, {"l": np.float64(1)}, torch.exp),
    "RotaryEmbedding": (
        "r = Reshape(x, s) b = Shape<end=1>(x) q = Concat<axis=0>(b, three) o = Expand(p, q) "
        "e = RotaryEmbedding(r, c, i, o) y = Reshape(e, t)", 23,
        {"s": [0, 1, 3, 2], "three": [3], "t": [0, 6], "c": np.cos(np.float32([[0], [1], [2]])),
         "i": np.sin(np.float32([[0], [1], [2]])), "p": [[0, 1, 2]]},
        lambda x: torch.view_as_real(
            torch.view_as_complex(x.unflatten(1, (3, 2))) * torch.exp(1j * torch.arange(3))).flatten(1)),
    "RMSNormalization": (
        "y = RMSNormalization<axis=-1>(x, w)", 23, {"w": np.linspace(0.5, 1.5, 6, dtype=np.float32)},
        lambda x: torch.nn.functional.rms_norm(x, (6,), torch.linspace(0.5, 1.5, 6).double(), eps=1e-5)),
    "Attention": (
        "q = Reshape(x, s) e = Exp(q) a = Attention<q_num_heads=1, kv_num_heads=1>(q, e, q) "
        "y = Reshape(a, t)", 23, {"s": [0, 3, 2], "t": [0, 6]},
        lambda x: torch.nn.functional.scaled_dot_product_attention(
            *(v.unsqueeze(1) for v in (x.unflatten(1, (3, 2)), x.unflatten(1, (3, 2)).exp(),
                                       x.unflatten(1, (3, 2))))).flatten(1)),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINED_BY_OTHERS)
def test_operator_that_onnx_defines_by_others_needs_no_rule(name, question, errors_by_row):
    body, opset, constants, network = DEFINED_BY_OTHERS[name]
    assert name not in RULES
    built = model(body, head="y", opset=opset, ir=min(opset - 10, 11), **constants)
    asked = question.draw((6, 6), 4)
    matrix = matrix_of(built)
    _, _, grad = asked.ask_onnx(differentiate(built))
    assert errors_by_row(grad, asked.ask_torch(lambda x: network(x) @ matrix)[2]).max() < 1e-5


def test_same_model_same_bytes_and_the_model_is_left_alone():
    built = model("e = Exp(x) s = Sigmoid(e) y = Mul(e, s)", head="y")
    before = built.SerializeToString(deterministic=True)
    first, second = (differentiate(built).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert built.SerializeToString(deterministic=True) == before


def test_exporters_metadata_is_replaced_by_ours():
    built = model("e = Exp(x)", head="e")
    built.doc_string = built.graph.doc_string = built.graph.node[0].doc_string = "File /home/someone/net.py"
    built.graph.node[0].metadata_props.add(key="stack_trace", value="File /home/someone/net.py")
    built.metadata_props.add(key="author", value="/home/someone")
    gradient = differentiate(built)
    assert b"someone" not in gradient.SerializeToString()
    metadata = {entry.key: entry.value for entry in gradient.metadata_props}
    assert metadata["dra_serve.losses"] == "ce,margin,dlr,dlr_targeted"
    assert metadata["dra_serve.classes"] == "4"
    assert len(metadata["dra_serve.forward_sha256"]) == 64


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


def test_batch_fixed_at_one_is_opened(question, errors_by_row):
    built = model(
        "r = Reshape(x, s) e = Exp(r) y = Reshape(e, t)", shape="1,6", head="y", s=[1, 2, 3], t=[1, 6]
    )
    asked = question.draw((7, 6), 4)
    matrix = matrix_of(built)
    gradient = differentiate(built)
    assert gradient.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"
    assert (
        errors_by_row(asked.ask_onnx(gradient)[2], asked.ask_torch(lambda x: x.exp() @ matrix)[2]).max()
        < 1e-5
    )


def test_batch_that_cannot_be_opened_stays_fixed(question, errors_by_row):
    """The mean over the batch is the image itself at n = 1 only: opening it would change the answers."""
    built = model("m = ReduceMean<keepdims=1>(x, a) e = Exp(m)", shape="1,6", head="e", a=[0])
    gradient = differentiate(built)
    assert gradient.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    asked = question.draw((1, 6), 4)
    matrix = matrix_of(built)
    assert (
        errors_by_row(asked.ask_onnx(gradient)[2], asked.ask_torch(lambda x: x.exp() @ matrix)[2]).max()
        < 1e-5
    )


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
