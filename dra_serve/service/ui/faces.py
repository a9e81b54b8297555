"""How a model is introduced to visitors: what it was trained with, and what was measured of it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dra_serve.errors import UserError
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.receipts import title
from dra_serve.service.ui.card import Face


def introduce(model: OnnxClassifier) -> Face:
    """Return a model's name, what it was trained with, and the most telling of its receipts in a line."""
    lam = model.config.recipe.get("lam") if model.config else None
    role = ("DRA" if lam > 0 else "AT twin") if isinstance(lam, (int, float)) else ""
    return Face(name=model.name, role=role, record=record(model.receipts))


def record(receipts: Sequence[dict[str, Any]]) -> str:
    """Return the receipt of the most images, of those the hardest attack's, as a line; "" without any.

    Receipts come from outside: one without the figures is passed over.
    """
    lines = []
    for receipt in receipts:
        with suppress(KeyError, TypeError, ValueError, UserError):
            robust = float(receipt["robust_accuracy_8bit"])
            line = (
                f"{receipt['n']:,} images: {100 * receipt['clean_accuracy']:.1f} % clean, "
                f"{100 * robust:.1f} % under {title(receipt)}"
            )
            lines.append((-receipt["n"], robust, line))
    return min(lines)[2] if lines else ""
