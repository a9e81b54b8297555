"""Suites as data: which attacks, in which order, with which budgets. Each sees the survivors of those before.

`standard` has the budgets of AutoAttack's (Croce & Hein 2020); `fast` is its first half, which decides
nearly every image; `quick` is the figure that papers print for a first look.
"""

from dataclasses import dataclass, field
from typing import Any

from dra_serve.errors import BadRequest


@dataclass(frozen=True)
class Stage:
    """One attack of a suite, with its budget; norm, eps and seed are the evaluation's."""

    attack: str
    options: dict[str, Any] = field(default_factory=dict)


_APGD = (Stage("apgd-ce", {"steps": 100}), Stage("apgd-t", {"steps": 100, "targets": 9}))
_SQUARE = Stage("square", {"queries": 5000})

SUITES: dict[str, tuple[Stage, ...]] = {
    "quick": (Stage("pgd", {"steps": 20}),),
    "fast": _APGD,
    "standard": (*_APGD, Stage("fab-t", {"steps": 100, "targets": 9}), _SQUARE),
}

WITHOUT_GRADIENT = (_SQUARE,)
"""In place of any suite, for a model that has no gradients."""


def get_suite(name: Any) -> tuple[Stage, ...]:
    """Return the suite called `name`; BadRequest if there is none."""
    if not isinstance(name, str) or name not in SUITES:
        raise BadRequest("suite", given=name, allowed=", ".join(SUITES))
    return SUITES[name]
