"""What a receipt holds, and what must hold among its figures: they are those of its own outcomes."""

import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from dra_serve.evaluation.bits import unpack
from dra_serve.evaluation.statistics import wilson

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Strict):
    """The whole data set: sha256 of its pixels and labels."""

    name: str
    sha256: Sha256
    split: str


class Subset(_Strict):
    """The first so many of the permutation that NumPy's default generator draws from the seed."""

    permutation_seed: int
    first: PositiveInt
    of: PositiveInt


class AttackRun(_Strict):
    """One attack of the run. arguments: every one in force; robust: images right after it and all before."""

    name: str
    arguments: dict[str, Any]
    robust: NonNegativeInt


class Bits(_Strict):
    """A bit an image, hexadecimal, in the order of the evaluation's indices (all: that of the data set).

    clean: right before any attack. after: for each attack, right after it and all before it; so the first
    of them without an image's bit names the attack that flipped it. robust_8bit: right on every
    adversarial image rounded to k/255.
    """

    clean: str
    after: Annotated[tuple[str, ...], Field(min_length=1)]
    robust_8bit: str


class ClassCount(_Strict):
    """Of one class: how many images, how many right when clean and right after every attack."""

    name: str
    n: NonNegativeInt
    clean: NonNegativeInt
    robust: NonNegativeInt


class Receipt(_Strict):
    """What a receipt holds. Accuracies are shares; robust counts an image that is right before and after.

    suite: its name, or null for a single attack. attacks: in order, each on those that the ones before
    left. norm: of all of them; eps: the largest radius, in units of x; robust_accuracy is at that radius,
    and the attacks at smaller ones give the curve. wilson_95: of robust_accuracy. by_class: in the
    model's order; null in what was a receipt of version 1. seconds: of computing, over all shards.
    commit: with a plus if the checkout had changes.
    """

    schema_version: Literal[2]
    model: str
    model_sha256: Sha256
    gradient_sha256: Sha256 | None = None
    data: Data
    n: PositiveInt
    images: Literal["all"] | Subset
    suite: str | None
    attacks: Annotated[tuple[AttackRun, ...], Field(min_length=1)]
    norm: str
    eps: NonNegativeFloat
    clean_accuracy: Share
    robust_accuracy: Share
    robust_accuracy_8bit: Share
    wilson_95: tuple[Share, Share]
    by_class: tuple[ClassCount, ...] | None = None
    outcomes: Bits
    packages: dict[str, str]
    commit: str | None
    hardware: str
    seconds: NonNegativeFloat
    warnings: list[str]

    @model_validator(mode="after")
    def _figures_are_those_of_the_outcomes(self) -> "Receipt":
        if len(self.outcomes.after) != len(self.attacks):
            raise ValueError(
                f"outcomes.after: of {len(self.outcomes.after)}, not {len(self.attacks)} attacks"
            )
        clean = unpack(self.outcomes.clean, self.n)
        after = [unpack(column, self.n) for column in self.outcomes.after]
        on_file = unpack(self.outcomes.robust_8bit, self.n)
        counted = {"clean_accuracy": clean, "robust_accuracy": after[-1], "robust_accuracy_8bit": on_file}
        for name, bits in counted.items():
            given, right = getattr(self, name), int(bits.sum())
            if not math.isclose(given, right / self.n, abs_tol=1e-12):
                raise ValueError(f"{name}: {given}, but {right} of {self.n} outcomes are right")
        for index, (run, before, bits) in enumerate(zip(self.attacks, [clean, *after], after, strict=False)):
            if run.robust != bits.sum():
                raise ValueError(f"attacks.{index}.robust: {run.robust}, but {bits.sum()} outcomes are right")
            if (bits & ~before).any():
                raise ValueError(f"outcomes.after.{index}: right after the attack, wrong before it")
        if (on_file & ~clean).any():
            raise ValueError("outcomes.robust_8bit: right after the attack, wrong before it")
        if not np.allclose(self.wilson_95, wilson(int(after[-1].sum()), self.n), rtol=0, atol=1e-9):
            raise ValueError("wilson_95: not the interval of robust_accuracy")
        return self

    @model_validator(mode="after")
    def _said_twice_is_said_alike(self) -> "Receipt":
        if self.by_class is not None:
            shares = (1.0, self.clean_accuracy, self.robust_accuracy)
            for kind, share in zip(("n", "clean", "robust"), shares, strict=True):
                total = sum(getattr(count, kind) for count in self.by_class)
                if total != round(share * self.n):
                    raise ValueError(f"by_class: {kind} {total} in all, not {round(share * self.n)}")
        if self.images != "all" and self.images.first != self.n:
            raise ValueError(f"images.first: {self.images.first}, but n is {self.n}")
        radii = [run.arguments.get("eps") for run in self.attacks]
        if radii[-1] != self.eps or any(eps is None or not 0 <= eps <= self.eps for eps in radii):
            raise ValueError(f"eps: {self.eps}, but the attacks' are {radii}")
        for index, run in enumerate(self.attacks):
            if run.arguments.get("norm") != self.norm:
                raise ValueError(f"attacks.{index}.arguments.norm: not the receipt's {self.norm}")
        return self


def schema() -> dict[str, Any]:
    """Return the JSON schema of a receipt, as published in docs/receipt.schema.json."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dra-serve receipt, version 2",
    }
    return head | {key: value for key, value in Receipt.model_json_schema().items() if key != "title"}
