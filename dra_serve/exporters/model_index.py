"""The Hub's model-index: the results in the metadata at the top of a model card.

Fields: https://github.com/huggingface/hub-docs/blob/main/modelcard.md; huggingface_hub writes them.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dra_serve.exporters.facts import attacks, fact, heading, interval, number, percent
from dra_serve.receipts import Receipt

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def eval_results(receipts: Sequence[Receipt]) -> "list[EvalResult]":
    """Return three results a receipt: clean accuracy, robust, and robust on the 8-bit image; in percent.

    The clean accuracy of two receipts on the same images is one result. The conditions stand in
    `metric_args`: n and which images, norm, eps, suite, every attack with every argument (seed, steps),
    the model's sha256 and the 95 % interval.

    Raises UserError naming the field that a receipt lacks.
    """
    from huggingface_hub import EvalResult

    found = [EvalResult(**fields) for receipt in receipts for fields in _results(receipt)]
    return list({repr(result): result for result in found}.values())


def model_index(name: str, receipts: Sequence[Receipt]) -> str:
    """Return the YAML of the `model-index` of a model, to go between the `---` of a card.

    Raises UserError naming the field that a receipt lacks.
    """
    from huggingface_hub import ModelCardData

    results = eval_results(receipts)
    return ModelCardData(model_name=name, eval_results=results, ignore_metadata_errors=False).to_yaml() + "\n"


def _results(receipt: Receipt) -> Iterator[dict[str, Any]]:
    common = {
        "task_type": "image-classification",
        "dataset_type": fact(receipt, "data", "name"),
        "dataset_name": fact(receipt, "data", "name"),
        "dataset_split": receipt["data"].get("split"),
        "metric_type": "accuracy",
    }
    images = {"n": number(receipt, "n"), "data_sha256": fact(receipt, "data", "sha256")}
    if fact(receipt, "images") != "all":
        images["images"] = receipt["images"]
    yield common | {
        "metric_name": "Clean accuracy",
        "metric_value": percent(receipt, "clean_accuracy"),
        "metric_args": images,
    }
    attacked = images | {
        "suite": None if receipt.get("suite", "") is None else fact(receipt, "suite"),
        "attacks": [{"name": run["name"], **run["arguments"]} for run in attacks(receipt)],
        "norm": fact(receipt, "norm"),
        "eps": fact(receipt, "eps"),
        "model_sha256": fact(receipt, "model_sha256"),
    }
    yield common | {
        "metric_name": f"Robust accuracy ({heading(receipt)})",
        "metric_value": percent(receipt, "robust_accuracy"),
        "metric_args": attacked | {"wilson_95": list(interval(receipt))},
    }
    yield common | {
        "metric_name": f"Robust accuracy, 8-bit image ({heading(receipt)})",
        "metric_value": percent(receipt, "robust_accuracy_8bit"),
        "metric_args": attacked,
    }
