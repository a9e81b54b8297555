"""What a classifier run is: data, not code."""

from dataclasses import dataclass, replace
from typing import Literal

from training.objectives.dra import View


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Adversarial training of one network, with or without DRA. `lam=0` is the twin: nothing else differs."""

    name: str
    data: str
    twin: str | None = None  # name of the run that differs in the DRA term alone

    # network
    width: int = 32
    blocks: tuple[int, ...] = (1, 1, 1)
    stem: Literal["plain", "space_to_depth"] = "space_to_depth"
    activation: Literal["relu", "silu"] = "silu"

    # attack in training
    norm: Literal["linf", "l2"] = "linf"
    eps: float = 8 / 255  # units of x
    alpha: float = 5 / 255
    steps: int = 2

    # objective
    objective: Literal["at", "trades"] = "at"
    beta: float = 5.0  # TRADES only
    smoothing: float = 0.1
    lam: float = 0.0  # weight of the DRA term at the first step; 0: no term at all
    lam_end: float | None = None  # its weight at the last step, on a line from lam; None: lam throughout
    view: View = "adv"
    teacher: str = "training/pretrained/cifar10-tiny-teacher"
    untrained_teacher: bool = False  # the control: same network, fresh weights
    teacher_blocks: tuple[str, ...] = ("up_blocks.1",)
    teacher_sigma: float = 0.05
    teacher_grid: int = 2
    teacher_draws: int = 2
    projector: int = 256  # hidden width

    # optimisation
    epochs: int = 10
    batch: int = 128
    rate: float = 0.2  # peak of the one-cycle
    warmup: float = 0.25  # share of the steps
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 5e-4  # not on norms and biases
    ema: float = 0.998
    padding: int = 4  # random crop
    flip: bool = True

    # watching
    held_out: int = 500  # training images set aside for a real PGD each epoch
    seed: int = 0


_CIFAR = Recipe(name="cifar10-tiny-at", data="cifar10", epochs=40, lam_end=0.0)
_DIGITS = Recipe(
    name="digits-at",
    data="digits",
    width=16,
    blocks=(1, 1),
    stem="plain",
    eps=0.15,
    alpha=0.1,
    epochs=30,
    batch=64,
    ema=0.98,
    padding=1,
    flip=False,
    held_out=200,
    teacher="runs/digits-teacher-s0/teacher",
    teacher_blocks=("up_blocks.0",),
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        _CIFAR,
        replace(_CIFAR, name="cifar10-tiny-dra", lam=1.0, twin="cifar10-tiny-at"),
        _DIGITS,
        replace(_DIGITS, name="digits-dra", lam=1.0, twin="digits-at"),
    )
}
