"""Operators that act on each element by itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import Case, unary

CASES = [
    unary("Identity", lambda x: x),
    unary("Neg", torch.neg),
    unary("Abs", torch.abs),
    unary("Exp", torch.exp),
    unary("Log", torch.log, low=0.2),
    unary("Sqrt", torch.sqrt, low=0.2),
    unary("Reciprocal", torch.reciprocal, low=0.3),
    unary("Sin", torch.sin),
    unary("Cos", torch.cos),
    unary("Tan", torch.tan, low=-1, high=1),
    unary("Asin", torch.asin, low=-0.9, high=0.9),
    unary("Acos", torch.acos, low=-0.9, high=0.9),
    unary("Atan", torch.atan),
    unary("Sinh", torch.sinh),
    unary("Cosh", torch.cosh),
    unary("Asinh", torch.asinh),
    unary("Acosh", torch.acosh, low=1.2),
    unary("Atanh", torch.atanh, low=-0.9, high=0.9),
    unary("Relu", torch.relu),
    unary("Sigmoid", torch.sigmoid),
    unary("Tanh", torch.tanh),
    unary("Erf", torch.erf),
    unary("Softplus", F.softplus),
    unary("Softsign", F.softsign),
    unary("HardSwish", F.hardswish, low=-5, high=5),
    unary("HardSigmoid", F.hardsigmoid, f"<alpha={1 / 6:.9f}>", low=-5, high=5),
    unary("HardSigmoid", lambda x: (0.2 * x + 0.5).clamp(0, 1), low=-4, high=4),
    unary("HardSigmoid", lambda x: (0.3 * x + 0.4).clamp(0, 1), "<alpha=0.3, beta=0.4>", low=-4, high=4),
    unary("Mish", F.mish),
    unary("LeakyRelu", F.leaky_relu),
    unary("LeakyRelu", lambda x: F.leaky_relu(x, 0.2), "<alpha=0.2>"),
    unary("Elu", F.elu),
    unary("Elu", lambda x: F.elu(x, 0.7), "<alpha=0.7>"),
    unary("Celu", lambda x: F.celu(x, 0.7), "<alpha=0.7>"),
    unary("Selu", F.selu),
    unary("Gelu", F.gelu),
    unary("Gelu", lambda x: F.gelu(x, approximate="tanh"), '<approximate="tanh">'),
    unary("Dropout", lambda x: x),
    unary("Cast", lambda x: x, "<to=1>"),
    Case("Cast there and back", "d = Cast<to=11>(x) e = Exp(d) y = Cast<to=1>(e)", (3, 4), torch.exp),
    Case("PRelu", "y = PRelu(x, a)", (3, 4, 2), lambda x, a: torch.where(x > 0, x, a * x), {"a": (3, 1, 1)}),
    Case("Clip", "y = Clip(x, a, b)", (3, 4), lambda x, a, b: x.clamp(a, b),
         {"a": np.float32(-1), "b": np.float32(0.5)}),
    Case("Clip above", "y = Clip(x, , b)", (3, 4), lambda x, b: x.clamp(max=b), {"b": np.float32(0.5)}),
    Case("Clip below", "y = Clip(x, a)", (3, 4), lambda x, a: x.clamp(min=a), {"a": np.float32(-0.5)}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
