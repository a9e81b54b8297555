"""A stop-gap until ATTACKS holds Square: corners of the ball, one block of pixels turned at a time."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from dra_serve.attacks.losses import margin
from dra_serve.attacks.norms import get_norm
from dra_serve.classifier import Classifier


def random_search(
    model: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    *,
    norm: str,
    eps: float,
    queries: int,
    seed: int,
    **_: Any,
) -> Any:
    """Return an object with success (N,) of a search that keeps what raises the margin."""
    rng, ball = np.random.default_rng(seed), get_norm(norm)
    high = ball.largest(model.input_shape)

    def inside(corner: np.ndarray) -> np.ndarray:
        moved: np.ndarray = np.clip(
            x + ball.project(corner * np.float32(eps if norm == "linf" else high), eps), 0, 1
        )
        return moved

    sign = (2 * rng.integers(0, 2, (len(x), x.shape[1], 1, x.shape[3])) - 1).astype(np.float32)
    best = np.broadcast_to(sign, x.shape).copy()
    value = margin(model.logits(inside(best)), y)[0]
    for query in range(queries - 1):
        side = max(1, int(x.shape[3] * (0.5 if query < queries // 4 else 0.2)))
        top, left = (int(rng.integers(0, size - side + 1)) for size in x.shape[2:])
        tried = best.copy()
        tried[:, :, top : top + side, left : left + side] = (
            2 * rng.integers(0, 2, (len(x), x.shape[1], 1, 1)) - 1
        )
        new = margin(model.logits(inside(tried)), y)[0]
        better = new > value
        best[better], value[better] = tried[better], new[better]
    return SimpleNamespace(success=value > 0)
