"""A receipt: a robustness number with everything needed to obtain it again, image by image."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from dra_serve.errors import UserError
from dra_serve.evaluation.bits import pack as pack
from dra_serve.evaluation.bits import unpack as unpack
from dra_serve.evaluation.data import LabelledImages
from dra_serve.evaluation.provenance import commit, hardware, packages
from dra_serve.evaluation.state import Outcomes
from dra_serve.evaluation.statistics import wilson

COUNTED = {"clean": "clean_accuracy", "robust": "robust_accuracy", "robust_8bit": "robust_accuracy_8bit"}
"""Outcome of an image -> the accuracy that counts it."""

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


class Bits(_Strict):
    """A bit an image, hexadecimal, in the order of the evaluation's indices (all: that of the data set)."""

    clean: str
    robust: str
    robust_8bit: str


class Receipt(_Strict):
    """What a receipt holds. Accuracies are shares; robust counts an image that is right before and after.

    attack: its name and every argument in force but norm, eps (units of x) and seed, which stand beside
    it. wilson_95: of robust_accuracy. seconds: of computing. commit: with a plus if the checkout had changes.
    """

    schema_version: Literal[1]
    model: str
    model_sha256: Sha256
    gradient_sha256: Sha256 | None = None
    data: Data
    n: PositiveInt
    images: Literal["all"] | Subset
    attack: dict[str, Any]
    norm: str
    eps: NonNegativeFloat
    seed: int | None
    clean_accuracy: Share
    robust_accuracy: Share
    robust_accuracy_8bit: Share
    wilson_95: tuple[Share, Share]
    outcomes: Bits
    packages: dict[str, str]
    commit: str | None
    hardware: str
    seconds: NonNegativeFloat
    warnings: list[str]

    @model_validator(mode="after")
    def _figures_are_those_of_the_outcomes(self) -> "Receipt":
        bits = {name: unpack(getattr(self.outcomes, name), self.n) for name in COUNTED}
        for name, accuracy in COUNTED.items():
            right = int(bits[name].sum())
            if not math.isclose(getattr(self, accuracy), right / self.n, abs_tol=1e-12):
                raise ValueError(
                    f"{accuracy}: {getattr(self, accuracy)}, but {right} of {self.n} outcomes are right"
                )
            if (bits[name] & ~bits["clean"]).any():
                raise ValueError(f"outcomes.{name}: right after the attack, wrong before it")
        if not np.allclose(self.wilson_95, wilson(int(bits["robust"].sum()), self.n), rtol=0, atol=1e-9):
            raise ValueError("wilson_95: not the interval of robust_accuracy")
        if self.images != "all" and self.images.first != self.n:
            raise ValueError(f"images.first: {self.images.first}, but n is {self.n}")
        return self


def build_receipt(
    outcomes: Outcomes,
    images: LabelledImages,
    *,
    model: str,
    model_sha256: str,
    attack: str,
    parameters: dict[str, Any],
    subset_seed: int,
    seconds: float | None = None,
    gradient_sha256: str | None = None,
) -> dict[str, Any]:
    """Return the receipt of one evaluation as JSON values (DESIGN 3.8), checked against its own schema.

    parameters: every argument in force, as the attack's `resolve` gives them. seconds: by default those
    that the outcomes took. gradient_sha256: of the gradient graph, for a model that is ONNX files.
    """
    n = len(images.y)
    whole = n == images.total
    beside = ("norm", "eps", "seed")
    receipt = {
        "schema_version": 1,
        "model": model,
        "model_sha256": model_sha256,
        "gradient_sha256": gradient_sha256,
        "data": {"name": images.name, "sha256": images.sha256, "split": "test"},
        "n": n,
        "images": "all" if whole else {"permutation_seed": subset_seed, "first": n, "of": images.total},
        "attack": {"name": attack} | {key: parameters[key] for key in parameters if key not in beside},
        **{key: parameters.get(key) for key in beside},
        **{accuracy: float(getattr(outcomes, name).mean()) for name, accuracy in COUNTED.items()},
        "wilson_95": wilson(int(outcomes.robust.sum()), n),
        "outcomes": {name: pack(getattr(outcomes, name)) for name in COUNTED},
        "packages": packages(),
        "commit": commit(),
        "hardware": hardware(),
        "seconds": round(outcomes.seconds if seconds is None else seconds, 1),
        "warnings": _warnings(outcomes),
    }
    return Receipt.model_validate(receipt).model_dump(mode="json")


def read_receipts(path: Path | str) -> list[dict[str, Any]]:
    """Return the receipts in a file: a single one, or those of a model folder's results.json.

    Raises UserError naming the field that is missing, unknown, or not what the outcomes say: a receipt
    that was edited is none.
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
        return Receipt.model_validate(receipt).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")  # ours name their field themselves
        sentence = f"{where}: {message}" if where else message
        raise UserError(f"receipt: {file}: {sentence}", field="receipt") from error


def _warnings(outcomes: Outcomes) -> list[str]:
    n = len(outcomes.robust)
    low, high = wilson(int(outcomes.robust.sum()), n)
    warnings = []
    if high - low > 0.04:
        warnings.append(f"few-images: {n} images leave an interval of {100 * (high - low):.1f} points")
    if outcomes.unconfirmed:
        warnings.append(
            f"graphs-disagree: {outcomes.unconfirmed} images fooled the gradient graph, not the model itself"
        )
    return warnings
