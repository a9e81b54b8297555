"""A receipt: a robustness number with everything needed to obtain it again, image by image."""

import math
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dra_serve.errors import BadRequest
from dra_serve.evaluation.data import LabelledImages
from dra_serve.evaluation.runner import Outcomes

Z = 1.959964  # 95 %
_PACKAGES = ("dra-serve", "numpy", "onnxruntime")


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927).

    It speaks of image sampling alone.
    """
    if not 0 <= successes <= n or n < 1:
        raise BadRequest("n", given=(successes, n), allowed="0 <= successes <= n, n at least 1")
    p = successes / n
    centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return mean(a) - mean(b) of two models' outcomes (N,) bool on the same images, with its 95 % interval.

    With n10 images right in a alone and n01 in b alone: d = (n10 - n01) / n, and the standard error
    sqrt(n10 + n01 - (n10 - n01)^2 / n) / n (the interval beside McNemar's test). Image sampling alone:
    it says nothing of seeds.
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


def build_receipt(
    outcomes: Outcomes,
    images: LabelledImages,
    *,
    model: str,
    model_sha256: str,
    attack: str,
    parameters: dict[str, Any],
    subset_seed: int,
    seconds: float,
) -> dict[str, Any]:
    """Return the receipt of one evaluation as JSON values (DESIGN 3.8). Accuracies are fractions.

    parameters: every argument in force, as the attack's `resolve` gives them.
    """
    n = len(images.y)
    counts = {name: int(getattr(outcomes, name).sum()) for name in ("clean", "robust", "robust_8bit")}
    rest = {
        key: value
        for key, value in parameters.items()
        if key not in ("norm", "eps", "seed", "name", "attack")
    }
    whole = n == images.total
    return {
        "schema_version": 1,
        "model": model,
        "model_sha256": model_sha256,
        "data": {"name": images.name, "sha256": images.sha256, "split": "test"},
        "n": n,
        "images": "all" if whole else {"permutation_seed": subset_seed, "first": n, "of": images.total},
        "attack": {"name": attack} | rest,
        "norm": parameters["norm"],
        "eps": parameters["eps"],
        "seed": parameters.get("seed"),
        "clean_accuracy": counts["clean"] / n,
        "robust_accuracy": counts["robust"] / n,
        "robust_accuracy_8bit": counts["robust_8bit"] / n,
        "wilson_95": list(wilson(counts["robust"], n)),
        "outcomes": {name: pack(getattr(outcomes, name)) for name in counts},
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(seconds, 1),
        "warnings": _warnings(n, counts["robust"]),
    }


def pack(flags: np.ndarray) -> str:
    """Return bool (N,) as hexadecimal, eight images a byte, first image first."""
    return np.packbits(flags).tobytes().hex()


def unpack(text: str, n: int) -> np.ndarray:
    """Return what `pack` packed, bool (n,)."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=n).astype(bool)


def _warnings(n: int, robust: int) -> list[str]:
    low, high = wilson(robust, n)
    if high - low > 0.04:
        return [f"few-images: {n} images leave an interval of {100 * (high - low):.1f} points"]
    return []


def _commit() -> str | None:
    """Return the checkout's commit, with a plus if it has changes; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)  # noqa: S603, S607
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return (commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")) or None
    except (OSError, subprocess.TimeoutExpired):
        return None
