"""`dra-serve evaluate`: a robust accuracy with its receipt, or a receipt run again."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from dra_serve.errors import BadRequest, UserError
from dra_serve.source_options import Source, takes_source

_MODELS = "a model folder, bundled:NAME, .onnx file, Hub id or module:function"


@takes_source
def evaluate_command(
    source: Source,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A model folder, bundled:NAME, .onnx file, Hub id or module:function."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with test*.parquet, or an .npz with x and y; default: DRA_SERVE_CIFAR10."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="quick (PGD-20), fast (APGD-CE, APGD-T) or standard (AutoAttack's).")
    ] = None,
    attack: Annotated[str | None, typer.Option(help="One attack by name; default: pgd.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf (default) or l2.")] = None,
    eps: Annotated[
        str | None,
        typer.Option(help='Radius in units of x in [0, 1], or several for a curve; default "8/255".'),
    ] = None,
    alpha: Annotated[str | None, typer.Option(help="Size of a step; default 2.5 eps / steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of a restart; default: the attack's.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Random starts; default 1.")] = None,
    queries: Annotated[int | None, typer.Option(help="Model calls an image, for square.")] = None,
    targets: Annotated[int | None, typer.Option(help="Classes tried, for apgd-t and fab-t.")] = None,
    seed: Annotated[int, typer.Option(help="Of the attack's noise, and of the choice of images.")] = 0,
    n: Annotated[
        int | None, typer.Option("-n", help="A random choice of so many images; default: all.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images at a time; default: 1.5 MiB of them a thread.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Slices of a batch attacked at once; default: the cores, 1 for torch."
        ),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder to go on from after a kill; default: one in the cache.")
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
    """Attack MODEL on test images: clean and robust accuracy, exact and on 8-bit images.

    The same command goes on where a killed one stopped. With RANK and WORLD_SIZE set (torchrun, accelerate
    launch, or by hand in several shells) each process takes its share; the last one writes the receipt.
    """
    if verify is not None:
        _verify(model, source, data, verify, state, batch, threads, as_json=as_json)
        return
    from dra_serve.evaluation.data import read_images
    from dra_serve.evaluation.keeping import keep_receipt, write_receipt
    from dra_serve.evaluation.plan import make_plan
    from dra_serve.evaluation.session import carry_out, find_data, find_threads
    from dra_serve.evaluation.shards import shard_of
    from dra_serve.evaluation.words import summary

    shard_of(os.environ)
    if model is None:
        raise BadRequest("MODEL", given=None, allowed=_MODELS)
    if keep and not Path(model).is_dir():
        raise BadRequest("keep", given=model, allowed="a model folder on this disk")
    if receipt is not None and not receipt.parent.is_dir():
        raise UserError(f"receipt: {receipt.parent}: No such folder", field="receipt")
    classifier = source.load_any(model)
    given = {
        "norm": norm,
        "eps": eps,
        "alpha": alpha,
        "steps": steps,
        "restarts": restarts,
        "queries": queries,
        "targets": targets,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    plan = make_plan(  # before minutes go into the data
        classifier.input_shape,
        suite=suite,
        attack=attack,
        has_gradient=classifier.has_gradient,
        seed=seed,
        **options,
    )
    find_threads(classifier, threads)
    images = read_images(find_data(data, classifier), n=n, seed=seed)

    def deliver(made: dict[str, Any]) -> None:
        if receipt is not None:
            write_receipt(receipt, made)
        if keep:
            keep_receipt(Path(model), made)
        print(json.dumps(made) if as_json else summary(made))

    carry_out(classifier, images, plan, deliver, subset_seed=seed, state=state, batch=batch, threads=threads)


def _verify(
    model: str | None,
    source: Source,
    data: Path | None,
    path: Path,
    state: Path | None,
    batch: int | None,
    threads: int | None,
    *,
    as_json: bool,
) -> None:
    """Run each receipt of a file again and say whether it is the same; exit code 1 where one is not."""
    from dra_serve.evaluation.plan import plan_again
    from dra_serve.evaluation.receipt import read_receipts
    from dra_serve.evaluation.session import carry_out, find_data
    from dra_serve.evaluation.verify import differences, images_of
    from dra_serve.evaluation.words import summary

    receipts = read_receipts(path)
    classifier = source.load_any(model if model is not None else str(path.resolve().parent))
    for receipt in receipts:
        if receipt["model_sha256"] != classifier.sha256:
            given = f"a receipt of {receipt['model']}, {receipt['model_sha256'][:12]}"
            raise BadRequest("verify", given=given, allowed=f"{classifier.name}, {classifier.sha256[:12]}")
    results: list[dict[str, Any]] = []
    for receipt in receipts:
        which, images = receipt["images"], images_of(receipt, find_data(data, classifier))

        def compare(again: dict[str, Any], old: dict[str, Any] = receipt) -> None:
            moved = differences(old, again)
            same = not any(moved.values())
            results.append({"same": same, "images_that_differ": moved, "receipt": again})
            if not as_json:
                counts = ", ".join(f"{name} {count}" for name, count in moved.items())
                print("same" if same else f"different (images: {counts})", summary(again), sep=": ")

        carry_out(
            classifier,
            images,
            plan_again(classifier.input_shape, receipt),
            compare,
            subset_seed=0 if which == "all" else which["permutation_seed"],
            state=state,
            batch=batch,
            threads=threads,
        )
    if as_json:
        print(json.dumps({"verified": results}))
    if not all(result["same"] for result in results):
        raise typer.Exit(1)
