"""The books of an iterative attack: the best image so far, and who still needs work."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from array_api_compat import array_namespace, device

from dra_serve.attacks.objective import Objective
from dra_serve.attacks.result import AttackResult, StepReport
from dra_serve.attacks.watch import Watch
from dra_serve.classifier import Array, Classifier


class Visit(NamedTuple):
    """What a gradient call said of the images that go on: loss (n,) and grad (n, C, H, W).

    kept: which of the images asked about go on, (m,) bool; None if all do.
    """

    loss: Array
    grad: Array
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
        watch: Watch,
        stop_on_success: bool = True,
    ) -> None:
        """x (N, C, H, W) and logits (N, K) of the clean images; budget: the steps of one image at most."""
        xp = array_namespace(x)
        self._all_x, self._all_goals = x, goal
        self._budget, self._stop_on_success, self._watch = budget, stop_on_success, watch
        self._recorded, self._stopped = 0, False
        self._best_x, self._best_loss, self._fooled = x, goal.value(logits), goal.reached(logits)
        self._to_close = stop_on_success and any(self._fooled.tolist())
        self._closed: list[Array] | None = None  # x_adv, loss, success, steps done, once anybody left
        if watch.on_step is not None:
            self._now = [xp.asarray(a, copy=True) for a in (x, logits, self._best_loss, self._fooled)]
        self._open = xp.arange(x.shape[0], device=device(x))
        self._narrow()

    @property
    def is_open(self) -> bool:
        """Whether anybody still needs work."""
        return bool(self._open.shape[0])

    def begin(self, start: Callable[[Array, Array], Array], *, goal: Objective | None = None) -> bool:
        """Set the open images to start(their x, their rows); return False if the attack is over.

        goal: of all N images from now on, if it is another than before.
        """
        if self._stopped or not self.is_open:
            return False
        self._all_goals = goal or self._all_goals
        self.x, self.goal = self._all_x, self._all_goals
        if self._closed is not None:
            self.x, self.goal = self.x[self._open], self.goal.select(self._open)
        self.x_adv = start(self.x, self._open)
        return True

    def visits(self, model: Classifier, steps: int) -> Iterator[Visit]:
        """Yield what the model says of each iterate, for the attack to set the next `x_adv`, `steps` times.

        Whom an iterate fools is closed. Nothing follows the last, so the cheaper `logits`
        judges it. It ends early where nobody is open, time is up, or whoever watches says stop.
        """
        before = self._recorded
        for taken in range(steps + 1):
            if self._watch.time_is_up():
                self._stopped = True
                return
            if taken < steps:
                logits, loss, grad = self.goal.gradient(model, self.x_adv)
            else:
                logits = model.logits(self.x_adv)
                loss = self.goal.value(logits)
            self.record(logits, loss, steps_done=before + taken)
            kept = self.close_finished()
            if taken and self._watch.says_stop(self.report):
                self._stopped = True
                return
            if taken == steps or not self.is_open:
                return
            yield Visit(loss, grad, None) if kept is None else Visit(loss[kept], grad[kept], kept)

    def record(self, logits: Array, loss: Array, *, steps_done: int) -> None:
        """Judge the open images' current iterate, reached after `steps_done` steps."""
        reached, had, better = self.goal.reached(logits), self._fooled, loss > self._best_loss
        if not self._stop_on_success:
            better, self._fooled = (reached & ~had) | ((reached == had) & better), had | reached
        elif any(reached.tolist()):  # nobody open had been fooled before
            better, self._fooled, self._to_close = reached | better, reached, True
        self._best_x, self._best_loss = choose(better, (self.x_adv, loss), (self._best_x, self._best_loss))
        self._recorded = steps_done
        if self._watch.on_step is not None:
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
        if not self._to_close:
            return None
        self._write_back()
        self._to_close = False
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
