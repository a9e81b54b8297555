"""Checks that attack: what any sound attack on any sound model does, and what none does.

Labels are the model's own answers, so an image is fooled when an attack moves it to another class.
"""

from typing import Any

import numpy as np

from dra_serve.attacks.losses import ce
from dra_serve.attacks.norms import get_norm
from dra_serve.attacks.registry import get_attack
from dra_serve.attacks.result import AttackResult
from dra_serve.evaluation.diagnosis.case import Case, Measured, counted

STEPS = 20
MORE_STEPS = 100
HUGE_STEPS = 50
QUERIES = 1000
WHITE_BOX_STEPS = 50
GAIN = 0.002  # of the images: AutoAttack's limit for what Square may add
ONE_STEP_GAIN = 0.02  # likewise, and more than one image
STEPS_GAIN = 0.05


def eps_zero_differs(case: Case) -> Measured:
    """With no room to move, an attack must leave images and answers as they are."""
    result = _fooled_by(case, "pgd", eps=0, steps=1)
    answers = case.model.logits(result.x_adv).argmax(1)
    moved = np.any(result.x_adv != case.x, axis=(1, 2, 3))
    differs = moved | result.success | (answers != case.predicted)
    return Measured(f"{counted(differs)} changed by an attack of radius 0", bool(differs.any()))


def loss_does_not_rise(case: Case) -> Measured:
    """Following the gradient does not raise the loss it is of (ce), on some image."""
    result = _fooled_by(case, "pgd", steps=STEPS, random_start=False)
    stuck = ~result.success & ~(result.loss > ce(case.logits, case.predicted)[0])
    return Measured(f"on {counted(stuck)} {STEPS} steps of pgd raised nothing", bool(stuck.any()))


def one_step_wins(case: Case) -> Measured:
    """One step of the full radius fools more images than many small ones."""
    one = int(_fooled_by(case, "fgsm").success.sum())
    many = int(_fooled_by(case, "pgd", steps=STEPS).success.sum())
    text = f"of {len(case.x)} images, one step fools {one} and {STEPS} steps {many}"
    return Measured(text, one - many > max(1, ONE_STEP_GAIN * len(case.x)))


def steps_matter(case: Case) -> Measured:
    """Five times the steps fool many more images, or fewer: the attack has not settled."""
    few, more = (int(_fooled_by(case, "pgd", steps=n).success.sum()) for n in (STEPS, MORE_STEPS))
    text = f"of {len(case.x)} images, {STEPS} steps fool {few} and {MORE_STEPS} steps {more}"
    return Measured(text, abs(more - few) > max(1, STEPS_GAIN * len(case.x)))


def unbounded_attack_fails(case: Case) -> Measured:
    """With a radius that reaches every other image, some answer still stands."""
    largest = get_norm(case.norm).largest(case.model.input_shape)
    standing = ~_fooled_by(case, "pgd", eps=largest, steps=HUGE_STEPS).success
    text = f"{counted(standing)} still stand at {case.norm} eps {largest:.3g}"
    return Measured(text, bool(standing.any()))


def black_box_wins(case: Case) -> Measured:
    """Square, which sees answers only, fools images on which gradients failed (as in AutoAttack's checks)."""
    left = np.arange(len(case.x))
    for name, steps in (("apgd-ce", WHITE_BOX_STEPS), ("apgd-t", STEPS)):
        if len(left):
            left = left[~_fooled_by(case, name, rows=left, steps=steps).success]
    if not len(left):
        return Measured("apgd-ce and apgd-t leave no image to it", False)
    gained = int(_fooled_by(case, "square", rows=left, queries=QUERIES).success.sum())
    text = f"square fools {gained} of the {len(left)} images that apgd-ce and apgd-t leave"
    return Measured(text, gained > GAIN * len(case.x))


def _fooled_by(
    case: Case, attack: str, *, rows: np.ndarray | None = None, eps: float | None = None, **options: Any
) -> AttackResult:
    """Return the result of an attack on some rows (default: all), within the case's ball if no other."""
    rows = np.arange(len(case.x)) if rows is None else rows
    options |= {"norm": case.norm, "eps": case.eps if eps is None else eps}
    if "seed" in get_attack(attack).options:
        options |= {"seed": case.seed, "indices": rows}
    return get_attack(attack)(case.model, case.x[rows], case.predicted[rows], **options)
