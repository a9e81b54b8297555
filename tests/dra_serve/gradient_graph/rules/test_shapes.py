"""Operators that move, copy or drop elements."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name torch itself gives it)

from tests.dra_serve.gradient_graph.rules.case import Case


def pad(mode: str, onnx_pads: list[int], torch_pads: tuple[int, ...], torch_mode: str | None = None) -> Case:
    return Case(f"Pad {mode} {onnx_pads}", f'y = Pad<mode="{mode}">(x, p)', (3, 4, 5),
                lambda x, p: F.pad(x, torch_pads, torch_mode or mode), {"p": onnx_pads})  # fmt: skip


def sliced(name: str, function: Callable[..., torch.Tensor], s, e, a, st=None) -> Case:
    body = "y = Slice(x, s, e, a, st)" if st else "y = Slice(x, s, e, a)"
    return Case(f"Slice {name}", body, (3, 4, 6), lambda x, **_: function(x),
                {"s": s, "e": e, "a": a, **({"st": st} if st else {})})  # fmt: skip


END = 2**63 - 1
CASES = [
    Case("Reshape", "y = Reshape(x, s)", (3, 4), lambda x, s: x.reshape(-1, 2, 6), {"s": [0, 2, -1]}),
    Case("Reshape by a computed shape",
         "s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, r) y = Reshape(x, t)",
         (3, 4), lambda x, r: x.reshape(-1, 2, 6), {"r": [2, 6]}),
    Case("Reshape into the batch", "z = Reshape(x, s) e = Exp(z) y = Reshape(e, r)", (3, 4), lambda x, s,
         r: x.exp(),
         {"s": [-1, 4], "r": [-1, 3, 4]}),
    Case("Flatten", "f = Flatten<axis=2>(x) y = Reshape(f, s)", (3, 4), lambda x, s: x, {"s": [-1, 3, 4]}),
    Case("Squeeze, Unsqueeze", "u = Unsqueeze(x, a) e = Exp(u) y = Squeeze(e, b)", (3, 4), lambda x, a,
         b: x.exp(),
         {"a": [1, 3], "b": [3]}),
    Case("Transpose", "y = Transpose<perm=[0,3,1,2]>(x)", (3, 4, 2), lambda x: x.permute(0, 3, 1, 2)),
    Case("Transpose reversed", "t = Transpose(x) e = Exp(t) y = Transpose(e)", (3, 4), lambda x: x.exp()),
    Case("Expand", "y = Expand(x, s)", (1, 4), lambda x, s: x.expand(-1, 3, -1), {"s": [1, 3, 1]}),
    Case("Expand, more axes", "u = Expand(x, s) y = Transpose<perm=[1,0,2,3]>(u)", (1, 4),
         lambda x, s: x.expand(2, -1, 3, 4).transpose(0, 1), {"s": [2, 1, 3, 1]}),
    Case("Tile", "y = Tile(x, r)", (3, 4), lambda x, r: x.repeat(1, 2, 3), {"r": [1, 2, 3]}),
    Case("Tile once", "y = Tile(x, r)", (3, 4), lambda x, r: x, {"r": [1, 1, 1]}),
    Case("Concat", "e = Exp(x) s = Sin(e) y = Concat<axis=-2>(x, e, s)", (3, 4),
         lambda x: torch.cat([x, x.exp(), x.exp().sin()], -2)),
    Case("Concat with a constant", "s = Shape<start=0, end=1>(x) t = Concat<axis=0>(s, r) c = Expand(a, t) "
         "y = Concat<axis=1>(c, x)", (3, 4),
         lambda x, a, r: torch.cat([a.expand(len(x), -1, -1), x], 1), {"a": (1, 1, 4), "r": [1, 4]}),
    Case("Split", "a, b = Split<axis=1>(x, s) e = Exp(b) y = Concat<axis=1>(e, a)", (5, 2),
         lambda x, s: torch.cat([x[:, 2:].exp(), x[:, :2]], 1), {"s": [2, 3]}),
    Case("Split, one part unused", "a, b, c = Split<axis=-1, num_outputs=3>(x) y = Mul(a, c)", (2, 6),
         lambda x: x[..., :2] * x[..., 4:]),
    pad("constant", [0, 0, 1, 2, 0, 1, 0, 3], (2, 3, 1, 0, 0, 1)),
    pad("constant", [0, 0, -1, 0, 0, 0, 2, -2], (0, -2, -1, 2)),
    pad("reflect", [0, 0, 1, 2, 0, 0, 3, 4], (2, 4, 1, 3)),
    pad("edge", [0, 0, 1, 2, 0, 0, 0, 3], (2, 3, 1, 0), "replicate"),
    pad("wrap", [0, 0, 1, 2, 0, 0, 0, 3], (2, 3, 1, 0), "circular"),
    Case("Pad axes", "y = Pad(x, p, , a)", (3, 4, 5), lambda x, p, a: F.pad(x, (1, 2)),
         {"p": [1, 2], "a": [-1]}),
    sliced("one axis", lambda x: x[:, 1:3], [1], [3], [1]),
    sliced("ends open", lambda x: x[:, :, 2:, :-1], [2, 0], [END, -1], [2, -1]),
    sliced("whole batch too", lambda x: x[:, 1:], [0, 1], [END, END], [0, 1]),
    sliced("steps", lambda x: x[:, :, ::2, 1:6:3], [0, 1], [END, 6], [2, 3], [2, 3]),
    sliced("backwards", lambda x: x.flip(3)[:, :2], [-1, 0], [-(2**62), 2], [3, 1], [-1, 1]),
    sliced("backwards, some", lambda x: x[..., [4, 2]], [4], [0], [3], [-2]),
    Case("Trilu", "y = Trilu<upper=0>(x, k)", (3, 4), lambda x, k: torch.tril(x, 1), {"k": np.array(1)}),
    Case("DepthToSpace DCR", "y = DepthToSpace<blocksize=2>(x)", (8, 3, 4),
         lambda x: x.reshape(-1, 2, 2, 2, 3, 4).permute(0, 3, 4, 1, 5, 2).reshape(-1, 2, 6, 8)),
    Case("DepthToSpace CRD", 'y = DepthToSpace<blocksize=2, mode="CRD">(x)', (8, 3, 4),
         lambda x: F.pixel_shuffle(x, 2)),
    Case("SpaceToDepth", "y = SpaceToDepth<blocksize=2>(x)", (3, 4, 6),
         lambda x: x.reshape(-1, 3, 2, 2, 3, 2).permute(0, 3, 5, 1, 2, 4).reshape(-1, 12, 2, 3)),
    Case("pixel_unshuffle as torch writes it",
         "a = Reshape(x, s) b = Transpose<perm=[0,1,3,5,2,4]>(a) y = Reshape(b, r)",
         (3, 4, 6), lambda x, s, r: F.pixel_unshuffle(x, 2), {"s": [-1, 3, 2, 2, 3, 2], "r": [-1, 12, 2, 3]}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
