"""FAB-T (Croce & Hein 2020b): the smallest perturbation on the way to one likely class after another.

Each step linearises z_t - z_y, projects the iterate and the clean image onto its zero and goes to a point
between the two, a little beyond; an iterate that fools the model is drawn back towards the clean image.
"""

from dataclasses import dataclass, replace
from typing import Any

from dra_serve.attacks.fab_step import Iterate, advance
from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.norms import get_norm
from dra_serve.attacks.parameters import Parameters, Steps, Targets
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.smallest import Found, Smallest
from dra_serve.attacks.targets import likeliest_targets
from dra_serve.attacks.watch import Watch
from dra_serve.classifier import Array, Classifier


@dataclass(frozen=True, kw_only=True)
class FabParameters(Parameters):
    """FAB-T's, the steps for each target. A model of K classes has no more than K - 1 targets."""

    steps: Steps
    targets: Targets


def fab_t(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    steps: int = 100,
    targets: int = 9,
    indices: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return, of the perturbations FAB-T finds, one of size eps at most for each image.

    x: (N, C, H, W) float32 in [0, 1], never written to. y: (N,) labels. The rest as in `FabParameters`.
    An image is fooled if the model is wrong on x itself (then x_adv is x, after 0 steps), or on an iterate
    no farther than eps; it is attacked no further. One never fooled comes back as x.

    Nothing is drawn, so there is no seed, and indices are checked only. deadline: a `time.monotonic()`
    moment, looked at before each step. on_step: called after each step with a StepReport; returning False
    ends the attack.

    Raises BadRequest naming the field; NoGradient if the model has no gradient or a non-finite one.
    """
    p = FabParameters.resolve(model.input_shape, norm=norm, eps=eps, steps=steps, targets=targets)
    return _fab(model, x, y, p, p.eps, indices, Watch(deadline, on_step)).result()


def fab_smallest(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    steps: int = 100,
    targets: int = 9,
    deadline: float | None = None,
) -> Found:
    """Return the smallest perturbation that FAB-T finds for each image, whatever its size.

    Arguments and errors as in `fab_t`. Every image gets the whole budget.
    """
    p = FabParameters.resolve(model.input_shape, norm=norm, eps=0, steps=steps, targets=targets)
    return _fab(model, x, y, p, None, None, Watch(deadline, None)).found()


def _fab(
    model: Classifier,
    x: Array,
    y: Any,
    p: FabParameters,
    enough: float | None,
    indices: Any,
    watch: Watch,
) -> Smallest:
    """Return the books of the search for perturbations of size `enough`, or of the smallest (None)."""
    model, goal, _ = check_inputs(model, x, y, None, indices, "margin")
    logits = model.logits(x)
    order = likeliest_targets(logits, goal.y, p.targets)
    p = replace(p, targets=order.shape[1])
    books = Smallest(x, goal, logits, norm=p.norm, enough=enough, budget=p.total_steps)
    for run in range(p.targets):
        if not books.is_open or not _descend(model, books, order[:, run], p, run, watch):
            break
    return books


def _descend(
    model: Classifier,
    books: Smallest,
    target: Array,
    p: FabParameters,
    run: int,
    watch: Watch,
) -> bool:
    """Lead the open images to their target for p.steps steps; return whether another may follow."""
    ball, here = get_norm(p.norm), Iterate.begin(books.x, target[books.rows])
    for taken in range(1, p.steps + 1):
        if watch.time_is_up():
            return False
        here = advance(model, books, ball, here)
        kept = books.finish_step(run * p.steps + taken)
        if watch.says_stop(books.report):
            return False
        if kept is not None:
            if not books.is_open:
                break
            here = here.select(kept)
    return True
