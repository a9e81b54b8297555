"""The fast gradient sign method (Goodfellow et al. 2015): PGD with one step as long as the radius."""

from typing import Any

from dra_serve.attacks.parameters import PgdParameters, resolve
from dra_serve.attacks.pgd import pgd
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.classifier import Array, Classifier


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
    return pgd(
        model,
        x,
        y,
        norm=norm,
        eps=eps,
        steps=1,
        random_start=False,
        loss=loss,
        target=target,
        deadline=deadline,
        on_step=on_step,
    )


def resolve_fgsm(
    input_shape: tuple[int, int, int], *, norm: str = "linf", eps: float | str = 8 / 255, loss: str = "ce"
) -> PgdParameters:
    """Return the parameters of PGD that make it FGSM: one step, whose default size is then eps."""
    return resolve(input_shape, norm=norm, eps=eps, loss=loss, steps=1, random_start=False)
