"""FAB-T (Croce & Hein 2020b): the smallest perturbation on the way to one likely class after another.

Each step linearises z_t - z_y, projects the iterate and the clean image onto its zero and goes to a point
between the two, a little beyond; an iterate that fools the model is drawn back towards the clean image.

Where we differ from AutoAttack's code, to save model calls. It asks of every new iterate whether it fools the
model: on a robust one 99 of 100 do, far outside the ball. Here one too large to be kept is taken to, and the
next gradient says whether that can be true. An iterate that fools the model even when drawn back, because
another class lies before the target, is drawn back again; the original goes on from there. The smallest
perturbations found are the same to 0.2 % (bundled models), with 1.0 gradients and hardly any forward call a
step in place of 1 and 1.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from array_api_compat import array_namespace

from dra_serve.attacks.hyperplane import to_hyperplane
from dra_serve.attacks.inputs import check_inputs, require_finite
from dra_serve.attacks.norms import Norm, clip, get_norm
from dra_serve.attacks.parameters import MAX_STEPS, radius_within
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.smallest import Found, Smallest
from dra_serve.attacks.targets import likeliest_targets
from dra_serve.checks import check_integer
from dra_serve.classifier import Array, Classifier

MAX_TARGETS = 999
_ALPHA_MAX = 0.1  # how far at most the next iterate leans to the clean image's projection
_ETA = 1.05  # how far beyond the hyperplane to step
_BETA = 0.9  # how much of a perturbation that fools the model is kept
_TINY = 1e-8


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
    ball, here = get_norm(p.norm), _Iterate.begin(books.x, target[books.rows])
    for taken in range(1, p.steps + 1):
        if deadline is not None and time.monotonic() >= deadline:
            return False
        here = _advance(model, books, ball, here)
        kept = books.finish_step(run * p.steps + taken)
        if on_step is not None and on_step(books.report()) is False:
            return False
        if kept is not None:
            if not books.is_open:
                break
            here = here.select(kept)
    return True


@dataclass(frozen=True)
class _Iterate:
    """Where n images stand on their way to `target` (n,).

    beyond: what the last step gave; x_now: the same, drawn back where it fools the model. guessed (n,):
    drawn back on the assumption that it does.
    """

    target: Array
    x_now: Array
    beyond: Array
    guessed: Array

    @classmethod
    def begin(cls, x: Array, target: Array) -> "_Iterate":
        return cls(target, x, x, target < 0)

    def select(self, kept: Array) -> "_Iterate":
        return _Iterate(*(value[kept] for value in vars(self).values()))


def _advance(model: Classifier, books: Smallest, ball: Norm, here: _Iterate) -> _Iterate:
    """Return the next iterates, and keep the smallest that fool the model.

    Where y leads, the margin at the target is z_y - z_t. Where it does not, x_now is drawn back again.
    """
    xp = array_namespace(here.x_now)
    y = books.goal.y
    logits, value, grad = model.loss_and_grad(here.x_now, here.target, "margin")
    require_finite(grad)
    fools = xp.argmax(logits, axis=1) != y
    books.record(here.x_now, logits, fools)
    x_now, value, grad = _corrected(model, here, y, fools, value, grad)
    x_new = _step(ball, books.x, x_now, -value, -grad)
    asked = books.size_matters(x_new) & ~fools
    guessed = ~asked & ~fools
    at = xp.nonzero(asked)[0]
    if at.shape[0]:
        logits = model.logits(x_new[at])
        asked[at] = reached = xp.argmax(logits, axis=1) != y[at]
        books.record(x_new[at], logits, reached, at)
    beyond = xp.where(_per_image(fools), x_now, x_new)
    drawn_back = books.x + _BETA * (beyond - books.x)
    x_next = xp.where(_per_image(fools | asked | guessed), drawn_back, beyond)
    return _Iterate(here.target, x_next, beyond, guessed)


def _corrected(
    model: Classifier, here: _Iterate, y: Array, fools: Array, value: Array, grad: Array
) -> tuple[Array, Array, Array]:
    """Return x_now, value and grad, with x_now put back to where it should not have been drawn from.

    The guess that `beyond` fools the model stands if x_now does, or if its own slope says so.
    """
    xp = array_namespace(value)
    shape = (value.shape[0], -1)
    ahead = xp.vecdot(xp.reshape(grad, shape), xp.reshape(here.beyond - here.x_now, shape)) + value
    at = xp.nonzero(here.guessed & ~fools & (ahead >= 0))[0]
    if not at.shape[0]:
        return here.x_now, value, grad
    at = at[xp.argmax(model.logits(here.beyond[at]), axis=1) == y[at]]
    if not at.shape[0]:
        return here.x_now, value, grad
    x_now, value, grad = (xp.asarray(a, copy=True) for a in (here.x_now, value, grad))
    x_now[at] = here.beyond[at]
    _, value[at], grad[at] = model.loss_and_grad(x_now[at], here.target[at], "margin")
    require_finite(grad)
    return x_now, value, grad


def _step(ball: Norm, x: Array, x_now: Array, gap: Array, slope: Array) -> Array:
    """Return the next iterate: between the projections of x_now and of x, a little beyond both."""
    xp = array_namespace(x)
    flat = (x.shape[0], -1)
    w, a, b = (xp.reshape(v, flat) for v in (slope, x_now, x))
    to_now = xp.reshape(to_hyperplane(a, w, -gap, norm=ball.name), x.shape)
    to_clean = xp.reshape(to_hyperplane(b, w, xp.vecdot(w, a - b) - gap, norm=ball.name), x.shape)
    near, far = ball.size(to_now), ball.size(to_clean)
    alpha = xp.minimum(near / (near + xp.maximum(far, _TINY)), _ALPHA_MAX)
    alpha = _per_image(alpha)
    return clip((1 - alpha) * (x_now + _ETA * to_now) + alpha * (x + _ETA * to_clean), 0.0, 1.0)


def _per_image(values: Array) -> Array:
    return values[:, None, None, None]
