"""What is constant but for jumps gets no gradient, as in torch, and that is said."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from dra_serve.errors import NoDerivative
from dra_serve.gradient_graph import differentiate
from tests.dra_serve.gradient_graph.rules.case import Case


def hard(x):
    return F.one_hot(x.argmax(-1), x.shape[-1]).to(x)


CASES = [
    *(Case(name, f"r = {name}(x) y = Mul(r, x)", (3, 4), lambda x, f=f: f(x) * x)
      for name, f in {"Round": torch.round, "Floor": torch.floor, "Ceil": torch.ceil, "Sign": torch.sign,
                      "Hardmax": hard}.items()),
    Case("Hardmax of one axis", "r = Hardmax<axis=1>(x) y = Mul(r, x)", (3, 4),
         lambda x: hard(x.mT).mT * x),
    Case("OneHot of the largest", "i = ArgMax<keepdims=0, axis=2>(x) r = OneHot(i, d, v) y = Mul(r, x)",
         (3, 4), lambda x, d, v: hard(x) * x, {"d": [4], "v": np.float32([0, 1])}),
    Case("mask of a threshold", "c = Greater(x, t) m = Cast<to=1>(c) y = Mul(m, x)", (3, 4),
         lambda x, t: (x > t).to(x) * x, {"t": np.float32(0.3)}),
    Case("mask of several thresholds", "b = Greater(x, t) c = Less(x, u) d = Not(c) e = Or(b, d) "
         "m = Cast<to=1>(e) y = Mul(m, x)", (3, 4), lambda x, t, u: ((x > t) | (x >= u)).to(x) * x,
         {"t": np.float32(0.3), "u": np.float32(-0.5)}),
    Case("truncation", "i = Cast<to=7>(x) f = Cast<to=1>(i) y = Mul(f, x)", (3, 4), lambda x: x.trunc() * x),
    Case("truncation, counted on", "i = Cast<to=7>(x) j = Add(i, one) k = Mod(j, three) f = Cast<to=1>(k) "
         "y = Mul(f, x)", (3, 4), lambda x, one, three: (x.long() + one).remainder(three).to(x) * x,
         {"one": np.array(1), "three": np.array(3)}),
    Case("places as values", "v, i = TopK(x, k) f = Cast<to=1>(i) y = Mul(f, v)", (3, 4),
         lambda x, k: x.topk(3).indices * x.topk(3).values, {"k": [3]}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)


def said(model):
    return {entry.key: entry.value for entry in differentiate(model).metadata_props}


def test_what_stopped_a_gradient_is_said():
    case = Case("", "r = Round(x) f = Floor(x) s = Shape(f) e = Expand(r, s) y = Mul(e, x)", (3,),
                lambda x: x.round() * x)  # fmt: skip
    assert said(case.model_and_network()[0])["dra_serve.stopped"] == "Round"
    smooth = Case("", "y = Exp(x)", (3,), torch.exp)
    assert "dra_serve.stopped" not in said(smooth.model_and_network()[0])


def test_where_every_way_is_stopped_the_model_is_refused_not_zero():
    case = Case("", "r = Round(x) f = Floor(r) y = Exp(f)", (3,), lambda x: x.round().exp())
    with pytest.raises(NoDerivative, match=r"depend on x through it but by steps \(Floor\)"):
        differentiate(case.model_and_network()[0])


QUANTISED = {
    "MatMulInteger": "q, s, z = DynamicQuantizeLinear(x) i = MatMulInteger(q, w, z) c = Cast<to=1>(i) "
                     "m = Mul(c, s) y = Add(m, x)",
    "DynamicQuantizeLinear": "q, s, z = DynamicQuantizeLinear(x) c = Cast<to=1>(q) y = Add(c, x)",
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTISED)
def test_what_a_quantised_network_calculates_with_is_refused_by_name(name):
    case = Case("", QUANTISED[name], (4,), lambda x, **_: x, {"w": np.ones((4, 4), np.int8)})
    model, _ = case.model_and_network()
    with pytest.raises(NoDerivative, match=f"operator Cast .* of what {name} calculates"):
        differentiate(model)


INTEGERS = {
    "sizes": (
        "s = Shape(x) n = Gather(s, zero) c = Gather(s, one) d = Div(c, two) e = Mul(d, two) f = Add(e, c) "
        "g = Sub(f, c) h = Mod(g, five) i = Add(h, three) j = Unsqueeze(n, zero1) k = Unsqueeze(i, zero1) "
        "r = Concat<axis=0>(j, k, minus1) y = Reshape(x, r)",
        (8, 3), lambda x: x.reshape(len(x), 6, -1)),
    "sizes by way of floats": (
        "s = Shape<start=2>(x) f = Cast<to=1>(s) m = Mul(f, scale) l = Floor(m) i = Cast<to=7>(l) "
        'b = Shape<end=2>(x) t = Concat<axis=0>(b, i) y = Resize<mode="nearest", nearest_mode="floor", '
        'coordinate_transformation_mode="asymmetric">(x, , , t)',
        (2, 3, 4), lambda x: F.interpolate(x, (4, 6), mode="nearest")),
    "a range": (
        "s = Shape(x) c = Gather(s, one) d = Div(c, two) p = Range(zero, d, one) q = Mul(p, two) "
        "y = Gather<axis=1>(x, q)", (7, 2), lambda x: x[:, :6:2]),
    "places found in x, calculated with": (
        "i = ArgMax<axis=1, keepdims=1>(x) j = Add(i, one) k = Mod(j, five) g = GatherElements<axis=1>(x, k) "
        "y = Mul(g, x)", (5,),
        lambda x: x.gather(1, (x.argmax(1, keepdim=True) + 1) % 5) * x),
    "rows and columns of the largest": (
        "f = Flatten(x) v, i = TopK(f, two1) r = Div(i, three) c = Mod(i, three) m = Mul(r, three) "
        "p = Add(m, c) g = GatherElements<axis=1>(f, p) y = Mul(g, v)", (4, 3),
        lambda x: x.flatten(1).topk(2).values ** 2),
    "where a mask is not zero": (
        "z = NonZero(mask) t = Squeeze(z, zero1) y = Gather<axis=1>(x, t)", (4, 2),
        lambda x: x[:, [0, 3]]),
    "a branch of bools": (
        "b = Greater(x, scale) n = Not(b) a = And(n, b) o = Or(n, a) e = Exp(x) y = Where(o, x, e)", (4,),
        lambda x: torch.where(x > 1.5, x.exp(), x)),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_on_ways_without_a_gradient_are_never_refused(name, assert_exact):
    body, shape, network = INTEGERS[name]
    constants = {"zero": np.array(0), "one": np.array(1), "two": np.array(2), "three": np.array(3),
                 "five": np.array(5), "zero1": [0], "two1": [2], "minus1": [-1], "scale": np.float32(1.5),
                 "mask": np.array([True, False, False, True])}  # fmt: skip
    case = Case(name, body, shape, lambda x, **_: network(x), constants)
    assert "dra_serve.stopped" not in said(case.model_and_network()[0])
    assert_exact(case)
