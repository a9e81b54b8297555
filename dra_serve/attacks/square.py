"""Square (Andriushchenko et al. 2020): random search by windows, on the logits alone.

It needs no gradient, so it says something of a model whose gradients mislead, or that has none.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from array_api_compat import array_namespace, device

from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.objective import Objective
from dra_serve.attacks.parameters import Parameters, Seed, whole
from dra_serve.attacks.progress import Progress
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.square_windows import WINDOWS, Draws
from dra_serve.attacks.watch import Watch
from dra_serve.classifier import Array, Classifier

MAX_QUERIES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SquareParameters(Parameters):
    """Square's. queries: the start takes one of them. The windows shrink after 10, 50, 200, 500, 1000, 2000,
    4000, 6000 and 8000, whatever the budget.
    """

    queries: Annotated[int, whole(1, MAX_QUERIES)]
    seed: Seed


def square(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    queries: int = 5000,
    target: Any = None,
    seed: int = 0,
    indices: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return the perturbation of largest margin that random search finds for each image.

    x: (N, C, H, W) float32 in [0, 1], never written to. y: (N,) labels. The rest as in `SquareParameters`.
    An image is fooled if the model is wrong on x itself (then x_adv is x, after 0 steps) or after any
    query; it is attacked no further. A window stays if it raises the margin.

    target: (N,) classes; success then means that the prediction *is* the target.
    indices: (N,) noise ids, by default 0..N-1; each image has windows of its own, of the seed and its id.
    deadline: a `time.monotonic()` moment, looked at before each query. on_step: called after each query
    with a StepReport; returning False ends the attack. A step is a query.

    Raises BadRequest naming the field. The model's gradient is not asked for.
    """
    p = SquareParameters.resolve(model.input_shape, norm=norm, eps=eps, queries=queries, seed=seed)
    model, goal, ids = check_inputs(model, x, y, target, indices, "margin")
    idle = p.eps == 0  # there is nothing but the clean image
    watch = Watch(deadline, on_step)
    progress = Progress(x, goal, model.logits(x), budget=0 if idle else p.total_steps, watch=watch)
    if not idle:
        _search(model, progress, p, ids, watch)
    return progress.result()


def _search(
    model: Classifier,
    progress: Progress,
    p: SquareParameters,
    ids: Array,
    watch: Watch,
) -> None:
    """Spend the queries on the open images.

    The books are told of a query only if somebody fell, somebody watches, or it is the last: a robust image
    costs 5000 of them.
    """
    windows = WINDOWS[p.norm](model.input_shape, p.eps)
    own_ids: list[int] = []

    def start(x: Array, rows: Array) -> Array:
        own_ids.extend(int(i) for i in ids[rows])
        return windows.start(x, p.seed, own_ids)

    if not progress.begin(start):
        return
    draws = Draws(p.seed, own_ids, windows.width)
    best = _Best.before(progress.x_adv, len(model.classes))
    for query in range(1, p.queries + 1):
        if watch.time_is_up():
            if query > 1:
                best.tell(progress, query - 1)
            return
        tried = (
            progress.x_adv if query == 1 else windows.propose(progress.x, best.x_adv, query - 2, draws.next())
        )
        fell = best.improve(progress.goal, tried, model.logits(tried))
        if not (fell or query == p.queries or watch.on_step is not None):
            continue
        best.tell(progress, query)
        kept = progress.close_finished()
        if watch.says_stop(progress.report) or not progress.is_open:
            return
        if kept is not None:
            best = best.select(kept)
            draws.select(np.asarray(kept))


@dataclass(frozen=True)
class _Best:
    """The best iterate of each of n open images, with its logits (n, K) and loss (n,). Changed in place."""

    x_adv: Array
    logits: Array
    loss: Array

    @classmethod
    def before(cls, x_adv: Array, classes: int) -> "_Best":
        """Return what anything improves on."""
        xp, where = array_namespace(x_adv), device(x_adv)
        n = x_adv.shape[0]
        logits = xp.zeros((n, classes), dtype=x_adv.dtype, device=where)
        return cls(
            xp.asarray(x_adv, copy=True), logits, xp.full((n,), -xp.inf, dtype=x_adv.dtype, device=where)
        )

    def improve(self, goal: Objective, tried: Array, logits: Array) -> bool:
        """Keep what raises the loss or reaches the goal; return whether anything does the latter."""
        xp = array_namespace(logits)
        loss, reached = goal.value(logits), goal.reached(logits)
        better = xp.nonzero((loss > self.loss) | reached)[0]
        self.x_adv[better] = tried[better]
        self.logits[better] = logits[better]
        self.loss[better] = loss[better]
        return bool(xp.any(reached))

    def tell(self, progress: Progress, query: int) -> None:
        """Enter a copy in the books."""
        xp = array_namespace(self.loss)
        progress.x_adv = xp.asarray(self.x_adv, copy=True)
        progress.record(
            xp.asarray(self.logits, copy=True), xp.asarray(self.loss, copy=True), steps_done=query
        )

    def select(self, kept: Array) -> "_Best":
        return _Best(self.x_adv[kept], self.logits[kept], self.loss[kept])
