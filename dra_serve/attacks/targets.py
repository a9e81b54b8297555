"""Which classes a targeted attack tries, and in what order."""

from array_api_compat import array_namespace, device

from dra_serve.classifier import Array


def likeliest_targets(logits: Array, y: Array, count: int) -> Array:
    """Return the `count` classes but y that the model finds likeliest, (N, min(count, K - 1)), best first.

    logits: (N, K) of the clean images; y: (N,) labels. Of equal logits the lower class comes first.
    With fewer than count + 1 classes there are fewer targets. The order of AutoAttack (Croce & Hein 2020):
    most images that fall at all fall on the first.
    """
    xp = array_namespace(logits)
    classes = logits.shape[1]
    is_y = xp.arange(classes, device=device(logits)) == y[:, None]
    others_first = xp.where(is_y, -xp.inf, logits)
    order = xp.argsort(others_first, axis=1, descending=True, stable=True)
    return order[:, : min(count, classes - 1)]
