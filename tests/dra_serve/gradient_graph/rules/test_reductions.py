"""Reductions along axes, and softmax."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.dra_serve.gradient_graph.rules.case import Case, unary


def reduction(
    name: str, function: Callable[..., torch.Tensor], attributes: str, axes: list | None, **limits
) -> Case:
    body = f"y = {name}<{attributes}>(x{', axes' if axes else ''})"
    network = (lambda x, axes: function(x)) if axes else function
    return Case(
        f"{name} {attributes} {axes}", body, (3, 4, 2), network, {"axes": axes} if axes else {}, **limits
    )


CASES = [
    reduction("ReduceMean", lambda x: x.mean((2, 3)), "keepdims=0", [2, 3]),
    reduction("ReduceMean", lambda x: x.mean((2, 3), keepdim=True), "keepdims=1", [-1, -2]),
    reduction("ReduceMean", lambda x: x, "noop_with_empty_axes=1, keepdims=0", None),
    reduction("ReduceSum", lambda x: x.sum(1), "keepdims=0", [1]),
    reduction("ReduceSumSquare", lambda x: (x * x).sum((1, 3)), "keepdims=0", [1, 3]),
    reduction("ReduceL1", lambda x: x.abs().sum(1), "keepdims=0", [1]),
    reduction("ReduceL2", lambda x: x.norm(dim=1), "keepdims=0", [1]),
    reduction("ReduceLogSumExp", lambda x: x.logsumexp((2, 3)), "keepdims=0", [2, 3]),
    reduction("ReduceProd", lambda x: x.prod(2), "keepdims=0", [2]),
    Case("ReduceProd beside zeros", "r = Relu(x) p = ReduceProd(r, a) y = Add(p, x)", (3, 2),
         lambda x, a: torch.relu(x).prod(2, keepdim=True) + x, {"a": [2]}),
    Case("ReduceProd of one zero", "m = Mul(x, w) p = ReduceProd(m, a) y = Add(p, x)", (3, 3),
         lambda x, w, a: (x * w).prod(2, keepdim=True) + x, {"a": [2], "w": np.float32([1, 0, 2])}),
    reduction("ReduceMax", lambda x: x.amax((2, 3)), "keepdims=0", [2, 3]),
    reduction("ReduceMin", lambda x: x.amin(1, keepdim=True), "keepdims=1", [1]),
    Case("ReduceMean of everything", "m = ReduceMean(x) y = Mul(x, m)", (3, 4), lambda x: x * x.mean()),
    Case("ReduceMax shares between equals", "r = Relu(x) m = ReduceMax(r, axes) y = Mul(m, a)", (3, 4),
         lambda x, axes, a: torch.relu(x).amax(2, keepdim=True) * a, {"axes": [2], "a": (4,)}, low=0.1),
    unary("Softmax", lambda x: x.softmax(-1)),
    unary("Softmax", lambda x: x.softmax(1), "<axis=1>"),
    unary("LogSoftmax", lambda x: x.log_softmax(-1)),
    unary("LogSoftmax", lambda x: x.log_softmax(2), "<axis=-2>"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
