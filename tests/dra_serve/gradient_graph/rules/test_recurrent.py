"""Recurrent networks, back through time."""

from functools import partial

import pytest
import torch

from tests.dra_serve.gradient_graph.rules.case import Case


def lstm_of(x, w, r, b=None, h=None, c=None, *, reverse=(False,)):
    """ONNX's LSTM (gates i, o, f, u) of x (N, T, inputs) -> (N, T, directions, hidden)."""
    sides = []
    for d, backwards in enumerate(reverse):
        width = r.shape[2]
        hidden = x.new_zeros(len(x), width) if h is None else h[d].expand(len(x), -1)
        cell = x.new_zeros(len(x), width) if c is None else c[d].expand(len(x), -1)
        seen = []
        for t in sorted(range(x.shape[1]), reverse=backwards):
            gates = x[:, t] @ w[d].T + hidden @ r[d].T
            gates = gates if b is None else gates + b[d].reshape(2, -1).sum(0)
            i, o, f = torch.sigmoid(gates[:, : 3 * width]).chunk(3, 1)
            cell = f * cell + i * torch.tanh(gates[:, 3 * width :])
            hidden = o * torch.tanh(cell)
            seen.append(hidden)
        sides.append(torch.stack(seen[::-1] if backwards else seen, 1))
    return torch.stack(sides, 2)


def lstm(name: str, reverse: tuple[bool, ...]) -> Case:
    d = len(reverse)
    return Case(f"LSTM {name}", "t = Transpose<perm=[1,0,2]>(x) "
                f'v, h, c = LSTM<hidden_size=3, direction="{name}">(t, w, r, b) '
                "y = Transpose<perm=[2,0,1,3]>(v)",
                (5, 4), partial(lstm_of, reverse=reverse),
                {"w": (d, 12, 4), "r": (d, 12, 3), "b": (d, 24)})  # fmt: skip


CASES = [
    lstm("forward", (False,)),
    lstm("reverse", (True,)),
    lstm("bidirectional", (False, True)),
    Case("LSTM with a state to begin with", "t = Transpose<perm=[1,0,2]>(x) s = Shape<start=0, end=1>(x) "
         "e = Concat<axis=0>(one, s, k) m = Expand(h, e) n = Expand(c, e) "
         "v, p, q = LSTM<hidden_size=3>(t, w, r, , , m, n) y = Transpose<perm=[2,0,1,3]>(v)", (5, 4),
         lambda x, w, r, h, c, **_: lstm_of(x, w, r, None, h, c),
         {"w": (1, 12, 4), "r": (1, 12, 3), "h": (1, 1, 3), "c": (1, 1, 3), "one": [1], "k": [3]}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)
