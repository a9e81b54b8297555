"""Projected gradient descent (Madry et al. 2018): the inner attack of training, and the one that judges.

`perturb` is the bare loop. `pgd` wraps it in what an honest evaluation needs, and spends no model call
that cannot change the answer: each gradient call also says whether the current image already fools the
model, finished images leave the batch, and the last image is checked by the cheaper `logits`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dra_serve.attacks.inputs import check_inputs, example_noise
from dra_serve.attacks.norms import Norm, clip, get_norm
from dra_serve.attacks.parameters import Flag, LossName, Parameters, Restarts, Seed, Steps, StepSize
from dra_serve.attacks.progress import Progress
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.watch import Watch
from dra_serve.checks import check_images
from dra_serve.classifier import Array, Classifier, Loss
from dra_serve.errors import BadRequest

_STEPS_ACROSS = 2.5  # so often a straight walk crosses the ball's radius (Madry et al. 2018)


@dataclass(frozen=True, kw_only=True)
class PgdParameters(Parameters):
    """PGD's. alpha: the step's size, by default min(2.5 eps / steps, eps).

    restarts: more than 1 only with a random start.
    """

    alpha: StepSize
    steps: Steps
    restarts: Restarts
    random_start: Flag
    loss: LossName
    seed: Seed

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        eps, restarts = values["eps"], values["restarts"]
        if restarts > 1 and not values["random_start"]:
            allowed = "1 without a random start: each would be the same"
            raise BadRequest("restarts", given=restarts, allowed=allowed)
        return values | {"alpha": values["alpha"] or min(_STEPS_ACROSS * eps / values["steps"], eps)}


def perturb(
    model: Classifier,
    x: Array,
    y: Array,
    *,
    norm: str = "linf",
    eps: float,
    alpha: float,
    steps: int,
    start: Array | None = None,
    loss: Loss = "ce",
    target: Array | None = None,
) -> Array:
    """Return the last of `steps` iterates: exactly `steps` gradient calls and no other.

    The inner attack of adversarial training: its input is checked once, and it ranks nothing.
    x: (N, C, H, W) float in [0, 1], never written to. start: the first iterate, x if None (see
    `random_start`). eps, alpha: radius and step in units of x. Raises NoGradient at a non-finite one.
    """
    ball = get_norm(norm)
    model, goal, _ = check_inputs(model, x, y, target, None, loss)
    x_adv = x if start is None else start
    check_images(x_adv, model.input_shape)
    for _ in range(steps):
        _, _, grad = goal.gradient(model, x_adv)
        x_adv = _step(ball, x, x_adv, grad, eps=eps, alpha=alpha)
    return x_adv


def _step(ball: Norm, x: Array, x_adv: Array, grad: Array, *, eps: float, alpha: float) -> Array:
    """Return x_adv moved by alpha up the gradient, back into the ball around x, then into [0, 1].

    Clipping comes last: it moves each pixel towards x, which cannot leave the ball.
    """
    moved = ball.ascent(grad)
    moved *= alpha  # in place: a batch's temporaries cost more than its arithmetic
    moved += x_adv
    moved -= x
    return clip(x + ball.project(moved, eps), 0.0, 1.0)


def random_start(
    x: Array, *, norm: str = "linf", eps: float, seed: int, indices: Any = None, restart: int = 0
) -> Array:
    """Return x (N, C, H, W) plus uniform noise from the ball of radius eps, in [0, 1].

    The noise of an image depends on (seed, its index, restart) alone, so it is the same in every batch
    and on every array library. indices: (N,) ints >= 0, by default 0..N-1.
    """
    ids = range(x.shape[0]) if indices is None else indices
    noise = example_noise(get_norm(norm), x, seed=seed, ids=ids, stream=restart)
    return clip(x + eps * noise, 0.0, 1.0)


def pgd(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    alpha: float | str | None = None,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = True,
    loss: str = "ce",
    target: Any = None,
    seed: int = 0,
    indices: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
    stop_on_success: bool = True,
) -> AttackResult:
    """Return the strongest perturbation of each image that PGD finds.

    x: (N, C, H, W) float32 in [0, 1], never written to. y: (N,) labels. The rest as in `PgdParameters`.
    An image is fooled if the model is wrong on x itself (then x_adv is x, after 0 steps), on a random
    start or after any step; it is not attacked further. One that is never fooled comes back as its
    highest-loss iterate. With stop_on_success=False every image gets the whole budget, and the fooled
    iterate of highest loss is kept.

    target: (N,) classes; success then means that the prediction *is* the target.
    indices: (N,) noise ids, by default 0..N-1; with the same seed and id the answer is the same in
    every batch. deadline: a `time.monotonic()` moment, looked at before each gradient.
    on_step: called after each step with a StepReport; returning False ends the attack.

    Raises BadRequest naming the field; NoGradient if the model has no gradient or a non-finite one.
    """
    p = PgdParameters.resolve(
        model.input_shape,
        norm=norm,
        eps=eps,
        alpha=alpha,
        steps=steps,
        restarts=restarts,
        random_start=random_start,
        loss=loss,
        seed=seed,
    )
    model, goal, ids = check_inputs(model, x, y, target, indices, p.loss)
    ball, watch = get_norm(p.norm), Watch(deadline, on_step)
    progress = Progress(
        x, goal, model.logits(x), budget=p.total_steps, watch=watch, stop_on_success=stop_on_success
    )
    for restart in range(p.restarts):
        if not progress.begin(_start(p, ids, restart)):
            break
        for seen in progress.visits(model, p.steps):
            progress.x_adv = _step(ball, progress.x, progress.x_adv, seen.grad, eps=p.eps, alpha=p.alpha)
    return progress.result()


def _start(p: PgdParameters, ids: Array, restart: int) -> Callable[[Array, Array], Array]:
    """Return start(x, rows): x itself, or with noise of each image's own."""

    def start(x: Array, rows: Array) -> Array:
        if not p.random_start:
            return x
        return random_start(x, norm=p.norm, eps=p.eps, seed=p.seed, indices=ids[rows], restart=restart)

    return start
