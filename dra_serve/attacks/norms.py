"""The two threat models as values: an attack's loop asks the norm, and never branches on its name."""

import math
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace

from dra_serve.classifier import Array
from dra_serve.errors import BadRequest

_PIXELS = (1, 2, 3)  # the axes of one image in (N, C, H, W)


class Norm(Protocol):
    """A norm on perturbations delta (N, C, H, W), in units of x."""

    name: str
    dual: float
    """The order of the dual norm: on a linear model the best attack gains eps * ||w||_dual."""

    def project(self, delta: Array, eps: float) -> Array:
        """Return the nearest delta of size at most eps; one already inside comes back unchanged."""
        ...

    def ascent(self, grad: Array) -> Array:
        """Return, as a new array, the direction of size 1 along which a linear loss grows fastest; 0 at 0.

        grad: finite, as `Objective.gradient` hands it out.
        """
        ...

    def size(self, delta: Array) -> Array:
        """Return the norm of each delta, (N,)."""
        ...

    def largest(self, shape: tuple[int, ...]) -> float:
        """Return the distance of the two farthest images of this shape: no larger eps means anything."""
        ...

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Return one float32 delta drawn uniformly from the unit ball."""
        ...


class Linf:
    """No pixel moves by more than eps."""

    name = "linf"
    dual = 1.0

    def project(self, delta: Array, eps: float) -> Array:
        return clip(delta, -eps, eps)

    def ascent(self, grad: Array) -> Array:
        # torch's own: array_api_compat's looks for a nan first, many times as slowly
        return grad.sign() if hasattr(grad, "sign") else array_namespace(grad).sign(grad)

    def size(self, delta: Array) -> Array:
        xp = array_namespace(delta)
        return xp.max(xp.abs(delta), axis=_PIXELS)

    def largest(self, shape: tuple[int, ...]) -> float:
        return 1.0

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return 2 * rng.random(shape, dtype=np.float32) - 1


class L2:
    """The Euclidean length of the whole perturbation is at most eps."""

    name = "l2"
    dual = 2.0

    def project(self, delta: Array, eps: float) -> Array:
        direction, largest, length = _polar(delta)
        outside = largest * length > eps
        # where() and not min(1, eps / size): a delta inside must not move by a bit
        return array_namespace(delta).where(outside, eps * direction, delta)

    def ascent(self, grad: Array) -> Array:
        return _polar(grad)[0]

    def size(self, delta: Array) -> Array:
        _, largest, length = _polar(delta)
        return (largest * length)[:, 0, 0, 0]

    def largest(self, shape: tuple[int, ...]) -> float:
        return math.sqrt(math.prod(shape))

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        direction = rng.standard_normal(shape, dtype=np.float32)
        radius = rng.random() ** (1 / math.prod(shape))
        return direction * np.float32(radius / np.linalg.norm(direction))


def _polar(delta: Array) -> tuple[Array, Array, Array]:
    """Return directions of Euclidean length 1, 0 where delta is, and two factors (N, 1, 1, 1) of its size.

    The first factor is the largest entry: squares of 1e-20 lose their digits in float32, squares of 1e25
    overflow, and so may the size itself, which a gradient's direction does not need.
    """
    xp = array_namespace(delta)
    largest = xp.max(xp.abs(delta), axis=_PIXELS, keepdims=True)
    scaled = delta / xp.where(largest > 0, largest, 1.0)
    length = xp.sqrt(xp.sum(scaled * scaled, axis=_PIXELS, keepdims=True))  # 1 to sqrt(C H W), or 0
    return scaled / xp.where(length > 0, length, 1.0), largest, length


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2()}


def clip(a: Array, low: float, high: float) -> Array:
    """Return a, limited to low..high. A nan stays one, so that nobody mistakes it for a value."""
    return a.clip(low, high)  # NumPy's and torch's own, one pass; the namespace's takes two or more


def per_image(values: Array) -> Array:
    """Return a value an image (N,) in the shape that meets images: (N, 1, 1, 1)."""
    return values[:, None, None, None]


def get_norm(name: Any) -> Norm:
    """Return the norm called `name`; BadRequest if there is none."""
    if not isinstance(name, str) or name not in NORMS:
        raise BadRequest("norm", given=name, allowed=" or ".join(NORMS))
    return NORMS[name]


def parse_radius(value: Any, *, field: str = "eps") -> float:
    """Return a radius in units of x from a number, or from text as people write it.

    >>> parse_radius("8/255") == parse_radius(8 / 255)
    True

    Raises BadRequest if it is no finite number of at least 0; the upper bound is the norm's business.
    """
    allowed = 'a finite number >= 0 in units of x, such as 0.03 or "8/255" (8/255, not 8)'
    if isinstance(value, bool) or not isinstance(value, (str, int, float, np.integer, np.floating)):
        raise BadRequest(field, given=value, allowed=allowed)
    try:
        radius = _from_text(value) if isinstance(value, str) else float(value)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadRequest(field, given=value, allowed=allowed) from error
    if not math.isfinite(radius) or radius < 0:
        raise BadRequest(field, given=value, allowed=allowed)
    return radius


def format_radius(eps: float) -> str:
    """Return eps as people write it: "8/255" on the 8-bit grid, otherwise three digits."""
    levels = eps * 255
    if levels > 0 and abs(levels - round(levels)) < 1e-6 * levels:
        return f"{round(levels)}/255"
    return f"{eps:.3g}"


def _from_text(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)
