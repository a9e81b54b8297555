"""Warnings that follow from figures alone: those of a receipt, at no cost."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from dra_serve.attacks.registry import ATTACKS
from dra_serve.evaluation.diagnosis.attacked import GAIN
from dra_serve.evaluation.diagnosis.case import Measured
from dra_serve.evaluation.statistics import wilson

WIDEST = 0.04
"""Of a 95 % interval: wider than this, and most differences between models drown in it."""

FEW_IMAGES = (
    "few-images",
    "enough images for its figures",
    "The choice of images alone moves the figure by more than models differ. Evaluate more images.",
)
BLACK_BOX_WINS = "black-box-wins"
FEW_CLASSES = "few-classes"


def warnings_after(
    runs: Sequence[tuple[str, int]], *, n: int, classes: int, robust: int | None = None
) -> list[str]:
    """Return the warnings in the figures of an evaluation, each beginning with its name and a colon.

    runs: the attacks in order, with the number of images robust after each and all before it; one radius.
    n: images in all. robust: those robust in the end, by default after the last run.
    """
    told = [f"{BLACK_BOX_WINS}: {text}" for text in _black_box_gains(runs, n)]
    measured = few_images(runs[-1][1] if robust is None else robust, n)
    if measured.fault:
        told.append(f"{FEW_IMAGES[0]}: {measured.text}")
    if classes < 10 and (text := _of_few_classes({name for name, _ in runs}, classes)):
        told.append(f"{FEW_CLASSES}: {text}")
    return told


def few_images(robust: int, n: int) -> Measured:
    """Say how wide the 95 % interval (Wilson) of `robust` in n images is."""
    low, high = wilson(robust, n)
    text = f"{n:,} images leave an interval of {100 * (high - low):.1f} points"
    return Measured(text, high - low > WIDEST)


def claims(receipts: Iterable[Mapping[str, Any]]) -> Measured:
    """Say of the receipts a model comes with whether each has the images its figure needs."""
    widths = [few_images(round(r["robust_accuracy"] * r["n"]), r["n"]) for r in receipts]
    if not widths:
        return Measured("no receipt with this model", False)
    shown = next((m for m in widths if m.fault), widths[0])
    return Measured(f"{len(widths)} receipt{'' if len(widths) == 1 else 's'}; {shown.text}", shown.fault)


def _black_box_gains(runs: Sequence[tuple[str, int]], n: int) -> list[str]:
    """Say where a black-box attack took more than GAIN of all images from the white-box ones before it."""
    told = []
    for (before, left), (name, robust) in pairwise(runs):
        gained = left - robust
        if not _sees_gradients(name) and _sees_gradients(before) and gained > GAIN * n:
            told.append(f"{name} fooled {gained} of the {left} images that the white-box attacks left")
    return told


def _sees_gradients(attack: str) -> bool:
    return attack not in ATTACKS or ATTACKS[attack].needs_gradient


def _of_few_classes(attacks: set[str], classes: int) -> str:
    """Say what an attack made for ten classes does with fewer; nothing if none of them ran."""
    targeted = attacks & {"apgd-t", "fab-t"}
    parts = []
    if targeted:
        parts.append(f"{' and '.join(sorted(targeted))} tried all {classes - 1} other classes, not 9")
    if classes < 3 and attacks & {"apgd-dlr", "apgd-t"}:
        parts.append("the margin stood in for dlr, which needs 3 classes")
    if classes == 3 and "apgd-t" in attacks:
        parts.append("targeted dlr divided by the gap of the first and third logit: there is no fourth")
    return "; ".join(parts)
