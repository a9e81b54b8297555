"""Intervals on accuracies. They speak of the choice of images alone, and say nothing of seeds."""

import math

import numpy as np

from dra_serve.errors import BadRequest

Z = 1.959964  # 95 %


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927)."""
    if not 0 <= successes <= n or n < 1:
        raise BadRequest("n", given=(successes, n), allowed="0 <= successes <= n, n at least 1")
    p = successes / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return mean(a) - mean(b) of two models' outcomes (N,) bool on the same images, with its 95 % interval.

    With n10 images right in a alone and n01 in b alone: d = (n10 - n01) / n, and the standard error
    sqrt(n10 + n01 - (n10 - n01)^2 / n) / n (the interval beside McNemar's test).
    """
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise BadRequest(
            "outcomes", given=(a.shape, b.shape), allowed="two equally long, non-empty (N,) arrays"
        )
    n = len(a)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    d = (only_a - only_b) / n
    half = Z * math.sqrt(only_a + only_b - (only_a - only_b) ** 2 / n) / n
    return d, (d - half, d + half)
