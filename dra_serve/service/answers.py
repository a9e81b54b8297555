"""What is asked of an attack and what comes of it: plain values, whoever asks (HTTP, demo, command line)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dra_serve.attacks.parameters import Parameters
from dra_serve.classifier import Prediction

TOP_K = 5


@dataclass(frozen=True, kw_only=True)
class AttackRequest:
    """What to do to each model.

    options: the parameters somebody chose (norm, eps, alpha, steps, ...); the attack's defaults fill the
    rest, and one it does not have is an error. label: the class to lead away from, by default each
    model's own prediction on the clean image. target: the class to lead to, by default any other.
    """

    attack: str = "pgd"
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    target: str | None = None
    top_k: int = TOP_K


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where the attack on one model stands. step: 1-based; pixels: the current image, uint8 (H, W, C)."""

    model: str
    step: int
    steps: int
    loss: float
    success: bool
    prediction: Prediction
    pixels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What the attack on one model came to; `adversarial`, `linf`, `l2` and `success` are of `pixels`.

    label: the class it led away from. pixels: uint8 (H, W, C). linf, l2: distance from the clean image
    in units of x. complete: False if a deadline or a disconnect came before the end of the budget.
    """

    model: str
    label: str
    clean: Prediction
    adversarial: Prediction
    pixels: np.ndarray
    success: bool
    linf: float
    l2: float
    steps_done: int
    complete: bool


@dataclass(frozen=True, kw_only=True)
class AttackAnswer:
    """parameters: every value in force. transfer[source][target]: whether source's image fools target."""

    request: AttackRequest
    parameters: Parameters
    results: tuple[Attacked, ...]
    transfer: dict[str, dict[str, bool]]


OnStep = Callable[[Step], bool | None]
"""Called after every step of every model; returning False ends the whole attack."""
