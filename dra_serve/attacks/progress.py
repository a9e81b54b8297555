"""The books of an iterative attack: the best image so far, and who still needs work."""

from collections.abc import Callable
from typing import Any

from array_api_compat import array_namespace, device

from dra_serve.attacks.objective import Objective
from dra_serve.attacks.result import AttackResult, StepReport
from dra_serve.classifier import Array


class Progress:
    """Keeps N images, of which an attack works on the open ones: `x`, `x_adv`, `goal` are theirs alone.

    The clean image is the first candidate. A later one replaces it if it fools the model where none
    did before, or equals it in that and has a higher loss.
    """

    def __init__(
        self, x: Array, goal: Objective, logits: Array, *, budget: int, stop_on_success: bool, watched: bool
    ) -> None:
        xp = array_namespace(x)
        self._all_x, self._all_goals = x, goal
        self._budget, self._stop_on_success, self._watched = budget, stop_on_success, watched
        self._best_x = xp.asarray(x, copy=True)
        self._best_loss = xp.asarray(goal.value(logits), copy=True)
        self._success = goal.reached(logits)
        self._steps_done = xp.zeros((x.shape[0],), dtype=xp.int64, device=device(x))
        self._recorded = 0
        if watched:
            self._now = [xp.asarray(a, copy=True) for a in (x, logits, self._best_loss)]
        self._open = xp.arange(x.shape[0], device=device(x))
        self._narrow(~self._success)

    def begin(self, start: Callable[[Array, Array], Array]) -> bool:
        """Set the open images to start(their x, their rows); return False if there are none."""
        if self._open.shape[0] == 0:
            return False
        self.x, self.goal = self._all_x[self._open], self._all_goals.select(self._open)
        self.x_adv = start(self.x, self._open)
        return True

    def record(self, logits: Array, loss: Array, *, steps_done: int) -> None:
        """Judge the open images' current iterate, reached after `steps_done` steps."""
        rows, reached = self._open, self.goal.reached(logits)
        had, best = self._success[rows], self._best_loss[rows]
        better = (reached & ~had) | ((reached == had) & (loss > best))
        self._best_x[rows[better]] = self.x_adv[better]
        self._best_loss[rows[better]] = loss[better]
        self._success[rows] = had | reached
        self._steps_done[rows] = steps_done
        self._recorded = steps_done
        if self._watched:
            for kept, new in zip(self._now, (self.x_adv, logits, loss), strict=True):
                kept[rows] = new

    def drop_finished(self, grad: Array | None) -> Array | None:
        """Close the images just fooled; return the gradient of those still open, None if none is."""
        unfinished = ~self._success[self._open]
        if not self._narrow(unfinished):
            return grad
        if self._open.shape[0] == 0:
            return None
        self.x, self.x_adv, self.goal = (
            self.x[unfinished],
            self.x_adv[unfinished],
            self.goal.select(unfinished),
        )
        return None if grad is None else grad[unfinished]

    def report(self) -> StepReport:
        """Return a copy of where all N images stand."""
        xp = array_namespace(self._all_x)
        x_adv, logits, loss = (xp.asarray(a, copy=True) for a in self._now)
        success = xp.asarray(self._success, copy=True)
        return StepReport(
            step=self._recorded, steps=self._budget, x_adv=x_adv, logits=logits, loss=loss, success=success
        )

    def result(self) -> AttackResult:
        """Return the best images; complete if the budget is spent or nobody needs more of it."""
        return AttackResult(
            x_adv=self._best_x,
            success=self._success,
            loss=self._best_loss,
            steps_done=self._steps_done,
            complete=self._recorded == self._budget or self._open.shape[0] == 0,
        )

    def _narrow(self, unfinished: Any) -> bool:
        """Keep only the unfinished rows open, if finished images are to stop; return whether any left."""
        xp = array_namespace(self._open)
        if not self._stop_on_success or bool(xp.all(unfinished)):
            return False
        self._open = self._open[unfinished]
        return True
