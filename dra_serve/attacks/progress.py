"""The books of an iterative attack: the best image so far, and who still needs work."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from array_api_compat import array_namespace, device

from dra_serve.attacks.objective import Objective
from dra_serve.attacks.result import AttackResult, StepReport
from dra_serve.classifier import Array, Classifier


class Visit(NamedTuple):
    """What a model call said of the images that go on: loss (n,) and grad, None after the last call.

    kept: which of the images asked about go on, (m,) bool; None if all do.
    """

    loss: Array
    grad: Array | None
    kept: Array | None


class Progress:
    """Keeps N images, of which an attack works on the open ones: `x`, `x_adv`, `goal` are theirs alone.

    The clean image is the first candidate. A later one replaces it if it fools the model where none
    did before, or equals it in that and has a higher loss. What is known of an open image is kept beside
    it and written back when it closes: indexed writes are slow on torch.
    """

    def __init__(
        self,
        x: Array,
        goal: Objective,
        logits: Array,
        *,
        budget: int,
        watched: bool,
        stop_on_success: bool = True,
    ) -> None:
        """x (N, C, H, W) and logits (N, K) of the clean images; budget: the steps of one image at most."""
        xp = array_namespace(x)
        self._all_x, self._all_goals = x, goal
        self._budget, self._stop_on_success, self._watched = budget, stop_on_success, watched
        self._recorded = 0
        self._best_x, self._best_loss, self._fooled = x, goal.value(logits), goal.reached(logits)
        self._closed: list[Array] | None = None  # x_adv, loss, success, steps done, once anybody left
        if watched:
            self._now = [xp.asarray(a, copy=True) for a in (x, logits, self._best_loss, self._fooled)]
        self._open = xp.arange(x.shape[0], device=device(x))
        self._narrow()

    @property
    def is_open(self) -> bool:
        """Whether anybody still needs work."""
        return bool(self._open.shape[0])

    def begin(self, start: Callable[[Array, Array], Array], *, goal: Objective | None = None) -> bool:
        """Set the open images to start(their x, their rows); return False if there are none.

        goal: of all N images from now on, if it is another than before.
        """
        if not self.is_open:
            return False
        self._all_goals = goal or self._all_goals
        self.x, self.goal = self._all_x, self._all_goals
        if self._closed is not None:
            self.x, self.goal = self.x[self._open], self.goal.select(self._open)
        self.x_adv = start(self.x, self._open)
        return True

    def visit(self, model: Classifier, *, steps_done: int, last: bool) -> Visit:
        """Ask the model about the open images' current iterate, judge it, close the images it fools.

        last: no step follows, so the forward graph is enough. Raises NoGradient at a nan.
        """
        if last:
            logits, grad = model.logits(self.x_adv), None
            loss = self.goal.value(logits)
        else:
            logits, loss, grad = self.goal.gradient(model, self.x_adv)
        self.record(logits, loss, steps_done=steps_done)
        kept = self.close_finished()
        if kept is None:
            return Visit(loss, grad, None)
        return Visit(loss[kept], None if grad is None else grad[kept], kept)

    def record(self, logits: Array, loss: Array, *, steps_done: int) -> None:
        """Judge the open images' current iterate, reached after `steps_done` steps."""
        reached, had, higher = self.goal.reached(logits), self._fooled, loss > self._best_loss
        if self._stop_on_success:  # then nobody open had been fooled
            better, self._fooled = reached | higher, reached
        else:
            better, self._fooled = (reached & ~had) | ((reached == had) & higher), had | reached
        self._best_x, self._best_loss = choose(better, (self.x_adv, loss), (self._best_x, self._best_loss))
        self._recorded = steps_done
        if self._watched:
            for kept, new in zip(self._now, (self.x_adv, logits, loss, self._fooled), strict=True):
                kept[self._open] = new

    def close_finished(self) -> Array | None:
        """Close the images just fooled; return which of the open ones stay, (n,) bool, or None if all do."""
        kept = self._narrow()
        if kept is not None:
            self.x, self.x_adv, self.goal = self.x[kept], self.x_adv[kept], self.goal.select(kept)
        return kept

    def report(self) -> StepReport:
        """Return a copy of where all N images stand."""
        xp = array_namespace(self._all_x)
        x_adv, logits, loss, success = (xp.asarray(a, copy=True) for a in self._now)
        return StepReport(
            step=self._recorded, steps=self._budget, x_adv=x_adv, logits=logits, loss=loss, success=success
        )

    def result(self) -> AttackResult:
        """Return the best images; complete if the budget is spent or nobody needs more of it."""
        x_adv, loss, success, steps_done = self._write_back()
        return AttackResult(
            x_adv=x_adv,
            success=success,
            loss=loss,
            steps_done=steps_done,
            complete=self._recorded == self._budget or not self.is_open,
        )

    def _narrow(self) -> Array | None:
        """Close what is fooled, if finished images are to stop; return who stays, None if all do."""
        if not self._stop_on_success or not any(self._fooled.tolist()):
            return None
        self._write_back()
        kept = ~self._fooled
        self._open, self._best_x, self._best_loss, self._fooled = (
            a[kept] for a in (self._open, self._best_x, self._best_loss, self._fooled)
        )
        return kept

    def _write_back(self) -> list[Array]:
        """Write what is known of the open images to their rows; all of them have had the same steps."""
        xp = array_namespace(self._open)
        known = (self._best_x, self._best_loss, self._fooled, xp.full_like(self._open, self._recorded))
        if self._closed is None:  # these are all
            self._closed = [xp.asarray(a, copy=True) for a in known]
        else:
            for kept, new in zip(self._closed, known, strict=True):
                kept[self._open] = new
        return self._closed


def choose(mine: Array, these: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    """Return these arrays' rows where `mine` (n,) holds, the others' elsewhere. No copy if all are of one."""
    flags = mine.tolist()  # cheaper than to count on the array's side, and no more than n
    if all(flags):
        return list(these)
    if not any(flags):
        return list(others)
    xp = array_namespace(mine)
    masks = (xp.reshape(mine, (mine.shape[0],) + (1,) * (a.ndim - 1)) for a in these)
    return [xp.where(mask, a, b) for mask, a, b in zip(masks, these, others, strict=True)]
