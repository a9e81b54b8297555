"""Matrix products and Einsum."""

import pytest
import torch

from tests.dra_serve.gradient_graph.rules.case import Case

CASES = [
    Case("Gemm", "y = Gemm(x, w, b)", (6,), lambda x, w, b: x @ w + b, {"w": (6, 7), "b": (7,)}),
    Case("Gemm transB, alpha, beta", "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)", (6,),
         lambda x, w, b: 0.5 * x @ w.T + 2 * b, {"w": (7, 6), "b": (7,)}),
    Case("Gemm transA, both operands", "t = Transpose<perm=[1,0]>(x) s = Gemm<transA=1, alpha=2.0>(t, w) "
         "y = Gemm<transB=1, transA=1>(t, m, s)", (6,),
         lambda x, w, m: x @ m.T + 2 * x @ w, {"w": (6, 7), "m": (7, 6)}),
    Case("Gemm of x with x",
         "a = Transpose<perm=[1,0]>(x) s = Gemm<alpha=0.1>(x, a) y = Gemm<transA=1>(s, x)", (6,),
         lambda x: (0.1 * x @ x.T).T @ x),
    Case("Gemm of x with x, transposed", "s = Gemm<transB=1, alpha=0.1>(x, x) y = Gemm(s, x)", (6,),
         lambda x: 0.1 * x @ x.T @ x),
    Case("MatMul weight", "y = MatMul(x, w)", (3, 6), lambda x, w: x @ w, {"w": (6, 4)}),
    Case("MatMul weight on the left", "y = MatMul(w, x)", (2, 3, 6), lambda x, w: w @ x, {"w": (4, 3)}),
    Case("MatMul with a vector", "y = MatMul(x, v)", (3, 6), lambda x, v: x @ v, {"v": (6,)}),
    Case("MatMul both, attention",
         "t = Transpose<perm=[0,1,3,2]>(x) s = MatMul(x, t) p = Softmax(s) y = MatMul(p, x)",
         (2, 3, 4), lambda x: torch.softmax(x @ x.mT, -1) @ x),
    Case("MatMul broadcast batch", "k = ReduceMean<keepdims=1>(x, axes) y = MatMul(x, k)", (2, 3, 3),
         lambda x, axes: x @ x.mean(1, keepdim=True), {"axes": [1]}),
    Case("MatMul broadcast, fewer axes", "k = ReduceMean<keepdims=0>(x, axes) y = MatMul(x, k)", (2, 3, 3),
         lambda x, axes: x @ x.mean((0, 1)), {"axes": [0, 1]}),
    Case("Einsum weight", 'y = Einsum<equation="nchw,cd->ndhw">(x, w)', (3, 4, 2),
         lambda x, w: torch.einsum("nchw,cd->ndhw", x, w), {"w": (3, 5)}),
    Case("Einsum, a diagonal", 'y = Einsum<equation="bii->bi">(x)', (4, 4),
         lambda x: torch.einsum("bii->bi", x)),
    Case("Einsum, a trace and a weight", 'y = Einsum<equation="biic,cd->bd">(x, w)', (3, 3, 4),
         lambda x, w: torch.einsum("biic,cd->bd", x, w), {"w": (4, 5)}),
    Case("Einsum, a letter summed alone", 'y = Einsum<equation="bij,jk->bk">(x, w)', (3, 4),
         lambda x, w: torch.einsum("bij,jk->bk", x, w), {"w": (4, 5)}),
    Case("Einsum, ellipsis", 'y = Einsum<equation="...ij,jk->...ik">(x, w)', (2, 3, 4),
         lambda x, w: x @ w, {"w": (4, 5)}),
    Case("Einsum, result left open", 'y = Einsum<equation="bij,jk">(x, w)', (3, 4),
         lambda x, w: x @ w, {"w": (4, 5)}),
    Case("Einsum both", 'y = Einsum<equation="bij, bkj -> bik">(x, x)', (3, 4),
         lambda x: torch.einsum("bij,bkj->bik", x, x)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
