"""`dra-serve evaluate`: a robust accuracy with its receipt, or a receipt run again."""

import json
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dra_serve.errors import BadRequest, DataMissing, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dra_serve.evaluation.data import LabelledImages
    from dra_serve.evaluation.state import Outcomes
    from dra_serve.onnx_classifier import OnnxClassifier

_console = Console(stderr=True)


def evaluate_command(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A model folder, bundled:NAME, .onnx file or Hub id."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with test*.parquet, or an .npz with x and y; default: DRA_SERVE_CIFAR10."),
    ] = None,
    attack: Annotated[str, typer.Option(help="The attack by name.")] = "pgd",
    norm: Annotated[str | None, typer.Option(help="linf (default) or l2.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in units of x in [0, 1]; default 8/255.")] = None,
    alpha: Annotated[str | None, typer.Option(help="Size of a step; default 2.5 eps / steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of a restart; default 20.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Random starts; default 1.")] = None,
    seed: Annotated[int, typer.Option(help="Of the attack's noise, and of the choice of images.")] = 0,
    n: Annotated[
        int | None, typer.Option("-n", help="A random choice of so many images; default: all.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File to go on from after a kill; default: one in the cache.")
    ] = None,
    receipt: Annotated[Path | None, typer.Option(help="Write the receipt here.")] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Add the receipt to the model folder, and renew its card.")
    ] = False,
    verify: Annotated[
        Path | None,
        typer.Option(help="Run this receipt (or results.json) again; default MODEL: the folder it is in."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")] = False,
) -> None:
    """Attack MODEL on test images: clean and robust accuracy, exact and on 8-bit images."""
    if verify is not None:
        _verify(model, data, verify, state, as_json=as_json)
        return
    from dra_serve.attacks import get_attack
    from dra_serve.evaluation.data import read_images
    from dra_serve.loading import load

    if model is None:
        raise BadRequest("MODEL", given=None, allowed="a model folder, bundled:NAME, .onnx file or Hub id")
    if keep and not Path(model).is_dir():
        raise BadRequest("keep", given=model, allowed="a model folder on this disk")
    classifier = load(model)
    values = {"norm": norm, "eps": eps, "alpha": alpha, "steps": steps, "restarts": restarts}
    options: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    get_attack(attack).resolve(classifier.input_shape, **options)  # before minutes go into the data
    images = read_images(_find(data, classifier), n=n, seed=seed)
    made = _run(classifier, images, attack, _seeded(attack, options, seed), subset_seed=seed, state=state)
    if receipt is not None:
        _write(receipt, made)
    if keep:
        _keep(Path(model), made)
    print(json.dumps(made) if as_json else summary(made))


def summary(receipt: dict[str, Any]) -> str:
    """Return a receipt's figures in words."""
    from dra_serve.attacks.norms import format_radius

    low, high = receipt["wilson_95"]
    arguments = ", ".join(f"{key} {value}" for key, value in receipt["attack"].items() if key != "name")
    lines = [
        f"{receipt['model']}: {receipt['attack']['name']} ({arguments}), "
        f"{receipt['norm']} eps {format_radius(receipt['eps'])}, n {receipt['n']:,}",
        f"clean   {receipt['clean_accuracy']:.2%}",
        f"robust  {receipt['robust_accuracy']:.2%}  (95 %: {low:.2%} to {high:.2%})",
        f"8-bit   {receipt['robust_accuracy_8bit']:.2%}  on the adversarial images rounded to k/255",
        *(f"warning {text}" for text in receipt["warnings"]),
    ]
    return "\n".join(lines)


def _find(data: Path | None, classifier: "OnnxClassifier") -> Path:
    """Return the data to evaluate on: as given, else where the environment says the model's data is."""
    if data is not None:
        return data
    name = classifier.config.data.name if classifier.config else "cifar10"
    variable = f"DRA_SERVE_{name.upper().replace('-', '_')}"
    if variable not in os.environ:
        raise DataMissing(
            f"data: give --data FOLDER, or set {variable}, to {name}'s test images", field="data"
        )
    return Path(os.environ[variable])


def _seeded(attack: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the options with the seed, for an attack that draws anything."""
    import inspect

    from dra_serve.attacks import get_attack

    draws = "seed" in inspect.signature(get_attack(attack).parameters).parameters
    return options | ({"seed": seed} if draws else {})


def _run(
    classifier: "OnnxClassifier",
    images: "LabelledImages",
    attack: str,
    options: dict[str, Any],
    *,
    subset_seed: int,
    state: Path | None,
) -> dict[str, Any]:
    """Return the receipt of one evaluation, made with a bar, going on from a killed one of the same."""
    from dra_serve.attacks import get_attack
    from dra_serve.cache import cache_folder
    from dra_serve.evaluation.receipt import build_receipt
    from dra_serve.evaluation.runner import evaluate, fingerprint

    name = fingerprint(classifier, images, attack, **options)
    state = state or cache_folder() / "evaluations" / f"{name}.json"
    with _bar(len(images.y)) as show:
        outcomes = evaluate(classifier, images, attack=attack, state=state, on_batch=show, **options)
    state.unlink(missing_ok=True)  # done: the same command again measures again
    return build_receipt(
        outcomes,
        images,
        model=classifier.name,
        model_sha256=classifier.sha256,
        gradient_sha256=classifier.gradient_sha256,
        attack=attack,
        parameters=get_attack(attack).resolve(classifier.input_shape, **options).as_dict(),
        subset_seed=subset_seed,
    )


@contextmanager
def _bar(total: int) -> "Iterator[Callable[[int, Outcomes], None]]":
    """Yield a callback that shows the images done, the robust accuracy so far and the time left."""
    from dra_serve.evaluation.statistics import wilson

    done, left = TextColumn("{task.completed:,.0f} of {task.total:,.0f}"), TextColumn("{task.fields[so_far]}")
    columns = (done, BarColumn(), left, TimeRemainingColumn())
    with Progress(*columns, console=_console, disable=not _console.is_terminal) as bar:
        task = bar.add_task("", total=total, so_far="")

        def show(done: int, outcomes: "Outcomes") -> None:
            robust = int(outcomes.robust.sum())
            low, high = wilson(robust, done)
            bar.update(task, completed=done, so_far=f"robust {robust / done:.1%} ({low:.1%} to {high:.1%})")

        yield show


def _write(file: Path, receipt: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"receipt: {file}: {error.strerror}", field="receipt") from error


def _keep(folder: Path, receipt: dict[str, Any]) -> None:
    """Add a receipt to the folder, in place of one with the same attack, data and images."""
    from dra_serve.card import write_card
    from dra_serve.model_folder import read_folder, write_receipts, write_sums

    same = ("attack", "norm", "eps", "n", "images", "data", "seed", "model_sha256")
    others = [r for r in read_folder(folder).receipts if any(r.get(key) != receipt[key] for key in same)]
    write_receipts(folder, [*others, receipt])
    write_sums(folder)
    write_card(folder)


def _verify(model: str | None, data: Path | None, path: Path, state: Path | None, *, as_json: bool) -> None:
    """Run each receipt of a file again and say whether it is the same; exit code 1 where one is not."""
    from dra_serve.evaluation.receipt import read_receipts
    from dra_serve.evaluation.verify import differences, images_of, options_of
    from dra_serve.loading import load

    receipts = read_receipts(path)
    classifier = load(model if model is not None else path.resolve().parent)
    for receipt in receipts:
        if receipt["model_sha256"] != classifier.sha256:
            given = f"a receipt of {receipt['model']}, {receipt['model_sha256'][:12]}"
            raise BadRequest("verify", given=given, allowed=f"{classifier.name}, {classifier.sha256[:12]}")
    results = []
    for receipt in receipts:
        which, images = receipt["images"], images_of(receipt, _find(data, classifier))
        subset_seed = 0 if which == "all" else which["permutation_seed"]
        attack, options = receipt["attack"]["name"], options_of(receipt)
        again = _run(classifier, images, attack, options, subset_seed=subset_seed, state=state)
        moved = differences(receipt, again)
        results.append({"same": not any(moved.values()), "images_that_differ": moved, "receipt": again})
        if not as_json:
            counts = ", ".join(f"{name} {count}" for name, count in moved.items())
            print(
                "same" if results[-1]["same"] else f"different (images: {counts})", summary(again), sep=": "
            )
    if as_json:
        print(json.dumps({"verified": results}))
    if not all(result["same"] for result in results):
        raise typer.Exit(1)
