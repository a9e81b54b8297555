"""MI-FGSM (Dong et al. 2018, Algorithm 1): the iterated sign method with momentum, made for transfer."""

from dataclasses import dataclass
from typing import Annotated, Any

from array_api_compat import array_namespace

from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.norms import clip, get_norm
from dra_serve.attacks.parameters import LossName, Parameters, Steps, StepSize, number
from dra_serve.attacks.progress import Progress
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.watch import Watch
from dra_serve.classifier import Array, Classifier


@dataclass(frozen=True, kw_only=True)
class MifgsmParameters(Parameters):
    """MI-FGSM's. alpha: the step's size, by default eps / steps: a straight walk just reaches the radius.

    mu: how much of the summed gradients is kept; 0 is the iterated FGSM, the paper tries 0 to 2 (figure 1).
    """

    alpha: StepSize
    steps: Steps
    mu: Annotated[float, number(0, 2)]
    loss: LossName

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"alpha": values["alpha"] or values["eps"] / values["steps"]}


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
    p = MifgsmParameters.resolve(
        model.input_shape, norm=norm, eps=eps, alpha=alpha, steps=steps, mu=mu, loss=loss
    )
    model, goal, _ = check_inputs(model, x, y, target, None, p.loss)
    ball, watch = get_norm(p.norm), Watch(deadline, on_step)
    progress = Progress(x, goal, model.logits(x), budget=p.total_steps, watch=watch)
    if progress.begin(lambda clean, rows: clean):
        g = None
        for seen in progress.visits(model, p.steps):
            g = _accumulate(g if seen.kept is None or g is None else g[seen.kept], seen.grad, p.mu)
            delta = ball.project(progress.x_adv + p.alpha * ball.ascent(g) - progress.x, p.eps)
            progress.x_adv = clip(progress.x + delta, 0.0, 1.0)
    return progress.result()


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
