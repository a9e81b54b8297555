"""What an evaluation will run, every argument checked and in force, before anything runs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dra_serve.attacks import Attack, get_attack
from dra_serve.attacks.norms import get_norm, parse_radius
from dra_serve.attacks.parameters import MAX_SEED, Parameters
from dra_serve.checks import check_integer
from dra_serve.classifier import Classifier
from dra_serve.errors import BadRequest, NoGradient
from dra_serve.evaluation.data import LabelledImages
from dra_serve.evaluation.suites import WITHOUT_GRADIENT, Stage, get_suite

DEFAULT_ATTACK = "pgd"
DEFAULT_EPS = "8/255"
MAX_RADII = 32

Radii = float | str | Sequence[float | str]


@dataclass(frozen=True)
class Run:
    """One attack of the plan: what it is called with, and every value then in force."""

    attack: Attack
    options: dict[str, Any]
    parameters: Parameters

    @property
    def name(self) -> str:
        return self.attack.name


@dataclass(frozen=True)
class Plan:
    """The attacks in order, each on the survivors of those before. warnings: what the reader must know.

    Over several radii the smallest comes first. An image that fell at one is not attacked again: its
    adversarial image lies in every larger ball, so accuracy never rises with eps.
    """

    suite: str | None
    norm: str
    runs: tuple[Run, ...]
    warnings: tuple[str, ...] = ()

    @property
    def eps(self) -> float:
        """The largest radius, in units of x."""
        return self.runs[-1].parameters.eps

    def fingerprint(self, model: Classifier, images: LabelledImages, model_sha256: str | None = None) -> str:
        """Return a hash of what is asked: attacks, images and their ids, and the model.

        model_sha256: by default the model's own `sha256`.
        """
        runs = [[run.name, run.parameters.as_dict()] for run in self.runs]
        which = hashlib.sha256(np.ascontiguousarray(images.indices).tobytes()).hexdigest()
        graphs = [model_sha256 or getattr(model, "sha256", None), getattr(model, "gradient_sha256", None)]
        parts = json.dumps([runs, images.sha256, which, graphs], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()


def make_plan(
    input_shape: tuple[int, int, int],
    *,
    suite: str | None = None,
    attack: str | None = None,
    has_gradient: bool = True,
    norm: str = "linf",
    eps: Radii = DEFAULT_EPS,
    seed: int = 0,
    **options: Any,
) -> Plan:
    """Return the plan for a model of this input (C, H, W): a suite's, or that of one attack (default: pgd).

    eps: a radius, or several ("2/255,4/255,8/255") for a curve. options: the one attack's own; a suite
    fixes its budgets. A model without gradients gets Square in place of any suite, and a warning.

    Raises BadRequest naming the field at fault; NoGradient for an attack that the model cannot serve.
    """
    get_norm(norm)
    check_integer(seed, 0, MAX_SEED, field="seed")
    if suite is None:
        stages: tuple[Stage, ...] = (Stage(DEFAULT_ATTACK if attack is None else attack, options),)
        warnings: tuple[str, ...] = ()
        if get_attack(stages[0].attack).needs_gradient and not has_gradient:
            detail = f"{stages[0].attack} needs gradients and the model has none; square does without"
            raise NoGradient(detail, field="attack")
    else:
        stages, warnings = _of_suite(suite, attack, options, has_gradient)
    runs = tuple(
        _resolve(stage, input_shape, norm, radius, seed) for radius in parse_radii(eps) for stage in stages
    )
    return Plan(suite if not warnings else None, norm, runs, warnings)


def plan_again(input_shape: tuple[int, int, int], receipt: dict[str, Any]) -> Plan:
    """Return the plan that a receipt (version 2) came from. Raises BadRequest if it names what is unknown."""
    runs = []
    for run in receipt["attacks"]:
        attack, given = get_attack(run["name"]), dict(run["arguments"])
        if not given["eps"]:
            given.pop("alpha", None)  # 0 with a radius of 0, and no value that anyone may give
        options = {name: value for name, value in given.items() if name in attack.options}
        runs.append(Run(attack, options, attack.resolve(input_shape, **options)))
    return Plan(receipt["suite"], receipt["norm"], tuple(runs))


def parse_radii(value: Any) -> list[float]:
    """Return one radius or several, smallest first, in units of x.

    >>> [round(255 * eps) for eps in parse_radii("8/255,2/255")]
    [2, 8]

    Raises BadRequest for none, for more than 32, for one twice, or for one that is no radius.
    """
    if isinstance(value, str):
        parts: list[Any] = [part.strip() for part in value.split(",")]
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
    radii = sorted(parse_radius(part) for part in parts)
    if not 1 <= len(radii) <= MAX_RADII or len(set(radii)) < len(radii):
        raise BadRequest("eps", given=value, allowed=f"1 to {MAX_RADII} radii, each once")
    return radii


def _of_suite(
    suite: str, attack: str | None, options: dict[str, Any], has_gradient: bool
) -> tuple[tuple[Stage, ...], tuple[str, ...]]:
    stages = get_suite(suite)
    if attack is not None:
        raise BadRequest("suite", given=f"{suite}, and attack {attack}", allowed="one of them")
    for name, value in options.items():
        raise BadRequest(name, given=value, allowed=f"nothing: {suite} fixes its budgets; name an attack")
    if has_gradient:
        return stages, ()
    told = (
        f"no-gradient: the model has no gradients, so the black-box attack Square ran in place of {suite}; "
        "a white-box attacker may well find more, and the robust accuracy is no more than an upper bound"
    )
    return WITHOUT_GRADIENT, (told,)


def _resolve(stage: Stage, input_shape: tuple[int, int, int], norm: str, eps: float, seed: int) -> Run:
    attack = get_attack(stage.attack)
    draws = {"seed": seed} if "seed" in attack.options else {}
    options = {"norm": norm, "eps": eps} | draws | stage.options
    return Run(attack, options, attack.resolve(input_shape, **options))
