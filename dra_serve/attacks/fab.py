"""FAB-T (Croce & Hein 2020b): the smallest perturbation on the way to one likely class after another.

Each step linearises z_t - z_y, projects the iterate and the clean image onto its zero and goes to a point
between the two, a little beyond; an iterate that fools the model is drawn back towards the clean image.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from dra_serve.attacks.fab_step import Iterate, advance
from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.norms import get_norm
from dra_serve.attacks.parameters import MAX_STEPS, radius_within
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.smallest import Found, Smallest
from dra_serve.attacks.targets import likeliest_targets
from dra_serve.checked import trusting
from dra_serve.checks import check_integer
from dra_serve.classifier import Array, Classifier

MAX_TARGETS = 999


@dataclass(frozen=True, kw_only=True)
class FabParameters:
    """Every value in force. eps in units of x; made by `resolve_fab_t`, so always valid."""

    norm: str
    eps: float
    steps: int
    targets: int

    @property
    def total_steps(self) -> int:
        return self.targets * self.steps

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, ready for JSON."""
        return asdict(self)


def resolve_fab_t(
    input_shape: tuple[int, int, int],
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    steps: int = 100,
    targets: int = 9,
) -> FabParameters:
    """Return the parameters in force on images of `input_shape` (C, H, W).

    eps: as for PGD. steps: 1 to 10,000, for each target. targets: 1 to 999; a model of K classes has no
    more than K - 1. Raises BadRequest naming the first field at fault.
    """
    return FabParameters(
        norm=norm,
        eps=radius_within(eps, get_norm(norm).largest(input_shape), field="eps"),
        steps=check_integer(steps, 1, MAX_STEPS, field="steps"),
        targets=check_integer(targets, 1, MAX_TARGETS, field="targets"),
    )


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

    x: (N, C, H, W) float32 in [0, 1], never written to. y: (N,) labels. Parameters as in `resolve_fab_t`.
    An image is fooled if the model is wrong on x itself (then x_adv is x, after 0 steps), or on an iterate
    no farther than eps; it is attacked no further. One never fooled comes back as x.

    Nothing is drawn, so there is no seed, and indices are checked only. deadline: a `time.monotonic()`
    moment, looked at before each step. on_step: called after each step with a StepReport; returning False
    ends the attack.

    Raises BadRequest naming the field; NoGradient if the model has no gradient or a non-finite one.
    """
    p = resolve_fab_t(model.input_shape, norm=norm, eps=eps, steps=steps, targets=targets)
    return _fab(model, x, y, p, indices, deadline, on_step).result()


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
    p = resolve_fab_t(model.input_shape, norm=norm, eps=0, steps=steps, targets=targets)
    return _fab(model, x, y, p, None, deadline, None, seek=True).found()


def _fab(
    model: Classifier,
    x: Array,
    y: Any,
    p: FabParameters,
    indices: Any,
    deadline: float | None,
    on_step: OnStep | None,
    *,
    seek: bool = False,
) -> Smallest:
    goal, _ = check_inputs(model, x, y, None, indices, "margin")
    logits = model.logits(x)
    order = likeliest_targets(logits, goal.y, p.targets)
    p = replace(p, targets=order.shape[1])
    idle = p.eps == 0 and not seek  # nothing but the clean image is that near
    books = Smallest(
        x, goal, logits, norm=p.norm, enough=None if seek else p.eps, budget=0 if idle else p.total_steps
    )
    for run in range(0 if idle else p.targets):
        if not books.is_open or not _descend(model, books, order[:, run], p, run, deadline, on_step):
            break
    return books


def _descend(
    model: Classifier,
    books: Smallest,
    target: Array,
    p: FabParameters,
    run: int,
    deadline: float | None,
    on_step: OnStep | None,
) -> bool:
    """Lead the open images to their target for p.steps steps; return whether another may follow."""
    ball, model, here = get_norm(p.norm), trusting(model), Iterate.begin(books.x, target[books.rows])
    for taken in range(1, p.steps + 1):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        here = advance(model, books, ball, here)
        kept = books.finish_step(run * p.steps + taken)
        if on_step is not None and on_step(books.report()) is False:
            return False
        if kept is not None:
            if not books.is_open:
                break
            here = here.select(kept)
    return True
