"""The shortest way from a point of the box [0, 1] to a hyperplane, inside the box: FAB's projection.

Croce & Hein 2020b, section 2.2, solve it by sorting. Here both norms are one equation in one unknown. To
gain c > 0 along w, pixel i may move by its room r_i in the direction of w_i; the smallest perturbation is
min(t u_i, r_i) there, with u = 1 for linf and u = |w| for l2, where t solves

    f(t) = sum_i |w_i| min(t u_i, r_i) = c

f rises, is concave and made of straight pieces, so Newton's steps from the left never overshoot and end on
the right piece: exact like sorting, after a handful of passes (at most one a piece).
"""

from collections.abc import Callable

from array_api_compat import array_namespace

from dra_serve.classifier import Array

_ROUNDING = 1e-6  # relative: a step this small is float32's, not Newton's
_CACHED = 2**17  # pixels at a time: what a processor's cache holds of the half dozen arrays of their size


def _linf_shape(a: Array) -> Array:
    return array_namespace(a).ones_like(a[:, :1])


def _l2_shape(a: Array) -> Array:
    xp = array_namespace(a)
    largest = xp.max(a, axis=1, keepdims=True)  # t takes the scale: squares of 1e-25 vanish in float32
    return a / xp.where(largest > 0, largest, 1.0)


_SHAPES: dict[str, Callable[[Array], Array]] = {"linf": _linf_shape, "l2": _l2_shape}


def to_hyperplane(x: Array, w: Array, c: Array, *, norm: str) -> Array:
    """Return the d (n, D) of smallest norm with w . d = c and x + d in [0, 1].

    x, w: (n, D) float, x in [0, 1]; c: (n,), of either sign. Where the box holds no such point, d goes to
    the corner nearest to the hyperplane. A pixel of weight 0 stays.
    """
    rows = max(_CACHED // max(x.shape[1], 1), 1)
    if x.shape[0] <= rows:
        return _nearest(x, w, c, norm)
    parts = [slice(start, start + rows) for start in range(0, x.shape[0], rows)]
    return array_namespace(x).concat([_nearest(x[part], w[part], c[part], norm) for part in parts])


def _nearest(x: Array, w: Array, c: Array, norm: str) -> Array:
    xp = array_namespace(x)
    a = xp.abs(w)
    towards = xp.where((c < 0)[:, None], -w, w)
    side = xp.astype(towards > 0, x.dtype)  # where() would guess a branch for each pixel
    room = xp.abs(side - x) * xp.astype(a > 0, x.dtype)
    u = _SHAPES[norm](a)
    t = _solve(a, u, room, xp.abs(c))
    return xp.copysign(xp.minimum(t[:, None] * u, room), towards)


def _solve(a: Array, u: Array, room: Array, wanted: Array) -> Array:
    """Return the t (n,) with f(t) = wanted; where f stays below, one past its last rise."""
    xp = array_namespace(a)
    gain = a * u
    slope = xp.sum(gain, axis=1)
    t = wanted / xp.where(slope > 0, slope, 1.0)
    for _ in range(a.shape[1]):
        reach = t[:, None] * u
        missing = wanted - xp.vecdot(a, xp.minimum(reach, room))
        rises = missing > _ROUNDING * wanted
        if not bool(xp.any(rises)):
            break
        slope = xp.vecdot(gain, xp.astype(reach < room, a.dtype))
        rises = rises & (slope > 0)
        step = xp.where(rises, missing, 0.0) / xp.where(rises, slope, 1.0)
        if not bool(xp.any(step > 0)):
            break
        t = t + step
    return t
