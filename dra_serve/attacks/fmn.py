"""Fast minimum norm (Pintor et al. 2021): how far each image is from one that flips it.

The radius of the ball is part of the search: it shrinks while the iterate fools the model, grows while
it does not, and starts at the distance of the boundary as the first gradient sees it.
"""

import math
from dataclasses import dataclass
from typing import Any

from array_api_compat import array_namespace

from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.norms import Norm, clip, get_norm
from dra_serve.attacks.parameters import Parameters, Steps
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.smallest import Found, Smallest
from dra_serve.attacks.watch import Watch
from dra_serve.classifier import Array, Classifier

_ALPHA = (1.0, 0.01)  # the step's l2 length, first and last
_GAMMA = (0.05, 0.001)  # by what share the radius shrinks or grows, first and last
_PIXELS = (1, 2, 3)
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class FmnParameters(Parameters):
    """FMN's. What is found beyond eps does not count; below 100 steps the radius has no time to settle."""

    steps: Steps


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

    x: (N, C, H, W) float32 in [0, 1], never written to. y: (N,) labels. The rest as in `FmnParameters`.
    An image is fooled if the model is wrong on x itself (then x_adv is x, after 0 steps), or on an iterate
    no farther than eps; it is attacked no further. One never fooled comes back as x.

    target: (N,) classes; success then means that the prediction *is* the target. Nothing is drawn, so
    there is no seed, and indices are checked only. deadline: a `time.monotonic()` moment, looked at before
    each model call. on_step: called after each step with a StepReport; returning False ends the attack.

    Raises BadRequest naming the field; NoGradient if the model has no gradient or a non-finite one.
    """
    p = FmnParameters.resolve(model.input_shape, norm=norm, eps=eps, steps=steps)
    return _fmn(model, x, y, p, p.eps, target, indices, Watch(deadline, on_step)).result()


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
    p = FmnParameters.resolve(model.input_shape, norm=norm, eps=0, steps=steps)
    return _fmn(model, x, y, p, None, target, None, Watch(deadline, None)).found()


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
    watch: Watch,
) -> Smallest:
    """Return the books of the search for perturbations of size `enough`, or of the smallest (None)."""
    model, goal, _ = check_inputs(model, x, y, target, indices, "margin")
    books = Smallest(x, goal, model.logits(x), norm=p.norm, enough=enough, budget=p.total_steps)
    if books.is_open:
        _search(model, books, p, watch)
    return books


def _search(model: Classifier, books: Smallest, p: FmnParameters, watch: Watch) -> None:
    """Run p.steps steps from the clean images on the images open."""
    xp = array_namespace(books.x)
    ball = get_norm(p.norm)
    x_now, radius = books.x, xp.full_like(books.size, xp.inf)
    for taken in range(p.steps + 1):
        if watch.time_is_up():
            return
        if taken == p.steps:
            logits = model.logits(x_now)
        else:
            logits, loss, grad = books.goal.gradient(model, x_now)
        reached = books.goal.reached(logits)
        books.record(x_now, logits, reached)
        if taken > 0:
            kept = books.finish_step(taken)
            if watch.says_stop(books.report):
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
