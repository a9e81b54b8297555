"""Fast minimum norm (Pintor et al. 2021): how far each image is from one that flips it.

The radius of the ball is part of the search: it shrinks while the iterate fools the model, grows while
it does not, and starts at the distance of the boundary as the first gradient sees it.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from array_api_compat import array_namespace

from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.norms import Norm, clip, get_norm
from dra_serve.attacks.parameters import MAX_STEPS, radius_within
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.smallest import Found, Smallest
from dra_serve.checked import trusting
from dra_serve.checks import check_integer
from dra_serve.classifier import Array, Classifier

_ALPHA = (1.0, 0.01)  # the step's l2 length, first and last
_GAMMA = (0.05, 0.001)  # by what share the radius shrinks or grows, first and last
_PIXELS = (1, 2, 3)
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class FmnParameters:
    """Every value in force. eps in units of x; made by `resolve_fmn`, so always valid."""

    norm: str
    eps: float
    steps: int

    @property
    def total_steps(self) -> int:
        return self.steps

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, ready for JSON."""
        return asdict(self)


def resolve_fmn(
    input_shape: tuple[int, int, int],
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    steps: int = 100,
) -> FmnParameters:
    """Return the parameters in force on images of `input_shape` (C, H, W).

    eps: as for PGD; what is found beyond it does not count. steps: 1 to 10,000; below 100 the radius
    has no time to settle. Raises BadRequest naming the first field at fault.
    """
    return FmnParameters(
        norm=norm,
        eps=radius_within(eps, get_norm(norm).largest(input_shape), field="eps"),
        steps=check_integer(steps, 1, MAX_STEPS, field="steps"),
    )


def fmn(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    steps: int = 100,
    target: Any = None,
    indices: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return, of the perturbations FMN finds on the margin, one of size eps at most for each image.

    x: (N, C, H, W) float32 in [0, 1], never written to. y: (N,) labels. Parameters as in `resolve_fmn`.
    An image is fooled if the model is wrong on x itself (then x_adv is x, after 0 steps), or on an iterate
    no farther than eps; it is attacked no further. One never fooled comes back as x.

    target: (N,) classes; success then means that the prediction *is* the target. Nothing is drawn, so
    there is no seed, and indices are checked only. deadline: a `time.monotonic()` moment, looked at before
    each model call. on_step: called after each step with a StepReport; returning False ends the attack.

    Raises BadRequest naming the field; NoGradient if the model has no gradient or a non-finite one.
    """
    p = resolve_fmn(model.input_shape, norm=norm, eps=eps, steps=steps)
    return _fmn(model, x, y, p, p.eps, target, indices, deadline, on_step).result()


def fmn_smallest(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    steps: int = 100,
    target: Any = None,
    deadline: float | None = None,
) -> Found:
    """Return the smallest perturbation that FMN finds for each image, whatever its size.

    Arguments and errors as in `fmn`. Every image gets the whole budget.
    """
    p = resolve_fmn(model.input_shape, norm=norm, steps=steps)
    return _fmn(model, x, y, p, None, target, None, deadline, None).found()


def margins(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    steps: int = 100,
    target: Any = None,
    deadline: float | None = None,
) -> Array:
    """Return each image's margin (N,): the smallest eps found that flips it, in units of x.

    0 where the model is wrong on x itself, inf where nothing was found. An upper bound: an attack finds
    what it can. Arguments and errors as in `fmn`.
    """
    return fmn_smallest(model, x, y, norm=norm, steps=steps, target=target, deadline=deadline).size


def _fmn(
    model: Classifier,
    x: Array,
    y: Any,
    p: FmnParameters,
    enough: float | None,
    target: Any,
    indices: Any,
    deadline: float | None,
    on_step: OnStep | None,
) -> Smallest:
    goal, _ = check_inputs(model, x, y, target, indices, "margin")
    idle = enough == 0  # nothing but the clean image is that near
    books = Smallest(
        x, goal, model.logits(x), norm=p.norm, enough=enough, budget=0 if idle else p.total_steps
    )
    if books.is_open and not idle:
        _search(model, books, p, deadline, on_step)
    return books


def _search(
    model: Classifier, books: Smallest, p: FmnParameters, deadline: float | None, on_step: OnStep | None
) -> None:
    """Run p.steps steps from the clean images on the images open."""
    xp = array_namespace(books.x)
    ball, model = get_norm(p.norm), trusting(model)
    x_now, radius = books.x, xp.full_like(books.size, xp.inf)
    for taken in range(p.steps + 1):
        if deadline is not None and time.monotonic() >= deadline:
            return
        if taken == p.steps:
            logits = model.logits(x_now)
        else:
            logits, loss, grad = books.goal.gradient(model, x_now)
        reached = books.goal.reached(logits)
        books.record(x_now, logits, reached)
        if taken > 0:
            kept = books.finish_step(taken)
            if on_step is not None and on_step(books.report()) is False:
                return
            if not books.is_open:
                return
            if kept is not None:
                x_now, radius, reached = x_now[kept], radius[kept], reached[kept]
                loss, grad = loss[kept], grad[kept]
        if taken == p.steps:
            return
        share = (1 + math.cos(math.pi * taken / p.steps)) / 2
        radius = _radius(ball, books, radius, x_now, reached, loss, grad, gamma=_between(_GAMMA, share))
        x_now = _step(ball, books.x, x_now, grad, radius, alpha=_between(_ALPHA, share))


def _radius(
    ball: Norm,
    books: Smallest,
    radius: Array,
    x_now: Array,
    reached: Array,
    loss: Array,
    grad: Array,
    *,
    gamma: float,
) -> Array:
    """Return the radius (n,) of the next step (Algorithm 1, lines 5 to 12), at most the box's.

    Until something is found it goes gamma beyond where the gradient sees the boundary: on a linear model the
    paper's iterates would land on it, and may never fool anybody.
    """
    xp = array_namespace(radius)
    best = books.size
    slope = _dual_norm(ball, grad)
    to_boundary = ball.size(x_now - books.x) + xp.abs(loss) / xp.maximum(slope, _TINY)
    shrunk = xp.minimum(radius * (1 - gamma), best)
    grown = (1 + gamma) * xp.where(xp.isfinite(best), radius, to_boundary)
    farthest = ball.size(xp.maximum(books.x, 1.0 - books.x))
    return xp.minimum(xp.where(reached, shrunk, grown), farthest)


def _step(ball: Norm, x: Array, x_now: Array, grad: Array, radius: Array, *, alpha: float) -> Array:
    """Return x_now moved by alpha along the gradient, back into each image's ball and into the box."""
    xp = array_namespace(x)
    length = xp.sqrt(xp.sum(grad * grad, axis=_PIXELS, keepdims=True))
    moved = x_now + alpha * grad / xp.maximum(length, _TINY)
    return clip(x + ball.project(moved - x, radius[:, None, None, None]), 0.0, 1.0)


def _dual_norm(ball: Norm, grad: Array) -> Array:
    """Return how fast a linear loss of this slope grows along the best direction of size 1, (n,)."""
    return array_namespace(grad).sum(grad * ball.ascent(grad), axis=_PIXELS)


def _between(ends: tuple[float, float], share: float) -> float:
    first, last = ends
    return last + (first - last) * share
