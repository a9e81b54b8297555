"""Attacks by name: what the command line, the service and the tests choose from."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from dra_serve.attacks.apgd import ApgdParameters, apgd_ce, apgd_dlr
from dra_serve.attacks.apgd_targeted import ApgdTargetedParameters, apgd_t
from dra_serve.attacks.fab import FabParameters, fab_t
from dra_serve.attacks.fgsm import FgsmParameters, fgsm
from dra_serve.attacks.fmn import FmnParameters, fmn
from dra_serve.attacks.mifgsm import MifgsmParameters, mifgsm
from dra_serve.attacks.parameters import Parameters
from dra_serve.attacks.pgd import PgdParameters, pgd
from dra_serve.attacks.result import AttackResult
from dra_serve.attacks.square import SquareParameters, square
from dra_serve.classifier import Array, Classifier
from dra_serve.errors import BadRequest


@dataclass(frozen=True)
class Attack:
    """An attack and its parameters. Calling it attacks: `ATTACKS["pgd"](model, x, y, eps="8/255")`."""

    name: str
    run: Callable[..., AttackResult]
    parameters: type[Parameters]
    needs_gradient: bool = True  # False: logits alone, so any classifier will do

    @property
    def defaults(self) -> dict[str, Any]:
        """The values of the options that nobody chose; None where it depends on others."""
        signature, own = inspect.signature(self.run).parameters, {f.name for f in fields(self.parameters)}
        return {name: argument.default for name, argument in signature.items() if name in own}

    @property
    def options(self) -> tuple[str, ...]:
        """What a person may choose: norm, eps, and the attack's own."""
        return tuple(self.defaults)

    @property
    def takes_target(self) -> bool:
        """Whether it can lead to a class of one's choice."""
        return "target" in inspect.signature(self.run).parameters

    def __call__(self, model: Classifier, x: Array, y: Any, **options: Any) -> AttackResult:
        return self.run(model, x, y, **options)

    def resolve(self, input_shape: tuple[int, int, int], **options: Any) -> Parameters:
        """Return every value in force, before anything runs.

        options: what a person chose; the rest takes the attack's defaults. An option the attack does
        not have raises BadRequest under its name, as does a value out of range.
        """
        for name, value in options.items():
            if name not in self.options:
                allowed = f"nothing: {self.name} takes {', '.join(self.options)}"
                raise BadRequest(name, given=value, allowed=allowed)
        return self.parameters.resolve(input_shape, **self.defaults | options)


ATTACKS = {
    "fgsm": Attack("fgsm", fgsm, FgsmParameters),
    "pgd": Attack("pgd", pgd, PgdParameters),
    "mifgsm": Attack("mifgsm", mifgsm, MifgsmParameters),
    "apgd-ce": Attack("apgd-ce", apgd_ce, ApgdParameters),
    "apgd-dlr": Attack("apgd-dlr", apgd_dlr, ApgdParameters),
    "apgd-t": Attack("apgd-t", apgd_t, ApgdTargetedParameters),
    "fab-t": Attack("fab-t", fab_t, FabParameters),
    "square": Attack("square", square, SquareParameters, needs_gradient=False),
    "fmn": Attack("fmn", fmn, FmnParameters),
}


def attack(model: Classifier, x: Array, y: Any, name: str = "pgd", **options: Any) -> AttackResult:
    """Return the result of the attack called `name`; options and errors are those of the attack.

    >>> import dra_serve
    >>> result = dra_serve.attack(model, x, y, "pgd", eps="8/255", steps=20)  # doctest: +SKIP
    """
    return get_attack(name)(model, x, y, **options)


def get_attack(name: Any) -> Attack:
    """Return the attack called `name`; BadRequest if there is none."""
    if not isinstance(name, str) or name not in ATTACKS:
        raise BadRequest("attack", given=name, allowed=", ".join(ATTACKS))
    return ATTACKS[name]
