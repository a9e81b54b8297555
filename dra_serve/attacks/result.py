"""What an attack hands back, and what it tells on the way."""

from collections.abc import Callable
from dataclasses import dataclass

from dra_serve.classifier import Array


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """x_adv (N, C, H, W): the image that fooled the model, or the strongest tried.

    success (N,): whether x_adv reaches its goal. loss (N,): the attack's loss at x_adv.
    steps_done (N,): gradient steps spent on this image, over all restarts; 0 if it needed none.
    complete: False if a deadline or `on_step` ended the attack before its budget.
    """

    x_adv: Array
    success: Array
    loss: Array
    steps_done: Array
    complete: bool


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """All N images after a step, in order; a finished one stays where it finished.

    step: 1-based, over all restarts; steps: how many there will be at most.
    x_adv (N, C, H, W), logits (N, K), loss (N,), success (N,) so far. Copies: keep them, change them.
    """

    step: int
    steps: int
    x_adv: Array
    logits: Array
    loss: Array
    success: Array


OnStep = Callable[[StepReport], bool | None]
"""Called after every step; returning False ends the attack."""
