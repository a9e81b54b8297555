"""The numbers of an attack, checked and complete: what runs is what is printed.

A word means the same in every attack, so its type here says its range once; the defaults stand in the
signatures of the attacks.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Self

from dra_serve.attacks.norms import get_norm, parse_radius
from dra_serve.checks import check_integer
from dra_serve.classifier import LOSSES, Loss
from dra_serve.errors import BadRequest

MAX_STEPS = 10_000
MAX_RESTARTS = 100
MAX_TARGETS = 999
MAX_SEED = 2**63 - 1
_REPEATED = ("steps", "restarts", "targets", "queries")

Check = Callable[[str, Any, float], Any]
"""Returns a value as it is in force, from its field's name, what a person gave and the largest radius that
means anything, in units of x; raises BadRequest naming the field."""


def whole(low: int, high: int) -> Check:
    """Return the check of an integer in low..high."""
    return lambda field, value, largest: check_integer(value, low, high, field=field)


def number(low: float, high: float) -> Check:
    """Return the check of a finite number in low..high."""

    def check(field: str, value: Any, largest: float) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:  # a nan is neither
            raise BadRequest(field, given=value, allowed=f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def radius_within(value: float | str, largest: float, *, field: str) -> float:
    """Return a radius in 0..largest, units of x; BadRequest naming the field."""
    radius = parse_radius(value, field=field)
    if radius > largest:
        allowed = f"0 <= {field} <= {largest:g}, in units of x (8/255, not 8)"
        raise BadRequest(field, given=value, allowed=allowed)
    return radius


def _norm(field: str, value: Any, largest: float) -> str:
    return get_norm(value).name


def _radius(field: str, value: Any, largest: float) -> float:
    return radius_within(value, largest, field=field)


def _step_size(field: str, value: Any, largest: float) -> float | None:
    if value is None:
        return None
    size = radius_within(value, largest, field=field)
    if math.isclose(size, 0, abs_tol=1e-12):
        allowed = f"0 < {field} <= {largest:g}: a step of 0 attacks nothing"
        raise BadRequest(field, given=value, allowed=allowed)
    return size


def _flag(field: str, value: Any, largest: float) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(field, given=value, allowed="true or false")
    return value


def _loss(field: str, value: Any, largest: float) -> Loss:
    if value not in LOSSES:
        raise BadRequest(field, given=value, allowed=", ".join(LOSSES))
    name: Loss = value
    return name


NormName = Annotated[str, _norm]
Radius = Annotated[float, _radius]
StepSize = Annotated[float, _step_size]  # None stands for the attack's own rule, see `complete`
Steps = Annotated[int, whole(1, MAX_STEPS)]
Restarts = Annotated[int, whole(1, MAX_RESTARTS)]
Targets = Annotated[int, whole(1, MAX_TARGETS)]
Flag = Annotated[bool, _flag]
LossName = Annotated[Loss, _loss]
Seed = Annotated[int, whole(0, MAX_SEED)]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Every value in force of one attack: frozen, complete, and valid, since `resolve` makes it.

    eps: in units of x, 0 <= eps <= 1 for linf, <= sqrt(C H W) for l2 (two images are never farther apart);
    0 leaves the clean image.
    """

    norm: NormName
    eps: Radius

    @property
    def total_steps(self) -> int:
        """How many steps one image costs at most, over restarts and targets: what StepReport.steps says."""
        return math.prod(vars(self).get(name, 1) for name in _REPEATED)

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, ready for JSON."""
        return asdict(self)

    @classmethod
    def resolve(cls, input_shape: tuple[int, int, int], **given: Any) -> Self:
        """Return the values in force on images of `input_shape` (C, H, W).

        given: a value for each field, as a person types them. Raises BadRequest naming the first at fault.
        """
        largest = get_norm(given["norm"]).largest(input_shape)
        types: dict[str, Any] = {field.name: field.type for field in fields(cls)}
        checked = {name: own.__metadata__[0](name, given.pop(name), largest) for name, own in types.items()}
        assert not given, f"{cls.__name__} has no {', '.join(given)}"
        return cls(**cls.complete(checked))

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values with those that depend on others; BadRequest where two contradict."""
        return values
