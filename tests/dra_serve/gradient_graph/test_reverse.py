"""What the reverse pass refuses, by name, and what it writes."""

import numpy as np
import pytest

from dra_serve.errors import NoDerivative
from dra_serve.gradient_graph import differentiate
from tests.dra_serve.gradient_graph.small import model


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
