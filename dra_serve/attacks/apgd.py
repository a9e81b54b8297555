"""Auto-PGD (Croce & Hein 2020, Algorithm 1): PGD whose steps shorten themselves when they stop paying.

The original spends a gradient on every iterate of every image. Here each gradient call also says whom
the current iterate already fools, those leave the batch, and nothing follows the last iterate, so the
cheaper `logits` judges it. Which images fall is the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dra_serve.attacks.apgd_schedule import Schedule, checkpoints
from dra_serve.attacks.inputs import check_inputs, example_noise
from dra_serve.attacks.norms import Norm, clip, get_norm, per_image
from dra_serve.attacks.parameters import Parameters, Restarts, Seed, Steps
from dra_serve.attacks.progress import Progress, choose
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.watch import Watch
from dra_serve.classifier import Array, Classifier, Loss

_MOMENTUM = 0.25  # how much of the step before last is kept: 1 - alpha in the paper
_FIRST_STEP = 2.0  # the first step's size, in radii


@dataclass(frozen=True, kw_only=True)
class ApgdParameters(Parameters):
    """APGD's. The checkpoints scale with the steps."""

    steps: Steps
    restarts: Restarts
    seed: Seed


def apgd_ce(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    target: Any = None,
    seed: int = 0,
    indices: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return the strongest perturbation of each image that APGD finds on the cross-entropy.

    x: (N, C, H, W) float32 in [0, 1], never written to. y: (N,) labels. The rest as in `ApgdParameters`.
    An image is fooled if the model is wrong on x itself (then x_adv is x, after 0 steps), at a start or
    after any step; it is not attacked further. One never fooled comes back as its highest-loss iterate.

    target: (N,) classes; success then means that the prediction *is* the target.
    indices: (N,) noise ids, by default 0..N-1; with the same seed and id the answer is the same in
    every batch. deadline: a `time.monotonic()` moment, looked at before each model call.
    on_step: called after each step with a StepReport; returning False ends the attack.

    Raises BadRequest naming the field; NoGradient if the model has no gradient or a non-finite one.
    """
    p = ApgdParameters.resolve(
        model.input_shape, norm=norm, eps=eps, steps=steps, restarts=restarts, seed=seed
    )
    return _apgd(model, x, y, "ce", p, target, indices, Watch(deadline, on_step))


def apgd_dlr(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    target: Any = None,
    seed: int = 0,
    indices: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return the same on the difference of logits ratio, blind to the scale of the logits.

    Arguments, result and errors as in `apgd_ce`. With two classes the loss is the margin.
    """
    p = ApgdParameters.resolve(
        model.input_shape, norm=norm, eps=eps, steps=steps, restarts=restarts, seed=seed
    )
    return _apgd(model, x, y, "dlr", p, target, indices, Watch(deadline, on_step))


def _apgd(
    model: Classifier,
    x: Array,
    y: Any,
    loss: Loss,
    p: ApgdParameters,
    target: Any,
    indices: Any,
    watch: Watch,
) -> AttackResult:
    model, goal, ids = check_inputs(model, x, y, target, indices, loss)
    progress = Progress(x, goal, model.logits(x), budget=p.total_steps, watch=watch)
    for restart in range(p.restarts):
        if not progress.begin(sphere_start(p, ids, restart)):
            break
        climb(model, progress, p)
    return progress.result()


def sphere_start(p: ApgdParameters, ids: Array, run: int) -> Callable[[Array, Array], Array]:
    """Return start(x, rows): x plus noise of size exactly eps, clipped to [0, 1].

    The direction is that of a uniform draw from the ball, of (seed, the image's id, run) alone.
    """
    ball = get_norm(p.norm)

    def start(x: Array, rows: Array) -> Array:
        delta = example_noise(ball, x, seed=p.seed, ids=ids[rows], stream=run)
        return clip(x + delta * (p.eps / per_image(ball.size(delta))), 0.0, 1.0)

    return start


def climb(model: Classifier, progress: Progress, p: ApgdParameters) -> None:
    """Run APGD once, from progress.x_adv, on the images open."""
    ball, looks = get_norm(p.norm), dict(_windows(p.steps))
    for taken, seen in enumerate(progress.visits(model, p.steps)):
        here = _Point(progress.x_adv, seen.loss, seen.grad)
        if taken == 0:
            best, before = here, here.x_adv
            schedule = Schedule.begin(here.loss, _FIRST_STEP * p.eps)
        else:
            if seen.kept is not None:
                best, before = best.select(seen.kept), before[seen.kept]
                schedule = schedule.select(seen.kept)
            best, schedule = here.where(here.loss > best.loss, best), schedule.observe(here.loss)
        if taken in looks:
            schedule = schedule.check(best.loss, looks[taken])
            here = best.where(schedule.halved, here)
        progress.x_adv = _step(
            ball, progress.x, here, before, schedule.size, p.eps, momentum=_MOMENTUM if taken else 0.0
        )
        before = here.x_adv


@dataclass(frozen=True)
class _Point:
    """One iterate of each of n images with its loss (n,) and gradient."""

    x_adv: Array
    loss: Array
    grad: Array

    def select(self, kept: Array) -> "_Point":
        return _Point(self.x_adv[kept], self.loss[kept], self.grad[kept])

    def where(self, mine: Array, other: "_Point") -> "_Point":
        """Return these where `mine` (n,) holds, the other's elsewhere."""
        fields = ((point.x_adv, point.loss, point.grad) for point in (self, other))
        return _Point(*choose(mine, *fields))


def _step(
    ball: Norm, x: Array, here: _Point, before: Array, size: Array, eps: float, *, momentum: float
) -> Array:
    """Return the next iterate: a projected step up the gradient, bent towards the step before it."""
    moved = ball.ascent(here.grad)
    moved *= per_image(size)  # in place: a batch's temporaries cost more than its arithmetic
    moved += here.x_adv
    z = _inside(ball, x, moved, eps)
    if momentum == 0:
        return z
    z -= here.x_adv
    z *= 1 - momentum
    z += here.x_adv
    drift = here.x_adv - before
    drift *= momentum
    z += drift
    return _inside(ball, x, z, eps)


def _inside(ball: Norm, x: Array, moved: Array, eps: float) -> Array:
    """Return the nearest image of the ball around x, clipped to the box; `moved` is used up."""
    moved -= x
    return clip(x + ball.project(moved, eps), 0.0, 1.0)


def _windows(steps: int) -> list[tuple[int, int]]:
    """Return each checkpoint with the number of steps since the one before."""
    at = checkpoints(steps)
    return [(now, now - then) for now, then in zip(at, (0, *at), strict=False)]
