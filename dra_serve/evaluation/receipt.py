"""A receipt: a robustness number with everything needed to obtain it again, image by image."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from dra_serve.errors import DraServeError, UserError
from dra_serve.evaluation.bits import pack, unpack
from dra_serve.evaluation.data import LabelledImages
from dra_serve.evaluation.diagnosis import warnings_after
from dra_serve.evaluation.outcomes import Outcomes
from dra_serve.evaluation.plan import Plan
from dra_serve.evaluation.provenance import commit, hardware, packages
from dra_serve.evaluation.statistics import wilson
from dra_serve.receipts import upgraded

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


def build_receipt(
    outcomes: Outcomes,
    images: LabelledImages,
    plan: Plan,
    *,
    model: str,
    model_sha256: str,
    classes: Sequence[str],
    subset_seed: int,
    seconds: float | None = None,
    gradient_sha256: str | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the receipt of one evaluation as JSON values (DESIGN 3.8), checked against its own schema.

    classes: the model's names, in order. seconds: by default those that the outcomes took.
    gradient_sha256: of the gradient graph, for a model that is ONNX files. warnings: such as
    `diagnosis.warnings_for` finds, beside those that follow from the plan and the outcomes; each
    "name: sentence", one a name, the name an anchor in docs/evaluation.md.
    """
    n = len(images.y)
    if not outcomes.complete:
        raise DraServeError(f"{n - int(outcomes.done.sum())} of {n} images have no outcome yet")
    whole = n == images.total
    counts = outcomes.after.sum(axis=1)
    receipt = {
        "schema_version": 2,
        "model": model,
        "model_sha256": model_sha256,
        "gradient_sha256": gradient_sha256,
        "data": {"name": images.name, "sha256": images.sha256, "split": "test"},
        "n": n,
        "images": "all" if whole else {"permutation_seed": subset_seed, "first": n, "of": images.total},
        "suite": plan.suite,
        "attacks": [
            {"name": run.name, "arguments": run.parameters.as_dict(), "robust": int(count)}
            for run, count in zip(plan.runs, counts, strict=True)
        ],
        "norm": plan.norm,
        "eps": plan.eps,
        "clean_accuracy": float(outcomes.clean.mean()),
        "robust_accuracy": float(outcomes.robust.mean()),
        "robust_accuracy_8bit": float(outcomes.robust_8bit.mean()),
        "wilson_95": wilson(int(outcomes.robust.sum()), n),
        "by_class": [
            {
                "name": name,
                "n": int(of_it.sum()),
                "clean": int(outcomes.clean[of_it].sum()),
                "robust": int(outcomes.robust[of_it].sum()),
            }
            for name, of_it in ((name, images.y == label) for label, name in enumerate(classes))
        ],
        "outcomes": {
            "clean": pack(outcomes.clean),
            "after": [pack(column) for column in outcomes.after],
            "robust_8bit": pack(outcomes.robust_8bit),
        },
        "packages": packages(),
        "commit": commit(),
        "hardware": hardware(),
        "seconds": round(outcomes.seconds if seconds is None else seconds, 1),
        "warnings": _one_a_name([*plan.warnings, *_warnings(outcomes, plan, len(classes)), *warnings]),
    }
    return Receipt.model_validate(receipt).model_dump(mode="json")


def curve(receipt: dict[str, Any]) -> list[tuple[float, int]]:
    """Return (eps, images robust) for each radius of a receipt, smallest first: never rising."""
    return list({run["arguments"]["eps"]: run["robust"] for run in receipt["attacks"]}.items())


def flipped_by(receipt: dict[str, Any]) -> np.ndarray:
    """Return for each image, int (n,), the position of the attack that flipped it.

    -1 for one that withstood all, -2 for one that was wrong when clean.
    """
    n, outcomes = receipt["n"], receipt["outcomes"]
    after = np.stack([unpack(column, n) for column in outcomes["after"]])
    fate = np.where(after[-1], -1, after.sum(axis=0))
    return np.where(unpack(outcomes["clean"], n), fate, -2)


def robust(receipt: dict[str, Any]) -> np.ndarray:
    """Return bool (n,): which images were right before and after every attack."""
    return unpack(receipt["outcomes"]["after"][-1], receipt["n"])


def schema() -> dict[str, Any]:
    """Return the JSON schema of a receipt, as published in docs/receipt.schema.json."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dra-serve receipt, version 2",
    }
    return head | {key: value for key, value in Receipt.model_json_schema().items() if key != "title"}


def read_receipts(path: Path | str) -> list[dict[str, Any]]:
    """Return the receipts in a file: a single one, or those of a model folder's results.json.

    One of version 1 comes back in the form of version 2. Raises UserError naming the field that is
    missing, unknown, or not what the outcomes say: a receipt that was edited is none.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"receipt: {path}: {error.strerror}", field="receipt") from error
    except ValueError as error:
        raise UserError(f"receipt: {path.name} is no JSON: {error}", field="receipt") from error
    found = raw["receipts"] if isinstance(raw, dict) and "receipts" in raw else [raw]
    if not isinstance(found, list) or not found:
        raise UserError(f"receipt: {path.name} holds none", field="receipt")
    return [_checked(receipt, path.name) for receipt in found]


def _checked(receipt: Any, file: str) -> dict[str, Any]:
    try:
        new = upgraded(receipt) if isinstance(receipt, dict) else receipt
        return Receipt.model_validate(new).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")  # ours name their field themselves
        sentence = f"{where}: {message}" if where else message
        raise UserError(f"receipt: {file}: {sentence}", field="receipt") from error


def _warnings(outcomes: Outcomes, plan: Plan, classes: int) -> list[str]:
    """Return what the figures themselves give away, those at the largest radius."""
    counts = outcomes.after.sum(axis=1)
    runs = [
        (run.name, int(count))
        for run, count in zip(plan.runs, counts, strict=True)
        if run.parameters.eps == plan.eps
    ]
    warnings = warnings_after(runs, n=len(outcomes.clean), classes=classes)
    if outcomes.unconfirmed:
        told = f"{outcomes.unconfirmed} images fooled the gradient graph, not the model itself"
        warnings.append(f"graphs-disagree: {told}")
    return warnings


def _one_a_name(warnings: list[str]) -> list[str]:
    """Return the first warning of each name."""
    return list({text.partition(":")[0]: text for text in reversed(warnings)}.values())[::-1]
