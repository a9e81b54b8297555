"""RobustBench's model_info JSON: a row of its leaderboards (Croce et al. 2021), as far as receipts go.

model_info/<dataset>/<Linf or L2>/<AuthorYearFirstword>.json in github.com/RobustBench/robustbench. Whether a
row is `unreliable`, and an `external` stronger figure, are RobustBench's to say, so neither is written.
"""

from collections.abc import Sequence
from typing import Any

from dra_serve.attacks.norms import format_radius, parse_radius
from dra_serve.errors import BadRequest, UserError
from dra_serve.evaluation.suites import SUITES
from dra_serve.exporters.facts import (
    attacks,
    fact,
    heading,
    interval,
    noise,
    number,
    percent,
    which_images,
)
from dra_serve.model_config import ModelConfig
from dra_serve.receipts import Receipt

_THREATS = {"linf": "Linf", "l2": "L2"}
_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
_RADII = {
    ("cifar10", "linf"): 8 / 255,
    ("cifar10", "l2"): 0.5,
    ("cifar100", "linf"): 8 / 255,
    ("imagenet", "linf"): 4 / 255,
}


def model_info(
    config: ModelConfig,
    receipts: Sequence[Receipt],
    *,
    norm: str | None = None,
    link: str = "",
    name: str = "",
    authors: str = "",
    venue: str = "",
    architecture: str | None = None,
    additional_data: bool = False,
) -> dict[str, Any]:
    """Return the row of a model: of the receipt that comes nearest to what the leaderboard asks.

    `autoattack_acc` is filled from a `standard` suite at the leaderboard's radius on all its images, and
    from nothing else: otherwise it is empty, and the footnote says what was measured instead, on how many
    images, with which seed. `clean_acc` and `reported` are the receipt's own figures. All are percent, as
    text. Warnings of the receipt go into the footnote too.

    norm: "linf" or "l2"; default: the one trained for. link, name, authors, venue: of the paper.
    architecture: default: the network's name and arguments. additional_data: whether real images beyond
    the training set were used; generated ones do not count, by RobustBench's convention.

    Raises UserError naming what is missing from a receipt, or that none is of this norm; BadRequest for a
    norm or a data set that RobustBench has no leaderboard for.
    """
    norm = config.threat.norm if norm is None else norm
    if norm not in _THREATS:
        raise BadRequest("norm", given=norm, allowed=" or ".join(_THREATS))
    rows = [receipt for receipt in receipts if fact(receipt, "norm") == norm]
    if not rows:
        raise UserError(f"no receipt of norm {norm}, so nothing to export", field="receipts")
    listed = [receipt for receipt in rows if fact(receipt, "data", "name") in _IMAGES]
    receipt = min(listed or rows[:1], key=_distance)  # of another data set: refused by name
    shortfalls = _shortfalls(receipt)
    robust = f"{percent(receipt, 'robust_accuracy'):.2f}"
    info = {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": 1,
        "dataset": _dataset(receipt),
        "venue": venue,
        "architecture": _architecture(config) if architecture is None else architecture,
        "eps": _eps(receipt),
        "clean_acc": f"{percent(receipt, 'clean_accuracy'):.2f}",
        "reported": robust,
        "autoattack_acc": "" if shortfalls else robust,
    }
    footnote = " ".join([*_conditions(receipt, shortfalls), *_warnings(receipt)])
    return info | ({"footnote": footnote} if footnote else {})


def _distance(receipt: Receipt) -> tuple[float, ...]:
    """Return how far a receipt is from the leaderboard's; among equals the lower accuracy comes first."""
    return (len(_shortfalls(receipt)), -number(receipt, "n"), number(receipt, "robust_accuracy"))


def _shortfalls(receipt: Receipt) -> list[str]:
    """Return what the leaderboard asks and this receipt has not; nothing: its figure is AutoAttack's."""
    dataset, norm, missing = _dataset(receipt), fact(receipt, "norm"), []
    if not _is_autoattack(receipt):
        missing.append("not the standard suite")
    if fact(receipt, "images") != "all" or number(receipt, "n") != _IMAGES[dataset]:
        missing.append(f"not all {_IMAGES[dataset]:,} images")
    radius, wanted = parse_radius(fact(receipt, "eps")), _RADII.get((dataset, norm))
    if wanted is None or abs(radius - wanted) > 1e-9:
        missing.append("not a leaderboard's radius")
    return missing


def _is_autoattack(receipt: Receipt) -> bool:
    """Return whether the suite is `standard`, and what ran at the largest radius is what that means."""
    ran = [run for run in attacks(receipt) if run["arguments"].get("eps") == fact(receipt, "eps")]
    stages = SUITES["standard"]
    return (
        receipt.get("suite") == "standard"
        and [run["name"] for run in ran] == [stage.attack for stage in stages]
        and all(
            stage.options.items() <= run["arguments"].items() for run, stage in zip(ran, stages, strict=True)
        )
    )


def _conditions(receipt: Receipt, shortfalls: list[str]) -> list[str]:
    if not shortfalls:
        return []
    low, high = interval(receipt)
    return [
        f"No AutoAttack accuracy: {', '.join(shortfalls)}.",
        f"Reported: {heading(receipt)}, {noise(receipt)}, on {which_images(receipt)} images; "
        f"95 % interval {low:.2f} to {high:.2f}.",
    ]


def _warnings(receipt: Receipt) -> list[str]:
    return [f"Warning: {text}." for text in receipt.get("warnings") or []]


def _dataset(receipt: Receipt) -> str:
    name = fact(receipt, "data", "name")
    if name not in _IMAGES:
        raise BadRequest("data.name", given=name, allowed=f"{', '.join(_IMAGES)}: RobustBench has no other")
    return str(name)


def _eps(receipt: Receipt) -> str:
    radius = parse_radius(fact(receipt, "eps"))
    return format_radius(radius) if fact(receipt, "norm") == "linf" else f"{radius:g}"


def _architecture(config: ModelConfig) -> str:
    facts = [f"{name.replace('_', ' ')} {value}" for name, value in sorted(config.network.arguments.items())]
    return ", ".join([config.network.name, *facts])
