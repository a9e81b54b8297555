"""A classifier that refuses what it cannot answer, and the way round the asking for those who have asked."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from dra_serve.checks import check_images, check_labels
from dra_serve.classifier import LOSSES, Array, Classifier, Loss
from dra_serve.errors import BadRequest


class Checked(ABC):
    """The Classifier protocol's calls, which check, over a subclass's `_logits` and `_loss_and_grad`.

    Those two see N >= 1 good images, int64 labels beside them, a loss that exists, and a target (or None)
    that it can do with.
    """

    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    has_gradient: bool

    def logits(self, x: Array) -> Array:
        """Return unnormalised scores, float32 (N, K), of x: float32 (N, C, H, W) in [0, 1]."""
        check_images(x, self.input_shape)
        return self._logits(x) if x.shape[0] else self._of_no_image(x)[0]

    def loss_and_grad(
        self, x: Array, y: Array, loss: Loss = "ce", target: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Return logits (N, K), loss (N,) and its gradient at x, all float32.

        y, target: integers (N,). Raises NoGradient if the model has none; BadRequest naming the field: the
        engine itself would answer a label out of range silently.
        """
        check_images(x, self.input_shape)
        n, classes = x.shape[0], len(self.classes)
        y = check_labels(y, n, classes, like=x)
        if loss not in LOSSES:
            raise BadRequest("loss", given=loss, allowed=", ".join(LOSSES))
        if target is not None:
            target = check_labels(target, n, classes, like=x, field="target")
        elif loss == "dlr_targeted":
            raise BadRequest("target", given=None, allowed="a class for each image, with loss dlr_targeted")
        return self._loss_and_grad(x, y, loss, target) if n else self._of_no_image(x)

    @abstractmethod
    def _logits(self, x: Array) -> Array: ...

    @abstractmethod
    def _loss_and_grad(
        self, x: Array, y: Array, loss: Loss = "ce", target: Array | None = None
    ) -> tuple[Array, Array, Array]: ...

    def _of_no_image(self, x: Array) -> tuple[Array, Array, Array]:
        xp, where = array_namespace(x), device(x)
        logits = xp.zeros((0, len(self.classes)), dtype=x.dtype, device=where)
        return logits, xp.zeros((0,), dtype=x.dtype, device=where), xp.zeros_like(x)


def trusting(model: Classifier) -> Classifier:
    """Return the model without its checks, for an attack that made them once.

    Only where the calls are those of `Checked`: a model that answers in a way of its own comes back as it is.
    """
    if not isinstance(model, Checked):
        return model
    asked = (getattr(call, "__func__", None) for call in (model.logits, model.loss_and_grad))
    if tuple(asked) != (Checked.logits, Checked.loss_and_grad):
        return model
    return _Trusting(
        model.classes, model.input_shape, model.has_gradient, model._logits, model._loss_and_grad
    )


@dataclass
class _Trusting:
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    has_gradient: bool
    logits: Callable[[Array], Array]
    loss_and_grad: Callable[..., tuple[Array, Array, Array]]
