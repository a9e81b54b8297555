"""What ends an attack before its budget: the clock, or whoever watches."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from dra_serve.attacks.result import OnStep, StepReport


@dataclass(frozen=True)
class Watch:
    """deadline: a `time.monotonic()` moment. on_step: told of every step. None: nobody minds."""

    deadline: float | None
    on_step: OnStep | None

    def time_is_up(self) -> bool:
        """Whether the deadline has passed: asked before each step."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def says_stop(self, report: Callable[[], StepReport]) -> bool:
        """Tell whoever watches of the step just made; return whether they have seen enough."""
        return self.on_step is not None and self.on_step(report()) is False
