"""Recurrent networks, back through time."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

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


def parts(x, w, r, b):
    """Return the sequence, its last state and the last cell of a forward LSTM, (N, T, hidden) each."""
    seen = lstm_of(x, w, r, b)[:, :, 0]
    before = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)
    gates = x @ w[0].T + before @ r[0].T + b[0].reshape(2, -1).sum(0)
    i, _, f, u = gates.chunk(4, 2)
    cell = torch.zeros_like(seen[:, 0])
    for t in range(x.shape[1]):
        cell = torch.sigmoid(f[:, t]) * cell + torch.sigmoid(i[:, t]) * torch.tanh(u[:, t])
    return seen, seen[:, -1:], cell[:, None]


def gru_of(x, w, r, b=None, h=None, *, reverse=(False,), reset_last=True):
    """ONNX's GRU (gates z, r, u) of x (N, T, inputs) -> (N, T, directions, hidden)."""
    sides = []
    for d, backwards in enumerate(reverse):
        width = r.shape[2]
        hidden = x.new_zeros(len(x), width) if h is None else h[d].expand(len(x), -1)
        b_x, b_y = x.new_zeros(2, 3 * width) if b is None else b[d].reshape(2, -1)
        seen = []
        for t in sorted(range(x.shape[1]), reverse=backwards):
            of_x = (x[:, t] @ w[d].T + b_x).split(width, 1)
            of_y = (hidden @ r[d].T + b_y).split(width, 1)
            z, gate = (torch.sigmoid(of_x[i] + of_y[i]) for i in (0, 1))
            held = (gate * hidden) @ r[d][2 * width :].T + b_y[2 * width :]
            u = torch.tanh(of_x[2] + (gate * of_y[2] if reset_last else held))
            hidden = (1 - z) * u + z * hidden
            seen.append(hidden)
        sides.append(torch.stack(seen[::-1] if backwards else seen, 1))
    return torch.stack(sides, 2)


def rnn_of(x, w, r, b=None, *, reverse=(False,), f=torch.tanh):
    sides = []
    for d, backwards in enumerate(reverse):
        hidden, seen = x.new_zeros(len(x), r.shape[2]), []
        for t in sorted(range(x.shape[1]), reverse=backwards):
            hidden = f(x[:, t] @ w[d].T + hidden @ r[d].T + b[d].reshape(2, -1).sum(0))
            seen.append(hidden)
        sides.append(torch.stack(seen[::-1] if backwards else seen, 1))
    return torch.stack(sides, 2)


WAYS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def weights(gates, way):
    d = len(WAYS[way])
    return {"w": (d, 3 * gates, 4), "r": (d, 3 * gates, 3), "b": (d, 6 * gates)}


def sequence(operator: str, attributes: str, way: str, gates: int, function) -> Case:
    return Case(f"{operator} {way} {attributes}", "t = Transpose<perm=[1,0,2]>(x) "
                f'v = {operator}<hidden_size=3, direction="{way}"{attributes}>(t, w, r, b) '
                "y = Transpose<perm=[2,0,1,3]>(v)", (5, 4),
                partial(function, reverse=WAYS[way]), weights(gates, way))  # fmt: skip


def last_of(seen, reverse):
    return torch.cat([seen[:, 0 if backwards else -1, d] for d, backwards in enumerate(reverse)], 1)


def last_state(operator: str, way: str, gates: int, function, attributes: str = "") -> Case:
    """As classifiers have it: nothing but the state after the last step goes on."""
    return Case(f"{operator} {way}, its last state", "t = Transpose<perm=[1,0,2]>(x) "
                f'_, h = {operator}<hidden_size=3, direction="{way}"{attributes}>(t, w, r, b) '
                "y = Transpose<perm=[1,0,2]>(h)", (5, 4),
                lambda x, **w: last_of(function(x, **w, reverse=WAYS[way]), WAYS[way]),
                weights(gates, way))  # fmt: skip


BEFORE = "t = Transpose<perm=[1,0,2]>(x) s = Shape<start=0, end=1>(x) e = Concat<axis=0>(one, s, k) "
CASES = [
    *(sequence("LSTM", "", way, 4, lstm_of) for way in WAYS),
    sequence("LSTM", ', activations=["Sigmoid","Tanh","Tanh"]', "forward", 4, lstm_of),
    *(last_state("LSTM", way, 4, lstm_of) for way in WAYS),
    Case("LSTM with a state to begin with", BEFORE + "m = Expand(h, e) n = Expand(c, e) "
         "v, p, q = LSTM<hidden_size=3>(t, w, r, , , m, n) y = Transpose<perm=[2,0,1,3]>(v)", (5, 4),
         lambda x, w, r, h, c, **_: lstm_of(x, w, r, None, h, c),
         {"w": (1, 12, 4), "r": (1, 12, 3), "h": (1, 1, 3), "c": (1, 1, 3), "one": [1], "k": [3]}),
    Case("LSTM, sequence, last state and last cell", "t = Transpose<perm=[1,0,2]>(x) "
         "v, p, q = LSTM<hidden_size=3>(t, w, r, b) u = Squeeze(v, one) o = Add(u, p) l = Add(o, q) "
         "y = Transpose<perm=[1,0,2]>(l)", (5, 4),
         lambda x, one, **w: sum(parts(x, **w)), {**weights(4, "forward"), "one": [1]}),
    *(sequence("GRU", f", linear_before_reset={int(last)}", way, 3, partial(gru_of, reset_last=last))
      for last in (True, False) for way in WAYS),
    *(last_state("GRU", way, 3, gru_of, ", linear_before_reset=1") for way in WAYS),
    *(Case(f"GRU with a state to begin with, {last}", BEFORE + "m = Expand(h, e) "
           f"v = GRU<hidden_size=3, linear_before_reset={last}>(t, w, r, , , m) "
           "y = Transpose<perm=[2,0,1,3]>(v)", (5, 4),
           partial(lambda x, w, r, h, last, **_: gru_of(x, w, r, None, h, reset_last=bool(last)), last=last),
           {"w": (1, 9, 4), "r": (1, 9, 3), "h": (1, 1, 3), "one": [1], "k": [3]}) for last in (0, 1)),
    *(sequence("RNN", "", way, 1, rnn_of) for way in WAYS),
    sequence("RNN", ', activations=["Relu","Tanh"]', "bidirectional", 1,
             lambda x, w, r, b, reverse: torch.cat([rnn_of(x, w[:1], r[:1], b[:1], f=torch.relu),
                                                    rnn_of(x, w[1:], r[1:], b[1:], reverse=(True,))], 2)),
    last_state("RNN", "bidirectional", 1, rnn_of),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rule_agrees_with_autograd_and_with_central_differences(case, assert_exact):
    assert_exact(case)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("made", "function", "order"),
    [(nn.LSTM, lstm_of, [0, 3, 1, 2]), (nn.GRU, gru_of, [1, 0, 2]), (nn.RNN, rnn_of, [0])],
)  # order: torch's places of ONNX's gates
def test_reference_is_torchs_own(made, function, order, way):
    both = len(WAYS[way]) == 2
    theirs = made(4, 3, batch_first=True, bidirectional=both).double().requires_grad_(False)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 5, 4)))

    def ordered(name):
        sides = [getattr(theirs, name + end) for end in ("", "_reverse")[: 1 + both]]
        return torch.stack([torch.cat([side.chunk(len(order))[i] for i in order]) for side in sides])

    w, r, b, c = (ordered(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    turned = x.flip(1) if way == "reverse" else x
    answer = theirs(turned)[0]
    ours = function(x, w, r, torch.cat([b, c], 1), reverse=WAYS[way])
    torch.testing.assert_close(ours.flatten(2), answer.flip(1) if way == "reverse" else answer)
