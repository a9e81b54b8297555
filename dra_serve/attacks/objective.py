"""What an attack ascends, and when it has won: with a target or without."""

import math
from dataclasses import dataclass

from array_api_compat import array_namespace

from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.classifier import Array, Classifier, Loss
from dra_serve.errors import NoGradient


@dataclass(frozen=True)
class Objective:
    """The goal for each of N images. Without a target: any class but y. With one: exactly the target.

    Towards a target, ce, margin and dlr are taken at the target and *descended*; dlr_targeted already
    points from y to the target. Either way `loss` here is what the attack ascends.
    """

    loss: Loss
    y: Array
    target: Array | None = None
    guide: Array | None = None  # the class dlr_targeted leads to, where any class but y will do (APGD-T)

    def select(self, rows: Array) -> "Objective":
        """Return the goals of these rows only."""
        target, guide = (None if a is None else a[rows] for a in (self.target, self.guide))
        return Objective(self.loss, self.y[rows], target, guide)

    def gradient(self, model: Classifier, x: Array) -> tuple[Array, Array, Array]:
        """Return logits (N, K), loss (N,) and its gradient at x. Raises NoGradient if it is not finite."""
        at, sign = self._point_of_view()
        logits, loss, grad = model.loss_and_grad(x, at, self.loss, self._towards())
        require_finite(grad)
        return (logits, loss, grad) if sign > 0 else (logits, -loss, -grad)

    def value(self, logits: Array) -> Array:
        """Return the loss (N,) at these logits, equal to `gradient`'s."""
        at, sign = self._point_of_view()
        return sign * LOSS_FUNCTIONS[self.loss](logits, at, self._towards())[0]

    def reached(self, logits: Array) -> Array:
        """Return (N,): whether the prediction is the target, or without one is not y."""
        predicted = array_namespace(logits).argmax(logits, axis=1)
        return predicted != self.y if self.target is None else predicted == self.target

    def _towards(self) -> Array | None:
        return self.target if self.guide is None else self.guide

    def _point_of_view(self) -> tuple[Array, int]:
        if self.target is None or self.loss == "dlr_targeted":
            return self.y, 1
        return self.target, -1


def require_finite(grad: Array) -> None:
    """Raise NoGradient at a nan: standing still there would count the image as robust."""
    # The sum first, five times as quick: it is finite unless an entry is not, or float32 overflows.
    if not math.isfinite(grad.sum()) and not bool(array_namespace(grad).isfinite(grad).all()):
        raise NoGradient("the model's gradient is not finite, so nothing can be said of it", field="model")
