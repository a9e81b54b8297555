"""Value and gradient of the four losses at the logits, in closed form.

With z the logits, e_i one-hot, o the best class but y, s1 >= s2 >= ... the sorted logits:

    ce            logsumexp(z) - z_y      softmax(z) - e_y
    margin        z_o - z_y               e_o - e_y
    dlr           v = (z_o - z_y) / d     (e_o - e_y - v (e_1 - e_3)) / d
    dlr_targeted  v = (z_t - z_y) / d     (e_t - e_y - v (e_1 - (e_3 + e_4) / 2)) / d

with d = s1 - s3 + 1e-12, or s1 - (s3 + s4) / 2 + 1e-12 for the targeted one.

DLR after Croce and Hein 2020, equations 6 and 7. With two classes there is no s3 and nothing is
divided by; with three no s4, and the targeted loss divides as dlr does.
"""

import numpy as np

from dra_serve.gradient_graph.graph import Graph

_LOWEST = float(np.finfo(np.float32).min)


def loss_and_grad_at_logits(G: Graph, z: str, classes: int) -> tuple[str, str]:
    """Return names of the value (N,) and its gradient (N, K) at the logits `z` (N, K), K >= 2.

    Reads the graph inputs y, target and loss (N,); any loss code but 0, 1, 2 means 3.
    """
    e_y, e_t = _one_hot(G, "y", classes), _one_hot(G, "target", classes)
    others = G("Where", G("Cast", e_y, to=9), _LOWEST, z)  # 9: bool
    e_o = _one_hot(G, G("ArgMax", others, axis=1, keepdims=0), classes)

    toward_other, toward_target = G("Sub", e_o, e_y), G("Sub", e_t, e_y)
    ce = G("Neg", _dot(G, e_y, G("LogSoftmax", z, axis=1)))
    margin = _dot(G, z, toward_other)
    targeted = _dot(G, z, toward_target)
    choices = [(ce, G("Sub", G("Softmax", z, axis=1), e_y)), (margin, toward_other)]
    if classes == 2:
        choices += [(margin, toward_other), (targeted, toward_target)]
    else:
        first, third, fourth = (
            _one_hot(G, _ranked(G, z, place), classes) for place in (0, 2, min(3, classes - 1))
        )
        third_and_fourth = G("Mul", G("Add", third, fourth), 0.5)
        choices.append(_divided(G, z, margin, toward_other, G("Sub", first, third)))
        choices.append(_divided(G, z, targeted, toward_target, G("Sub", first, third_and_fourth)))

    code = G("Unsqueeze", "loss", [1])
    value, grad = choices[3]
    for number in (2, 1, 0):
        chosen = G("Equal", code, [number])
        value = G("Where", chosen, choices[number][0], value)
        grad = G("Where", chosen, choices[number][1], grad)
    return G("Squeeze", value, [1], name="value"), grad


def _one_hot(G: Graph, labels: str, classes: int) -> str:
    return G("OneHot", labels, [classes], np.array([0, 1], np.float32), axis=1)


def _dot(G: Graph, a: str, b: str) -> str:
    return G("ReduceSum", G("Mul", a, b), [1], keepdims=1)


def _ranked(G: Graph, z: str, place: int) -> str:
    """Return the class (N,) whose logit stands at `place`, 0 the largest."""
    best = G("TopK", z, [place + 1], axis=1, outputs=2, take=1)
    return G("Gather", best, np.array(place, np.int64), axis=1)


def _divided(G: Graph, z: str, numerator: str, toward: str, spread: str) -> tuple[str, str]:
    """Return v = numerator / d and its gradient (toward - v spread) / d, with d = z . spread + 1e-12."""
    d = G("Add", _dot(G, z, spread), 1e-12)
    value = G("Div", numerator, d)
    return value, G("Div", G("Sub", toward, G("Mul", value, spread)), d)
