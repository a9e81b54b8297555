"""Arithmetic with broadcasting."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import Case

CASES = [
    *(Case(f"{name} broadcast", f"y = {name}(x, a)", (3, 4, 2), function, {"a": (3, 1, 2)})
      for name, function in {"Add": lambda x, a: x + a, "Sub": lambda x, a: x - a,
                             "Mul": lambda x, a: x * a, "Div": lambda x, a: x / a}.items()),
    Case("Sub constant first", "y = Sub(a, x)", (3, 4), lambda x, a: a - x, {"a": (1, 4)}),
    Case("Div constant first", "y = Div(a, x)", (3, 4), lambda x, a: a / x, {"a": (1, 4)}, low=0.5),
    Case("x broadcast to more", "y = Mul(x, a)", (1, 4), lambda x, a: x * a, {"a": (3, 4)}),
    Case("x in all four", "p = Mul(x, x) q = Div(x, a) r = Div(p, q) s = Sub(r, p) y = Add(s, x)", (3, 4),
         lambda x, a: x * x / (x / a) - x * x + x, {"a": (4,)}, low=0.5),
    Case("both active, broadcast",
         "m = ReduceMean<keepdims=1>(x, axes) d = Sub(x, m) e = Mul(m, d) y = Div(e, m)",
         (3, 4), lambda x, axes: x - x.mean(2, keepdim=True), {"axes": [2]}, low=0.5),
    Case("broadcast adds axes", "m = ReduceSum<keepdims=0>(x, axes) y = Add(x, m)", (3, 4),
         lambda x, axes: x + x.sum((0, 1)), {"axes": [0, 1]}),
    Case("Sum of three", "y = Sum(x, a, x)", (3, 4), lambda x, a: 2 * x + a, {"a": (3, 1)}),
    Case("Mean of three", "y = Mean(x, a, x)", (3, 4), lambda x, a: (2 * x + a) / 3, {"a": (3, 1)}),
    Case("SiLU", "s = Sigmoid(x) y = Mul(x, s)", (3, 4), F.silu),
    Case("SiLU, gate first and used twice", "s = Sigmoid(x) m = Mul(s, x) y = Add(m, s)", (3, 4),
         lambda x: F.silu(x) + torch.sigmoid(x)),
    Case("gate of another value", "a = Neg(x) s = Sigmoid(a) y = Mul(x, s)", (3, 4),
         lambda x: x * torch.sigmoid(-x)),
    Case("Pow 2", "y = Pow(x, p)", (3, 4), lambda x, p: x**2, {"p": np.array(2.0, np.float32)}),
    Case("Pow 0.75", "y = Pow(x, p)", (3, 4), lambda x, p: x**0.75, {"p": np.array(0.75, np.float32)},
         low=0.5),
    Case("Pow -2", "y = Pow(x, p)", (3, 4), lambda x, p: x**-2, {"p": np.array(-2.0, np.float32)}, low=0.5),
    Case("Pow 3, integer", "y = Pow(x, p)", (3, 4), lambda x, p: x**3, {"p": np.array(3)}),
    Case("Pow, one exponent a channel", "y = Pow(x, p)", (3, 4), lambda x, p: x**p,
         {"p": np.array([[0.5], [-1.0], [2.5]], np.float32)}, low=0.5),
    Case("Mod", "y = Mod<fmod=1>(x, a)", (3, 4), lambda x, a: torch.fmod(x, a), {"a": (4,)}),
    Case("Max", "b = Neg(x) y = Max(x, a, b)", (3, 4), lambda x, a: torch.maximum(torch.maximum(x, a), -x),
         {"a": (4,)}),
    Case("Min", "y = Min(x, a)", (3, 4), lambda x, a: torch.minimum(x, a), {"a": (3, 1)}),
    Case("Max of equals", "y = Max(x, x)", (3, 4), lambda x: torch.maximum(x, x)),
    Case("Where constant condition", "y = Where(c, x, a)", (3, 4), lambda x, c, a: torch.where(c, x, a),
         {"c": np.array([True, False, True, True]), "a": (3, 4)}),
    Case("Where condition on x", "z = Sub(x, x) c = Greater(x, z) n = Exp(x) y = Where(c, x, n)", (3, 4),
         lambda x: torch.where(x > 0, x, x.exp())),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
