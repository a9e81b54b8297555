"""A receipt: a robustness number with everything needed to obtain it again, image by image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from dra_serve.errors import DraServeError, UserError
from dra_serve.evaluation.bits import pack, unpack
from dra_serve.evaluation.data import LabelledImages
from dra_serve.evaluation.diagnosis import warnings_after
from dra_serve.evaluation.outcomes import Outcomes
from dra_serve.evaluation.plan import Plan
from dra_serve.evaluation.provenance import commit, hardware, packages
from dra_serve.evaluation.receipt_schema import Receipt, schema
from dra_serve.evaluation.statistics import wilson
from dra_serve.receipts import upgraded

__all__ = ["build_receipt", "curve", "flipped_by", "read_receipts", "robust", "schema"]


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
