"""The fast gradient sign method (Goodfellow et al. 2015): PGD with one step as long as the radius."""

from typing import Any, Self

from dra_serve.attacks.pgd import PgdParameters, pgd
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.classifier import Array, Classifier

_ONE_STEP: dict[str, Any] = {"alpha": None, "steps": 1, "restarts": 1, "random_start": False, "seed": 0}


class FgsmParameters(PgdParameters):
    """PGD's, of which norm, eps and loss are free: one step, whose default size is then eps."""

    @classmethod
    def resolve(cls, input_shape: tuple[int, int, int], **given: Any) -> Self:
        return super().resolve(input_shape, **_ONE_STEP, **given)


def fgsm(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    loss: str = "ce",
    target: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return each image moved once, by eps, up the gradient of the loss at the clean image.

    Arguments, result and errors as in `pgd`. For l2 the step follows the gradient itself, not its sign.
    """
    free: dict[str, Any] = {"norm": norm, "eps": eps, "loss": loss, "target": target}
    return pgd(model, x, y, **free, **_ONE_STEP, deadline=deadline, on_step=on_step)
