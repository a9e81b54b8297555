"""The Hub's newer form: a list in `.eval_results/*.yaml`, one value a task of a benchmark.

Fields: https://github.com/huggingface/hub-docs/blob/main/eval_results.yaml, there called work in progress.
The Hub shows an entry once its data set is registered as a Benchmark that names the task. No data set has
robustness tasks yet; until one has, the file is for whoever reads the repository.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from dra_serve.attacks.norms import format_radius, parse_radius
from dra_serve.errors import BadRequest
from dra_serve.exporters.facts import fact, heading, interval, noise, number, percent, which_images
from dra_serve.receipts import Receipt

HUB_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "imagenet": "ILSVRC/imagenet-1k",
}
"""Where on the Hub the data sets lie that receipts call by a short name."""


def eval_results(
    receipts: Sequence[Receipt], *, dataset_id: str | None = None, source_url: str | None = None
) -> str:
    """Return the YAML: an entry for clean accuracy and for each threat, exact and on the 8-bit image.

    A task has one value: that of the receipt with the most images, among equals the lowest accuracy,
    for an accuracy under attack is an upper bound. Tasks are `clean-accuracy`, `robust-linf-8-255` and
    `robust-linf-8-255-8bit`; values are percent; the notes say how they came about.

    dataset_id: "org/name" on the Hub; default: by the receipts' own name. source_url: where they lie.
    Raises UserError naming the field that a receipt lacks, or a data set of unknown id.
    """
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]  # public, though not in an __all__

    best: dict[tuple[str, str], tuple[tuple[float, float], dict[str, Any]]] = {}
    for receipt in receipts:
        rank = (-number(receipt, "n"), number(receipt, "robust_accuracy"))
        for entry in _entries(receipt, dataset_id or _hub_id(receipt), source_url):
            task = (entry["dataset"]["id"], entry["dataset"]["task_id"])
            if task not in best or rank < best[task][0]:
                best[task] = rank, entry
    return yaml_dump([entry for _, entry in best.values()], sort_keys=False)


def _entries(receipt: Receipt, dataset_id: str, source_url: str | None) -> Iterator[dict[str, Any]]:
    def entry(task: str, value: float, notes: str) -> dict[str, Any]:
        made: dict[str, Any] = {"dataset": {"id": dataset_id, "task_id": task}, "value": value}
        if source_url is not None:
            made["source"] = {"url": source_url, "name": "Receipts"}
        return made | {"notes": notes}

    split = receipt["data"].get("split") or ""
    images = " ".join(f"{which_images(receipt)} {split} images".split())
    yield entry("clean-accuracy", percent(receipt, "clean_accuracy"), images)
    low, high = interval(receipt)
    notes = f"{heading(receipt)}; {images}; {noise(receipt)}"
    threat = f"{fact(receipt, 'norm')}-{_radius(receipt).replace('/', '-')}"
    exact = percent(receipt, "robust_accuracy")
    yield entry(f"robust-{threat}", exact, f"{notes}; 95 % interval {low} to {high}")
    on_file = percent(receipt, "robust_accuracy_8bit")
    yield entry(f"robust-{threat}-8bit", on_file, f"{notes}; adversarial images rounded to k/255")


def _radius(receipt: Receipt) -> str:
    return format_radius(parse_radius(fact(receipt, "eps")))


def _hub_id(receipt: Receipt) -> str:
    name = fact(receipt, "data", "name")
    if name not in HUB_DATASETS:
        raise BadRequest(
            "data.name", given=name, allowed=f"{', '.join(HUB_DATASETS)}, or give the dataset id"
        )
    return HUB_DATASETS[name]
