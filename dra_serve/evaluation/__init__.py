"""Robust accuracy that can be believed: a resumable run over images, and a receipt beside every number.

Imported when first used: the command line starts without NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dra_serve.evaluation.data import LabelledImages, read_images
    from dra_serve.evaluation.outcomes import Outcomes
    from dra_serve.evaluation.plan import make_plan
    from dra_serve.evaluation.receipt import build_receipt, read_receipts
    from dra_serve.evaluation.runner import evaluate
    from dra_serve.evaluation.statistics import paired_difference, wilson
    from dra_serve.evaluation.suites import SUITES

__all__ = [
    "SUITES",
    "LabelledImages",
    "Outcomes",
    "build_receipt",
    "evaluate",
    "make_plan",
    "paired_difference",
    "read_images",
    "read_receipts",
    "wilson",
]

_HOMES = {
    "SUITES": "suites",
    "LabelledImages": "data",
    "Outcomes": "outcomes",
    "build_receipt": "receipt",
    "evaluate": "runner",
    "make_plan": "plan",
    "paired_difference": "statistics",
    "read_images": "data",
    "read_receipts": "receipt",
    "wilson": "statistics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dra_serve.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
