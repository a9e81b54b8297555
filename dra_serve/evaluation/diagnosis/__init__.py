"""The usual faults of a robustness evaluation, found before anyone trusts it.

A check is a pure function of a `Case` (a model and a few labelled images); `checks.py` is the list. After
AutoAttack's `checks.py` (Croce & Hein 2020) and Carlini et al. 2019, section 4; docs/evaluation.md explains
each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dra_serve.classifier import Array, Classifier
from dra_serve.errors import NoGradient
from dra_serve.evaluation.diagnosis.aftermath import FEW_IMAGES, claims, warnings_after
from dra_serve.evaluation.diagnosis.case import Case, Measured
from dra_serve.evaluation.diagnosis.checks import CHECKS, Check

__all__ = [
    "AT_MOST",
    "CHECKS",
    "NAMES",
    "Case",
    "Finding",
    "claimed",
    "diagnose",
    "warnings_after",
    "warnings_for",
]

NAMES = (*(check.name for check in CHECKS), "few-images", "few-classes")
"""Of every warning this package gives."""

DOCUMENT = "docs/evaluation.md"
AT_MOST = 32  # images of an evaluation that are looked at before it begins

Verdict = Literal["ok", "warning", "not run"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found. measured: in figures; meaning: what a warning of this name means."""

    name: str
    question: str
    measured: str
    verdict: Verdict
    meaning: str

    @property
    def anchor(self) -> str:
        """Where it is explained."""
        return f"{DOCUMENT}#{self.name}"

    @property
    def text(self) -> str:
        """One line, as it stands in a receipt."""
        return f"{self.name}: {self.measured}"


def diagnose(case: Case, checks: tuple[Check, ...] = CHECKS) -> Iterator[Finding]:
    """Yield what each check finds, as soon as it is known."""
    for check in checks:
        yield _examine(case, check)


def claimed(receipts: tuple[dict[str, Any], ...]) -> Finding:
    """Return whether the figures that a model comes with have images enough."""
    name, question, meaning = FEW_IMAGES
    measured = claims(receipts)
    verdict: Verdict = "warning" if measured.fault else "ok"
    return Finding(name=name, question=question, measured=measured.text, verdict=verdict, meaning=meaning)


def warnings_for(
    model: Classifier,
    x: np.ndarray,
    y: Any,
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    seed: int = 0,
    as_array: Callable[[np.ndarray], Array] = np.asarray,
) -> list[str]:
    """Return the warnings of the cheap checks, each beginning with its name and a colon.

    x: (N, C, H, W) float32 in [0, 1], of which the first 32 are looked at, so give them in a random order;
    y: (N,) labels. as_array: NumPy to the model's array library.
    Cost: 36 forward and 8 gradient passes over 32 images, whatever N is, and 1,024 logits more.
    """
    case = Case.of(model, x[:AT_MOST], y[:AT_MOST], norm=norm, eps=eps, seed=seed, as_array=as_array)
    cheap = tuple(check for check in CHECKS if check.cheap)
    return [finding.text for finding in diagnose(case, cheap) if finding.verdict == "warning"]


def _examine(case: Case, check: Check) -> Finding:
    if check.needs_gradient and not case.model.has_gradient:
        return _finding(check, "the model gives no gradient", "not run")
    try:
        measured: Measured = check.measure(case)
    except NoGradient as error:  # a nan on the way, of which the check `non-finite` speaks
        return _finding(check, error.detail, "not run")
    return _finding(check, measured.text, "warning" if measured.fault else "ok")


def _finding(check: Check, measured: str, verdict: Verdict) -> Finding:
    return Finding(
        name=check.name,
        question=check.question,
        measured=measured,
        verdict=verdict,
        meaning=check.meaning,
    )
