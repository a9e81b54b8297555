"""Loops of a fixed number of rounds are written out; others are refused by name."""

import numpy as np
import pytest
import torch

from dra_serve.errors import NoDerivative
from dra_serve.gradient_graph import differentiate
from tests.dra_serve.gradient_graph.rules.case import Case

LOOP = """y, rows = Loop<body = round (int64 i, bool go, float[n,4] h)
    => (bool on, float[n,4] out, float[n,4] row) {{
    f = Cast<to=1>(i) t = Sin(h) s = Mul(t, w) a = Add(s, f) out = Add(a, x) row = Exp(t) {condition}
}}>(trips, {begins}, x) """
STACKED = "r = Transpose<perm=[1,2,0]>(rows) m = ReduceMean<keepdims=0>(r, axis) z = Add(y, m)"


def looped(x, w, trips=3, **_):
    h, rows = x, []
    for i in range(trips):
        rows.append(h.sin().exp())
        h = h.sin() * w + i + x
    return h + torch.stack(rows).mean(0)


def loop(name, condition, begins, function=looped, **constants):
    body = LOOP.format(condition=condition, begins=begins).replace("y, rows", "h, rows")
    body += STACKED.replace("z = Add(y, m)", "y = Add(h, m)")
    given = {"trips": np.array(3), "true": np.array(True), "w": (4,), "axis": [2], **constants}
    return Case(name, body, (4,), function, given)


def cell(x, w, backwards=False):
    h, seen = x[:, 0], []
    steps = list(range(5))[:: -1 if backwards else 1]
    for t in steps:
        h = torch.tanh(h @ w + x[:, t])
        seen.append(h)
    return h + torch.stack(seen, 1).mean(1) + seen[-1]


def scan(name, way):
    body = (
        "i = Gather<axis=1>(x, first) "
        "h, rows = Scan<num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], "
        f"scan_input_directions=[{way}], scan_output_directions=[{way}], "
        "body = round (float[n,4] h, float[n,4] v) => (float[n,4] out, float[n,4] row) { "
        "m = MatMul(h, w) a = Add(m, v) out = Tanh(a) row = Identity(out) }>(i, x) "
        "m = ReduceMean<keepdims=0>(rows, axis) l = Gather<axis=1>(rows, last) b = Add(h, m) y = Add(b, l)"
    )
    constants = {"w": (4, 4), "axis": [1], "first": np.array(0), "last": np.array(0 if way else -1)}
    return Case(name, body, (5, 4), lambda x, w, **_: cell(x, w, bool(way)), constants)


CASES = [
    loop("Loop that passes its condition on", "on = Identity(go)", "true"),
    loop("Loop without a condition", "on = Identity(go)", ""),
    loop("Loop whose condition is a constant", "on = Constant<value = bool {1}>()", "true"),
    loop("Loop of one round", "on = Identity(go)", "true",
         lambda x, w, **_: looped(x, w, 1), trips=np.array(1)),
    scan("Scan", 0),
    scan("Scan from the end", 1),
]  # fmt: skip


@pytest.fixture
def assert_exact(question, errors_by_row):
    def check(case):
        model, network = case.model_and_network()
        asked = question.draw((8, *case.shape), 5, low=-1, high=1)
        gradient = differentiate(model)
        assert not {"Loop", "Scan"} & {node.op_type for node in gradient.graph.node}
        logits, _, grad = asked.ask_onnx(gradient)
        torch_logits, _, torch_grad = asked.ask_torch(network)
        assert errors_by_row(logits, torch_logits).max() < 1e-5
        assert errors_by_row(grad, torch_grad).max() < 2e-5

    return check


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gradient_through_a_loop_is_torchs(case, assert_exact):
    assert_exact(case)


REFUSED = {
    "a condition on the way": loop(
        "", "total = ReduceSum<keepdims=0>(out) on = Less(total, limit)", "true", limit=np.float32(1e9)),
    "rounds that follow the batch": Case(
        "", "trips = Size(x) " + LOOP.format(condition="on = Identity(go)", begins="true"), (4,),
        lambda x, **_: x, {"w": (4,), "true": np.array(True)}),
    "too many rounds": loop("", "on = Identity(go)", "true", trips=np.array(10_000)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_loop_of_another_kind_is_refused_by_name_with_a_word_of_advice(name):
    model, _ = REFUSED[name].model_and_network()
    with pytest.raises(
        NoDerivative, match=r"operator Loop .*number of its rounds is fixed.*export it unrolled"
    ):
        differentiate(model)
