"""APGD-T (Croce & Hein 2020): APGD towards one likely class after another."""

from dataclasses import dataclass, replace
from typing import Any

from dra_serve.attacks.apgd import ApgdParameters, climb, sphere_start
from dra_serve.attacks.inputs import check_inputs
from dra_serve.attacks.objective import Objective
from dra_serve.attacks.parameters import Targets
from dra_serve.attacks.progress import Progress
from dra_serve.attacks.result import AttackResult, OnStep
from dra_serve.attacks.targets import likeliest_targets
from dra_serve.attacks.watch import Watch
from dra_serve.classifier import Array, Classifier


@dataclass(frozen=True, kw_only=True)
class ApgdTargetedParameters(ApgdParameters):
    """APGD's, steps and restarts for each target. A model of K classes has no more than K - 1 targets."""

    targets: Targets


def apgd_t(
    model: Classifier,
    x: Array,
    y: Any,
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    seed: int = 0,
    indices: Any = None,
    deadline: float | None = None,
    on_step: OnStep | None = None,
) -> AttackResult:
    """Return the strongest perturbation of each image that APGD finds on the targeted DLR loss.

    The classes but y are tried in the order of the clean image's logits, at most `targets` of them (all
    K - 1 of a model that has fewer); an image leaves as soon as *any* class but y is predicted. One never
    fooled comes back as the iterate of highest loss over all targets.
    Arguments, result and errors otherwise as in `apgd_ce`. With fewer than four classes the loss divides
    by what there is (see `losses`).
    """
    p = ApgdTargetedParameters.resolve(
        model.input_shape, norm=norm, eps=eps, steps=steps, restarts=restarts, targets=targets, seed=seed
    )
    model, untargeted, ids = check_inputs(model, x, y, None, indices, "margin")
    logits = model.logits(x)
    order = likeliest_targets(logits, untargeted.y, p.targets)
    p = replace(p, targets=order.shape[1])
    goals = [Objective("dlr_targeted", untargeted.y, guide=order[:, rank]) for rank in range(p.targets)]
    progress = Progress(x, goals[0], logits, budget=p.total_steps, watch=Watch(deadline, on_step))
    for run in range(p.targets * p.restarts):
        if not progress.begin(sphere_start(p, ids, run), goal=goals[run // p.restarts]):
            break
        climb(model, progress, p)
    return progress.result()
