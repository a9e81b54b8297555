"""Robust accuracy that can be believed: a resumable run over images, and a receipt beside every number."""

from dra_serve.evaluation.data import LabelledImages, read_images
from dra_serve.evaluation.receipt import build_receipt, paired_difference, wilson
from dra_serve.evaluation.runner import Outcomes, evaluate

__all__ = [
    "LabelledImages",
    "Outcomes",
    "build_receipt",
    "evaluate",
    "paired_difference",
    "read_images",
    "wilson",
]
