"""Operators that pick elements by index, or put them."""

import numpy as np
import pytest
import torch

from tests.dra_serve.gradient_graph.rules.case import Case

CASES = [
    Case("Gather one", "y = Gather<axis=1>(x, i)", (3, 4), lambda x, i: x[:, -1], {"i": np.array(-1)}),
    Case("Gather some, one twice", "y = Gather<axis=2>(x, i)", (3, 4, 2), lambda x, i: x[:, :, i],
         {"i": [3, 0, 3, -3]}),
    Case("Gather one between transposes", "r = Reshape(x, s) t = Transpose<perm=[2,0,1,3]>(r) "
         "a = Gather<axis=0>(t, zero) b = Gather<axis=0>(t, two) e = Transpose<perm=[0,2,1]>(a) "
         "f = Transpose<perm=[0,2,1]>(b) m = Mul(e, f) y = Exp(m)", (2, 12),
         lambda x, s, **_: (x.unflatten(2, (3, 4))[:, :, 0] * x.unflatten(2, (3, 4))[:, :, 2]).exp().mT,
         {"s": [0, 2, 3, 4], "zero": np.array(0), "two": np.array(2)}, low=-1, high=1),
    Case("Gather by a matrix", "y = Gather<axis=1>(x, i)", (3, 4), lambda x, i: x[:, i],
         {"i": [[0, 2], [2, 2]]}),
    Case("Gather a permutation", "y = Gather<axis=1>(x, i)", (3, 4), lambda x, i: x[:, [2, 0, 1]],
         {"i": [2, 0, 1]}),
    Case("Gather by places that follow the batch",
         "f = Reshape(x, r) s = Size(x) p = Range(zero, s, two) g = Gather(f, p) y = Reshape(g, t)", (3, 4),
         lambda x, r, t, **_: x.reshape(-1)[::2].reshape(-1, 6),
         {"r": [-1], "zero": np.array(0), "two": np.array(2), "t": [-1, 6]}),
    Case("GatherND, one place twice", "t = Transpose<perm=[1,2,0]>(x) g = GatherND(t, i) "
         "y = Transpose<perm=[1,0]>(g)", (3, 4), lambda x, i: x[:, [0, 2, 0], [1, 3, 1]],
         {"i": [[0, 1], [2, 3], [0, 1]]}),
    Case("GatherElements", "s = Shape(x) z = Expand(two, s) y = GatherElements<axis=1>(x, z)", (3, 4),
         lambda x, two: x[:, 2:].expand(-1, 3, -1), {"two": np.array(2)}),
    Case("Gather one before the batch", "t = Transpose<perm=[1,0,2]>(x) y = Gather<axis=0>(t, i)",
         (3, 4), lambda x, i: x[:, 1], {"i": np.array(1)}),
    Case("ScatterND", "t = Transpose<perm=[1,0,2]>(x) u = Gather(t, j) e = Exp(u) s = ScatterND(t, i, e) "
         "y = Transpose<perm=[1,0,2]>(s)", (3, 4),
         lambda x, i, j: torch.stack([x[:, 0], x[:, 0].exp(), x[:, 2]], 1), {"i": [[1]], "j": [0]}),
    Case("ScatterND at places that follow the batch",
         "f = Reshape(x, r) s = Size(x) p = Range(zero, s, two) q = Unsqueeze(p, one) g = Gather(f, p) "
         "e = Exp(g) z = ScatterND(f, q, e) y = Reshape(z, t)", (4,),
         lambda x, **_: torch.stack([x[:, 0].exp(), x[:, 1], x[:, 2].exp(), x[:, 3]], 1),
         {"r": [-1], "zero": np.array(0), "two": np.array(2), "one": [1], "t": [-1, 4]}),
    Case("ScatterND add", 'u = Gather(x, j) e = Exp(u) y = ScatterND<reduction="add">(x, i, e)', (3, 4),
         lambda x, i, j: x.index_add(0, torch.tensor([1, 1]), x[:2].exp()), {"i": [[1], [1]], "j": [0, 1]}),
    Case("Gather by the largest columns of the batch", "c = ReduceSum<keepdims=0>(x, z) v, i = TopK(c, k) "
         "y = Gather<axis=2>(x, i)", (3, 4), lambda x, z, k: x[:, :, x.sum((0, 1)).topk(2).indices],
         {"z": [0, 1], "k": [2]}),
    Case("TopK", "y, i = TopK<axis=1>(x, k)", (5, 4), lambda x, k: x.topk(3, dim=1).values, {"k": [3]}),
    Case("TopK, the least", "y, i = TopK<largest=0>(x, k)", (3, 6),
         lambda x, k: x.topk(2, largest=False).values, {"k": [2]}),
    Case("TopK, places used", "v, i = TopK(x, k) g = GatherElements<axis=-1>(x, i) y = Mul(v, g)", (3, 6),
         lambda x, k: x.topk(2).values ** 2, {"k": [2]}),
    Case("ScatterElements", "t = Transpose<perm=[1,0]>(x) u = Gather(t, j) e = Exp(u) s = Shape(e) "
         "p = Expand(i, s) z = ScatterElements<reduction=\"add\">(t, p, e) y = Transpose<perm=[1,0]>(z)",
         (4,), lambda x, i, j: x.index_add(1, torch.tensor([1, 1]), x[:, :2].exp()),
         {"i": [[1], [1]], "j": [0, 1]}),
    Case("ScatterElements, overwriting", "f = Reshape(x, r) a = Gather(f, j) e = Exp(a) "
         "z = ScatterElements(f, i, e) y = Reshape(z, b)", (4,),
         lambda x, **_: torch.cat([x.flatten()[:1], x.flatten()[[0, 1]].exp().flip(0), x.flatten()[3:]])
         .reshape(-1, 4), {"r": [-1], "b": [-1, 4], "i": [2, 1], "j": [0, 1]}),
    Case("CumSum", "y = CumSum(x, a)", (3, 4), lambda x, a: x.cumsum(2), {"a": np.array(2)}),
    Case("CumSum exclusive, backwards", "y = CumSum<exclusive=1, reverse=1>(x, a)", (3, 4),
         lambda x, a: x.flip(1).cumsum(1).flip(1) - x, {"a": np.array(1)}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
