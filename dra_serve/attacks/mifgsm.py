"""MI-FGSM (Dong et al. 2018, Algorithm 1): the iterated sign method with momentum, made for transfer."""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

from array_api_compat import array_namespace

from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.norms import clip, get_norm
from dra_serve.attacks.parameters import MAX_STEPS, check_loss, radius_within, step_size
from dra_serve.attacks.progress import Progress
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.checked import trusting
from dra_serve.checks import check_integer
from dra_serve.classifier import Array, Classifier, Loss
from dra_serve.errors import BadRequest

_LARGEST_MU = 2.0  # the paper tries 0 to 2 (its figure 1)


@dataclass(frozen=True, kw_only=True)
class MifgsmParameters:
    """Every value in force. eps and alpha in units of x; made by `resolve_mifgsm`, so always valid."""

    norm: str
    eps: float
    alpha: float
    steps: int
    mu: float
    loss: Loss

    @property
    def total_steps(self) -> int:
        return self.steps

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, ready for JSON."""
        return asdict(self)


def resolve_mifgsm(
    input_shape: tuple[int, int, int],
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    alpha: float | str | None = None,
    steps: int = 10,
    mu: float = 1.0,
    loss: str = "ce",
) -> MifgsmParameters:
    """Return the parameters in force on images of `input_shape` (C, H, W).

    alpha: the step's size, by default eps / steps, so that a straight walk just reaches the radius.
    mu: how much of the summed gradients is kept, 0 to 2; 0 is the iterated FGSM. The rest as for PGD.
    Raises BadRequest naming the first field at fault.
    """
    largest = get_norm(norm).largest(input_shape)
    eps = radius_within(eps, largest, field="eps")
    steps = check_integer(steps, 1, MAX_STEPS, field="steps")
    return MifgsmParameters(
        norm=norm,
        eps=eps,
        alpha=eps / steps if alpha is None else step_size(alpha, largest),
        steps=steps,
        mu=_check_mu(mu),
        loss=check_loss(loss),
    )


def mifgsm(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    alpha: float | str | None = None,
    steps: int = 10,
    mu: float = 1.0,
    loss: str = "ce",
    target: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return each image moved along the sum of its gradients, each divided by its l1 norm.

    g <- mu g + grad / ||grad||_1, then a step of alpha along sign(g), or g / ||g||_2 for l2; no random
    start. An image leaves once fooled, where the paper walks on. Arguments, result and errors as in `pgd`.
    """
    p = resolve_mifgsm(model.input_shape, norm=norm, eps=eps, alpha=alpha, steps=steps, mu=mu, loss=loss)
    goal, _ = check_inputs(model, x, y, target, None, p.loss)
    progress = Progress(x, goal, model.logits(x), budget=p.total_steps, watched=on_step is not None)
    if progress.begin(lambda clean, rows: clean):
        _walk(model, progress, p, deadline, on_step)
    return progress.result()


def _walk(
    model: Classifier,
    progress: Progress,
    p: MifgsmParameters,
    deadline: float | None,
    on_step: OnStep | None,
) -> None:
    ball, model, g = get_norm(p.norm), trusting(model), None
    for taken in range(p.steps + 1):
        if deadline is not None and time.monotonic() >= deadline:
            return
        seen = progress.visit(model, steps_done=taken, last=taken == p.steps)
        if taken > 0 and on_step is not None and on_step(progress.report()) is False:
            return
        if seen.grad is None or not progress.is_open:
            return
        g = _accumulate(g if seen.kept is None or g is None else g[seen.kept], seen.grad, p.mu)
        delta = ball.project(progress.x_adv + p.alpha * ball.ascent(g) - progress.x, p.eps)
        progress.x_adv = clip(progress.x + delta, 0.0, 1.0)


def _accumulate(g: Array | None, grad: Array, mu: float) -> Array:
    """Return mu g + grad / ||grad||_1; g is None before the first step."""
    return _unit_l1(grad) if g is None else mu * g + _unit_l1(grad)


def _unit_l1(grad: Array) -> Array:
    """Return each gradient divided by its l1 norm; 0 stays 0."""
    xp = array_namespace(grad)
    largest = xp.max(xp.abs(grad), axis=(1, 2, 3), keepdims=True)  # first, or 1e-42 would vanish
    scaled = grad / xp.where(largest > 0, largest, 1.0)
    size = xp.sum(xp.abs(scaled), axis=(1, 2, 3), keepdims=True)
    return scaled / xp.where(size > 0, size, 1.0)


def _check_mu(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= _LARGEST_MU:
        raise BadRequest("mu", given=value, allowed=f"a number from 0 to {_LARGEST_MU:g}")
    return float(value)
