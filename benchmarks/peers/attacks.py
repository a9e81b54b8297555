"""PGD and APGD of ours and of others, each as one call: images and labels in, x_adv and verdict out.

Every contender attacks the same frozen network in eval mode, or its ONNX twin, through its public
interface. Those that do not say whom they fooled (all but ours and foolbox) are asked by one forward pass,
as whoever calls them must. What is not installed is named in the list of the skipped, with the reason.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

from dra_serve.attacks import ATTACKS, perturb, random_start
from dra_serve.classifier import Classifier

Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""x (N, C, H, W) and y (N,) to x_adv and whether it fools, (N,) bool."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One attack as all contenders run it: linf, random start, one restart. alpha is for PGD alone."""

    attack: str  # pgd, apgd-ce, apgd-t
    eps: float
    steps: int
    alpha: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model under attack, as torch and as ONNX Runtime hold it."""

    network: nn.Module
    on_torch: Classifier
    on_onnx: Classifier


def contenders(subject: Subject, setting: Setting) -> tuple[dict[str, Run], dict[str, str]]:
    """Return who runs this attack, ours first, and why each of the others does not."""
    runs: dict[str, Run] = {
        "ours, ONNX": _ours_onnx(subject, setting),
        "ours, torch": _ours(subject, setting),
    }
    if setting.attack == "pgd":
        runs["ours, torch, last iterate"] = _last_iterate(subject, setting)
    skipped = {}
    for name, make in PEERS.items():
        try:
            run = make(subject, setting)
        except ImportError as error:
            skipped[name] = f"not installed ({error})"
            continue
        if run is None:
            skipped[name] = f"has no {setting.attack}"
        else:
            runs[_with_version(name)] = run
    return runs, skipped


def _with_version(name: str) -> str:
    with suppress(PackageNotFoundError):
        return f"{name} {version(name)}"
    return name


def _options(s: Setting) -> dict[str, Any]:
    alpha = {"alpha": s.alpha} if s.attack == "pgd" else {}
    return {"eps": s.eps, "steps": s.steps, "seed": s.seed} | alpha


def _ours(subject: Subject, s: Setting) -> Run:
    attack = ATTACKS[s.attack]

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        result = attack(subject.on_torch, x, y, **_options(s))
        return result.x_adv, result.success

    return run


def _ours_onnx(subject: Subject, s: Setting) -> Run:
    attack = ATTACKS[s.attack]

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        result = attack(subject.on_onnx, x.numpy(), y.numpy(), **_options(s))
        return torch.from_numpy(result.x_adv), torch.from_numpy(result.success)

    return run


def _last_iterate(subject: Subject, s: Setting) -> Run:
    """Return our PGD as the peers run theirs: no image leaves, and the last iterate alone is judged."""

    def attack(x: Tensor, y: Tensor) -> Tensor:
        start = random_start(x, eps=s.eps, seed=s.seed)
        return perturb(subject.on_torch, x, y, eps=s.eps, alpha=s.alpha, steps=s.steps, start=start)

    return _judged(subject, attack)


def _judged(subject: Subject, attack: Callable[[Tensor, Tensor], Tensor]) -> Run:
    """Return the attack with the verdict of one forward pass."""

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x_adv = attack(x, y).detach()
        with torch.no_grad():
            return x_adv, subject.network(x_adv).argmax(1) != y

    return run


def _torchattacks(subject: Subject, s: Setting) -> Run | None:
    import torchattacks

    common: dict[str, Any] = {"eps": s.eps, "steps": s.steps}
    if s.attack == "pgd":
        return _judged(subject, torchattacks.PGD(subject.network, alpha=s.alpha, **common))
    common |= {"norm": "Linf", "seed": s.seed}
    if s.attack == "apgd-ce":
        return _judged(subject, torchattacks.APGD(subject.network, loss="ce", **common))
    return _judged(subject, torchattacks.APGDT(subject.network, n_classes=_classes(subject), **common))


def _foolbox(subject: Subject, s: Setting) -> Run | None:
    from foolbox.attacks import LinfPGD
    from foolbox.models.pytorch import PyTorchModel

    if s.attack != "pgd":
        return None
    model = PyTorchModel(subject.network, bounds=(0, 1), device="cpu")
    attack = LinfPGD(abs_stepsize=s.alpha, steps=s.steps, random_start=True)

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        _, x_adv, fooled = attack(model, x, y, epsilons=s.eps)
        return x_adv, fooled

    return run


def _art(subject: Subject, s: Setting) -> Run | None:
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    if s.attack == "apgd-t":
        return None
    model = PyTorchClassifier(
        subject.network,
        loss=nn.CrossEntropyLoss(),
        input_shape=subject.on_onnx.input_shape,
        nb_classes=_classes(subject),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    common: dict[str, Any] = {"norm": np.inf, "eps": s.eps, "max_iter": s.steps, "verbose": False}
    if s.attack == "pgd":
        attack = ProjectedGradientDescent(model, eps_step=s.alpha, num_random_init=1, **common)
    else:
        attack = AutoProjectedGradientDescent(
            model, eps_step=2 * s.eps, nb_random_init=1, loss_type="cross_entropy", **common
        )

    return _judged(subject, lambda x, y: torch.from_numpy(attack.generate(x.numpy(), y.numpy())))


def _adv_lib(subject: Subject, s: Setting) -> Run | None:
    # It imports torchvision for LPIPS and visdom for plots; neither is used here, and no torchvision wheel
    # imports beside torch's CPU build, so stand-ins let it load where the real ones do not.
    for name in ("torchvision", "visdom"):
        try:
            __import__(name)
        except (ImportError, RuntimeError):
            sys.modules[name] = MagicMock(name=name)
    from adv_lib.attacks import apgd, apgd_targeted, pgd_linf

    attack: Callable[..., Tensor]
    options: dict[str, Any]
    if s.attack == "pgd":
        attack, options = pgd_linf, {"ε": s.eps, "steps": s.steps, "absolute_step_size": s.alpha}
    else:
        attack = apgd if s.attack == "apgd-ce" else apgd_targeted
        options = {"eps": s.eps, "norm": float("inf"), "n_iter": s.steps}
        options |= {"loss_function": "ce"} if s.attack == "apgd-ce" else {}
    return _judged(subject, lambda x, y: attack(subject.network, x, y, **options))


def _auto_attack(subject: Subject, s: Setting) -> Run | None:
    from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    if s.attack == "pgd":
        return None
    common: dict[str, Any] = {
        "n_iter": s.steps,
        "norm": "Linf",
        "eps": s.eps,
        "seed": s.seed,
        "device": "cpu",
    }
    if s.attack == "apgd-ce":
        return _judged(subject, APGDAttack(subject.network, loss="ce", **common).perturb)
    targets = min(9, _classes(subject) - 1)
    return _judged(subject, APGDAttack_targeted(subject.network, n_target_classes=targets, **common).perturb)


def _classes(subject: Subject) -> int:
    return len(subject.on_onnx.classes)


PEERS: dict[str, Callable[[Subject, Setting], Run | None]] = {
    "torchattacks": _torchattacks,
    "foolbox": _foolbox,
    "adversarial-robustness-toolbox": _art,
    "adv-lib": _adv_lib,
    "auto-attack (the original)": _auto_attack,
}
"""By the name of the distribution; the original AutoAttack is on no index, a checkout on PYTHONPATH does."""
