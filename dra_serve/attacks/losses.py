"""The losses an attack ascends, with their gradients at the logits, in closed form.

Each takes logits (N, K), y (N,) and target (N,) or None, and returns value (N,) and gradient (N, K).
Larger is worse for the defender. Definitions as in the gradient graphs (reference: Croce & Hein 2020,
section 4, for DLR; Carlini & Wagner 2017 for the margin):

    ce             logsumexp(z) - z_y
    margin         z_o - z_y                                     o: the best class but y
    dlr            (z_o - z_y) / (s1 - s3 + 1e-12)               s1 >= s2 >= ...: the sorted logits
    dlr_targeted   (z_t - z_y) / (s1 - (s3 + s4) / 2 + 1e-12)

With two classes there is no s3, with three no s4: dlr is then the margin, and dlr_targeted divides by
nothing (K = 2) or by s1 - s3 (K = 3).
"""

from collections.abc import Callable

from array_api_compat import array_namespace, device

from dra_serve.classifier import Array, Loss
from dra_serve.errors import BadRequest

_TINY = 1e-12
_NEVER = -1e9  # below any logit; -inf would turn into nan under a multiplication by 0


def ce(z: Array, y: Array, target: Array | None = None) -> tuple[Array, Array]:
    """Cross-entropy; its gradient is softmax(z) - e_y."""
    xp = array_namespace(z)
    shifted = z - xp.max(z, axis=1, keepdims=True)
    exp = xp.exp(shifted)
    total = xp.sum(exp, axis=1, keepdims=True)
    e_y = _one_hot(z, y)
    value = xp.log(total[:, 0]) - xp.sum(shifted * e_y, axis=1)
    return value, exp / total - e_y


def margin(z: Array, y: Array, target: Array | None = None) -> tuple[Array, Array]:
    """How far the best other class leads y: above 0 is misclassified."""
    xp = array_namespace(z)
    slope = _one_hot(z, _best_other(z, y)) - _one_hot(z, y)
    return xp.sum(z * slope, axis=1), slope


def dlr(z: Array, y: Array, target: Array | None = None) -> tuple[Array, Array]:
    """The margin on a scale that neither shifting nor stretching the logits changes."""
    numerator = _one_hot(z, _best_other(z, y)) - _one_hot(z, y)
    if z.shape[1] < 3:
        return margin(z, y)
    order = _descending(z)
    return _ratio(z, numerator, _one_hot(z, order[:, 0]) - _one_hot(z, order[:, 2]))


def dlr_targeted(z: Array, y: Array, target: Array | None = None) -> tuple[Array, Array]:
    """How far the target leads y, on the same scale. Raises BadRequest without a target."""
    if target is None:
        raise BadRequest("target", given=None, allowed="a class for each image, with loss dlr_targeted")
    xp = array_namespace(z)
    numerator = _one_hot(z, target) - _one_hot(z, y)
    classes = z.shape[1]
    if classes < 3:
        return xp.sum(z * numerator, axis=1), numerator
    order = _descending(z)
    e_3 = _one_hot(z, order[:, 2])
    e_4 = _one_hot(z, order[:, 3]) if classes > 3 else e_3
    return _ratio(z, numerator, _one_hot(z, order[:, 0]) - (e_3 + e_4) / 2)


LOSS_FUNCTIONS: dict[Loss, Callable[[Array, Array, Array | None], tuple[Array, Array]]] = {
    "ce": ce,
    "margin": margin,
    "dlr": dlr,
    "dlr_targeted": dlr_targeted,
}


def _ratio(z: Array, numerator: Array, denominator: Array) -> tuple[Array, Array]:
    """Return v = (z . numerator) / (z . denominator + tiny) and (numerator - v denominator) / d."""
    xp = array_namespace(z)
    d = xp.sum(z * denominator, axis=1) + _TINY
    value = xp.sum(z * numerator, axis=1) / d
    return value, (numerator - value[:, None] * denominator) / d[:, None]


def _one_hot(z: Array, index: Array) -> Array:
    """Return e_index, (N, K), of z's type."""
    xp = array_namespace(z)
    return xp.astype(xp.arange(z.shape[1], device=device(z)) == index[:, None], z.dtype)


def _best_other(z: Array, y: Array) -> Array:
    xp = array_namespace(z)
    return xp.argmax(xp.where(_one_hot(z, y) > 0, _NEVER, z), axis=1)


def _descending(z: Array) -> Array:
    return array_namespace(z).argsort(z, axis=1, descending=True, stable=True)
