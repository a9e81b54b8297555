"""The numbers of an attack, checked and complete: what runs is what is printed."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from dra_serve.attacks.norms import get_norm, parse_radius
from dra_serve.checks import check_integer
from dra_serve.classifier import LOSSES, Loss
from dra_serve.errors import BadRequest

MAX_STEPS = 10_000
MAX_RESTARTS = 100
MAX_SEED = 2**63 - 1
_STEPS_ACROSS = (
    2.5  # a straight walk crosses the ball's radius 2.5 times (Madry et al. 2018: 2.5 eps / steps)
)


class Parameters(Protocol):
    """Every value in force of one attack: frozen, checked, complete. norm and eps are common to all."""

    @property
    def norm(self) -> str: ...

    @property
    def eps(self) -> float: ...

    @property
    def total_steps(self) -> int:
        """How many steps one image costs at most, over restarts and targets: what StepReport.steps says."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, ready for JSON."""
        ...


@dataclass(frozen=True, kw_only=True)
class PgdParameters:
    """Every value in force. eps and alpha in units of x; made by `resolve`, so always valid."""

    norm: str
    eps: float
    alpha: float
    steps: int
    restarts: int
    random_start: bool
    loss: Loss
    seed: int

    @property
    def total_steps(self) -> int:
        return self.restarts * self.steps

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name, ready for JSON."""
        return asdict(self)


def resolve(
    input_shape: tuple[int, int, int],
    *,
    norm: str = "linf",
    eps: float | str = 8 / 255,
    alpha: float | str | None = None,
    steps: int = 20,
    restarts: int = 1,
    random_start: bool = True,
    loss: str = "ce",
    seed: int = 0,
) -> PgdParameters:
    """Return the parameters in force on images of `input_shape` (C, H, W).

    eps: 0 <= eps <= 1 for linf, <= sqrt(C H W) for l2 (two images are never farther apart); 0 leaves
    the clean image. alpha: the step's size, by default min(2.5 eps / steps, eps).
    steps: 1 to 10,000. restarts: 1 to 100, more than 1 only with a random start.
    Raises BadRequest naming the first field at fault.
    """
    largest = get_norm(norm).largest(input_shape)
    eps = radius_within(eps, largest, field="eps")
    steps = check_integer(steps, 1, MAX_STEPS, field="steps")
    restarts = check_integer(restarts, 1, MAX_RESTARTS, field="restarts")
    if not isinstance(random_start, bool):
        raise BadRequest("random_start", given=random_start, allowed="true or false")
    if restarts > 1 and not random_start:
        raise BadRequest(
            "restarts", given=restarts, allowed="1 without a random start: each would be the same"
        )
    return PgdParameters(
        norm=norm,
        eps=eps,
        alpha=min(_STEPS_ACROSS * eps / steps, eps) if alpha is None else step_size(alpha, largest),
        steps=steps,
        restarts=restarts,
        random_start=random_start,
        loss=check_loss(loss),
        seed=check_integer(seed, 0, MAX_SEED, field="seed"),
    )


def radius_within(value: float | str, largest: float, *, field: str) -> float:
    """Return a radius in 0..largest, units of x; BadRequest naming the field."""
    radius = parse_radius(value, field=field)
    if radius > largest:
        allowed = f"0 <= {field} <= {largest:g}, in units of x (8/255, not 8)"
        raise BadRequest(field, given=value, allowed=allowed)
    return radius


def step_size(value: float | str, largest: float) -> float:
    """Return the size of a step, above 0 and at most `largest`, units of x; BadRequest naming alpha."""
    alpha = radius_within(value, largest, field="alpha")
    if math.isclose(alpha, 0, abs_tol=1e-12):
        raise BadRequest(
            "alpha", given=value, allowed=f"0 < alpha <= {largest:g}: a step of 0 attacks nothing"
        )
    return alpha


def check_loss(name: str) -> Loss:
    """Return the name of one of the four losses; BadRequest for any other."""
    if name not in LOSSES:
        raise BadRequest("loss", given=name, allowed=", ".join(LOSSES))
    return name
