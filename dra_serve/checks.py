"""Input checks shared by every classifier and attack, over NumPy and torch alike.

Each returns the value in the form the core computes with, or raises BadRequest naming the field.
"""

from typing import Any

from array_api_compat import array_namespace, device

from dra_serve.classifier import Array
from dra_serve.errors import BadRequest


def check_images(x: Array, input_shape: tuple[int, int, int], *, field: str = "x") -> None:
    """Raise BadRequest unless x is float32 (N, C, H, W), finite and in [0, 1]. N = 0 is allowed."""
    xp = array_namespace(x)
    allowed = f"float32 (N, {', '.join(map(str, input_shape))}) in [0, 1]"
    if x.dtype != xp.float32:
        raise BadRequest(field, given=f"dtype {_name(x.dtype)}", allowed=allowed)
    if x.ndim != 4 or tuple(x.shape[1:]) != tuple(input_shape):
        raise BadRequest(field, given=f"shape {tuple(x.shape)}", allowed=allowed)
    if x.shape[0] == 0:
        return
    low, high = float(xp.min(x)), float(xp.max(x))
    if not (low >= 0 and high <= 1):  # a nan anywhere makes both comparisons false
        raise BadRequest(field, given=f"values from {low:g} to {high:g}", allowed=allowed)


def check_labels(y: Any, n: int, classes: int, *, like: Array, field: str = "y") -> Array:
    """Return y as int64 (n,) beside `like`, each in 0..classes-1."""
    xp = array_namespace(like)
    allowed = f"({n},) integers from 0 to {classes - 1}"
    labels = xp.asarray(y, device=device(like))
    if n == 0 and tuple(labels.shape) == (0,):
        return xp.zeros((0,), dtype=xp.int64, device=device(like))  # [] has no integer type of its own
    if not xp.isdtype(labels.dtype, "integral"):
        raise BadRequest(field, given=f"dtype {_name(labels.dtype)}", allowed=allowed)
    if tuple(labels.shape) != (n,):
        raise BadRequest(field, given=f"shape {tuple(labels.shape)}", allowed=allowed)
    low, high = int(xp.min(labels)), int(xp.max(labels))
    if low < 0 or high >= classes:
        raise BadRequest(field, given=low if low < 0 else high, allowed=allowed)
    return xp.astype(labels, xp.int64)


def check_integer(value: Any, low: int, high: int, *, field: str) -> int:
    """Return value as int, in low..high. A bool is no integer here."""
    try:
        number = int(value) if not isinstance(value, (bool, str, float)) else None
    except (TypeError, ValueError):
        number = None
    if number is None or not low <= number <= high:
        raise BadRequest(field, given=value, allowed=f"an integer from {low:,} to {high:,}")
    return number


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
