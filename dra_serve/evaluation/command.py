"""`dra-serve evaluate`: a robust accuracy with its receipt, or a receipt run again."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dra_serve.attacks import get_attack
from dra_serve.errors import BadRequest
from dra_serve.evaluation.data import LabelledImages, read_images
from dra_serve.evaluation.receipt import build_receipt, unpack, wilson
from dra_serve.evaluation.runner import Outcomes, evaluate
from dra_serve.loading import load
from dra_serve.model_folder import GRADIENT, sha256, write_receipts, write_sums
from dra_serve.onnx_classifier import OnnxClassifier

_console = Console(stderr=True)


def evaluate_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model folder, bundled:NAME, .onnx file or Hub id.")
    ],
    data: Annotated[Path, typer.Option(help="Folder with test*.parquet, or an .npz with x and y.")],
    attack: Annotated[str, typer.Option(help="The attack by name.")] = "pgd",
    norm: Annotated[str, typer.Option(help="linf or l2.")] = "linf",
    eps: Annotated[str, typer.Option(help='Radius in units of x: "8/255" or 0.03.')] = "8/255",
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 20,
    restarts: Annotated[int, typer.Option(help="Random starts.")] = 1,
    alpha: Annotated[
        str | None, typer.Option(help="Step size; min(2.5 eps / steps, eps) if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the attack's noise, and of the choice of images.")] = 0,
    n: Annotated[
        int | None, typer.Option("-n", help="A random choice of so many images; all if not given.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="File to go on from after a kill.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="Write the receipt here.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Add the receipt to the model folder's results.json.")
    ] = False,
    verify: Annotated[
        Path | None, typer.Option(help="Re-run this receipt (or results.json) and compare.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipt as one JSON object.")] = False,
) -> None:
    """Attack MODEL on test images: clean and robust accuracy, exact and on 8-bit images."""
    classifier, digest = load(model), _digest(model)
    if verify is not None:
        _verify(classifier, digest, data, verify)
        return
    options: dict[str, Any] = {"norm": norm, "eps": eps, "steps": steps, "restarts": restarts, "seed": seed}
    if alpha is not None:
        options["alpha"] = alpha
    images = read_images(data, n=n, seed=seed)
    made = _run(classifier, digest, images, attack, options, subset_seed=seed, state=state)
    if receipt is not None:
        receipt.write_text(json.dumps(made, indent=2) + "\n")
    if keep:
        _keep(Path(model), classifier, made)
    print(json.dumps(made) if as_json else summary(made))


def summary(receipt: dict[str, Any]) -> str:
    """Return a receipt's figures in words."""
    low, high = receipt["wilson_95"]
    arguments = ", ".join(f"{key} {value}" for key, value in receipt["attack"].items() if key != "name")
    lines = [
        f"{receipt['model']}: {receipt['attack']['name']} ({arguments}), "
        f"{receipt['norm']} eps {receipt['eps']:.6g}, n {receipt['n']:,}",
        f"clean   {receipt['clean_accuracy']:.2%}",
        f"robust  {receipt['robust_accuracy']:.2%}  (95 %: {low:.2%} to {high:.2%})",
        f"8-bit   {receipt['robust_accuracy_8bit']:.2%}  on the adversarial images rounded to k/255",
        *(f"warning {text}" for text in receipt["warnings"]),
    ]
    return "\n".join(lines)


def _run(
    classifier: OnnxClassifier,
    digest: str,
    images: LabelledImages,
    attack: str,
    options: dict[str, Any],
    *,
    subset_seed: int,
    state: Path | None,
) -> dict[str, Any]:
    started = time.monotonic()
    with Progress(
        TextColumn("{task.completed:,.0f} of {task.total:,.0f}"), BarColumn(),
        TextColumn("{task.fields[so_far]}"), TimeRemainingColumn(),
        console=_console, disable=not _console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=len(images.y), so_far="")

        def show(done: int, outcomes: Outcomes) -> None:
            robust = int(outcomes.robust.sum())
            low, high = wilson(robust, done)
            bar.update(task, completed=done, so_far=f"robust {robust / done:.1%} ({low:.1%} to {high:.1%})")

        outcomes = evaluate(
            classifier, images, attack=attack, state=state, model_sha256=digest, on_batch=show, **options
        )
    return build_receipt(
        outcomes,
        images,
        model=classifier.name,
        model_sha256=digest,
        attack=attack,
        parameters=get_attack(attack).resolve(classifier.input_shape, **options).as_dict(),
        subset_seed=subset_seed,
        seconds=time.monotonic() - started,
    )


def _digest(model: str) -> str:
    """Return the sha256 of the forward graph of a local model; a Hub id is named by its own text."""
    from dra_serve.loading import forward_path

    return sha256(forward_path(model))


def _keep(folder: Path, classifier: OnnxClassifier, receipt: dict[str, Any]) -> None:
    """Add a receipt to the folder, in place of one with the same attack, data and images."""
    if not (folder / GRADIENT).is_file():
        raise BadRequest("keep", given=str(folder), allowed="a model folder on this disk")
    same = ("attack", "norm", "eps", "n", "images", "seed", "model_sha256")
    others = [r for r in classifier.receipts if any(r.get(key) != receipt[key] for key in same)]
    write_receipts(folder, [*others, receipt])
    write_sums(folder)


def _verify(classifier: OnnxClassifier, digest: str, data: Path, path: Path) -> None:
    """Run each receipt of a file again and print `same` or what differs. Raises BadRequest if any differs."""
    try:
        read = json.loads(path.read_text())
        receipts = read.get("receipts", [read])
        wanted = [
            (r["model_sha256"], r["data"]["sha256"], r["n"], r["images"], r["outcomes"]) for r in receipts
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRequest("verify", given=str(path), allowed="a receipt, or results.json") from error
    differing = 0
    for receipt, (model_sha, data_sha, n, which, outcomes) in zip(receipts, wanted, strict=True):
        if model_sha != digest:
            raise BadRequest(
                "verify", given=f"a receipt of model {model_sha[:12]}", allowed=f"model {digest[:12]}"
            )
        subset_seed = 0 if which == "all" else which["permutation_seed"]
        images = read_images(data, n=None if which == "all" else n, seed=subset_seed)
        if images.sha256 != data_sha:
            raise BadRequest(
                "data", given=f"data {images.sha256[:12]}", allowed=f"the receipt's, {data_sha[:12]}"
            )
        attack = dict(receipt["attack"])
        options = attack | {key: receipt[key] for key in ("norm", "eps", "seed")}
        name = options.pop("name")
        again = _run(classifier, digest, images, name, options, subset_seed=subset_seed, state=None)
        moved = {k: int((unpack(again["outcomes"][k], n) != unpack(outcomes[k], n)).sum()) for k in outcomes}
        figures = ("clean_accuracy", "robust_accuracy", "robust_accuracy_8bit")
        edited = [key for key in figures if not np.isclose(again[key], receipt[key], atol=1e-12)]
        same = not any(moved.values()) and not edited
        differing += not same
        print(
            f"{'same' if same else 'different'}: {summary(again)}"
            + ("" if same else f"\nmoved: {moved} {edited}")
        )
    if differing:
        raise BadRequest("verify", given=f"{differing} receipts that differ", allowed="the same outcomes")
