"""The books of a minimum-norm attack: the smallest perturbation found for each image."""

from dataclasses import dataclass

from array_api_compat import array_namespace, device

from dra_serve.attacks.norms import get_norm
from dra_serve.attacks.objective import Objective
from dra_serve.attacks.result import AttackResult, StepReport
from dra_serve.classifier import Array


@dataclass(frozen=True, kw_only=True)
class Found:
    """The nearest image found that reaches its goal, and how near it is.

    x_adv (N, C, H, W): x itself where there is none. size (N,): the norm of x_adv - x, in units of x;
    0 where x reaches the goal as it is, inf where nothing was found.
    complete: False if a deadline or `on_step` ended the attack before its budget.
    """

    x_adv: Array
    size: Array
    complete: bool


class Smallest:
    """Keeps N images, of which an attack works on the open ones: `x` and `goal` are theirs alone.

    An image is open until x itself, or a perturbation of size `enough`, reaches the goal; with enough =
    None, the smallest of all is sought, with 0 none is: nothing but x is that near. `result` hands back
    nothing outside the ball, `found` everything.
    """

    def __init__(
        self, x: Array, goal: Objective, logits: Array, *, norm: str, enough: float | None, budget: int
    ) -> None:
        """x (N, C, H, W) and logits (N, K) of the clean images; budget: the steps of one image at most."""
        xp, idle = array_namespace(x), enough == 0
        self._ball, self._budget, self._recorded = get_norm(norm), 0 if idle else budget, 0
        self._seek, self._enough = enough is None, enough or 0.0
        self._all_x, self._all_goals, self._clean_logits = x, goal, logits
        self._x_adv = xp.asarray(x, copy=True)
        self._logits = xp.asarray(logits, copy=True)
        self._size = xp.where(goal.reached(logits), 0.0, xp.inf)
        self._size = xp.astype(self._size, x.dtype)
        self._steps_done = xp.zeros((x.shape[0],), dtype=xp.int64, device=device(x))
        self._open = xp.nonzero((self._size > 0) & (not idle))[0]
        self.x, self.goal = x[self._open], goal.select(self._open)

    @property
    def is_open(self) -> bool:
        """Whether anybody still needs work."""
        return bool(self._open.shape[0])

    @property
    def rows(self) -> Array:
        """Which of the N images are open, (n,)."""
        return self._open

    @property
    def size(self) -> Array:
        """The size (n,) of the smallest perturbation found for each open image; inf without one."""
        return self._size[self._open]

    def size_matters(self, tried: Array) -> Array:
        """Return (n,): whether `tried`, an image for each open one, is near enough to be worth a look."""
        size = self._ball.size(tried - self.x)
        return size < self.size if self._seek else size <= self._enough

    def record(self, tried: Array, logits: Array, reached: Array, of: Array | None = None) -> None:
        """Keep the images `tried` that reach the goal, reached (m,), and are smaller than what there is.

        of: (m,), which of the open images they are; None for all of them.
        """
        xp = array_namespace(tried)
        at = xp.nonzero(reached)[0]
        if not at.shape[0]:
            return
        own = at if of is None else of[at]
        rows, size = self._open[own], self._ball.size(tried[at] - self.x[own])
        smaller = size < self._size[rows]
        if bool(xp.any(smaller)):
            rows, at = rows[smaller], at[smaller]
            self._x_adv[rows] = tried[at]
            self._logits[rows] = logits[at]
            self._size[rows] = size[smaller]

    def finish_step(self, steps_done: int) -> Array | None:
        """Close the images that have enough; return which of the open ones stay, (n,), None if all do."""
        self._steps_done[self._open] = steps_done
        self._recorded = steps_done
        kept = self._size[self._open] > self._enough
        if bool(array_namespace(kept).all(kept)):
            return None
        self._open = self._open[kept]
        self.x, self.goal = self.x[kept], self.goal.select(kept)
        return kept

    @property
    def complete(self) -> bool:
        """Whether the budget is spent, or nobody needs more of it."""
        return self._recorded == self._budget or not self.is_open

    def report(self) -> StepReport:
        """Return a copy of where all N images stand: the clean image where nothing inside was found."""
        x_adv, logits, success = self._inside()
        return StepReport(
            step=self._recorded,
            steps=self._budget,
            x_adv=x_adv,
            logits=logits,
            loss=self._all_goals.value(logits),
            success=success,
        )

    def result(self) -> AttackResult:
        """Return what was found of size `enough` at most, the clean image elsewhere."""
        x_adv, logits, success = self._inside()
        return AttackResult(
            x_adv=x_adv,
            success=success,
            loss=self._all_goals.value(logits),
            steps_done=self._steps_done,
            complete=self.complete,
        )

    def found(self) -> Found:
        """Return the smallest perturbations found, of whatever size."""
        return Found(x_adv=self._x_adv, size=self._size, complete=self.complete)

    def _inside(self) -> tuple[Array, Array, Array]:
        xp = array_namespace(self._all_x)
        success = self._size <= self._enough
        x_adv = xp.where(success[:, None, None, None], self._x_adv, self._all_x)
        return x_adv, xp.where(success[:, None], self._logits, self._clean_logits), success
