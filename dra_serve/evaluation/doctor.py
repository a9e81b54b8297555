"""`dra-serve doctor`: the usual faults of a robustness evaluation, found before anyone trusts one."""

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dra_serve.errors import BadRequest
from dra_serve.evaluation.doctor_report import FEW, Report, print_report
from dra_serve.source_options import Source, takes_source

if TYPE_CHECKING:
    from dra_serve.classifier import Model
    from dra_serve.evaluation.data import LabelledImages
    from dra_serve.evaluation.diagnosis import Case, Finding

EXAMPLES = Path(__file__).parent.parent / "bundled" / "examples"
IMAGES = FEW  # looked at, if nobody says otherwise: faults of a model show on any images


@takes_source
def doctor_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model folder, bundled:NAME, .onnx file, Hub id or module:function."
        ),
    ],
    source: Source,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with test*.parquet, or an .npz with x and y; default: DRA_SERVE_CIFAR10, and "
            "without it the ten example images of the package."
        ),
    ] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2; default: what the model is for.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in units of x; default: the model's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the attacks' noise, and of the choice of images.")] = 0,
    n: Annotated[
        int | None, typer.Option("-n", help=f"A random choice of so many images; default: {IMAGES}.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Look for what makes a robust accuracy wrong: masked gradients, randomness, rounding, and the like.

    Exit code 0: sound, as far as these checks see. 1: at least one warning, explained in
    docs/evaluation.md. 2: the input cannot be used.
    """
    classifier = source.load_any(model)
    in_force = _threat(classifier, norm, eps, seed)
    images = find_images(data, classifier, n=n, seed=seed)
    report = examine(classifier, images, **in_force)
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        print_report(report)
    if report.warnings:
        raise typer.Exit(1)


def examine(model: "Model", images: "LabelledImages", *, norm: str, eps: float, seed: int = 0) -> Report:
    """Return the report of every check on all these images, and of the receipts the model comes with.

    Raises BadRequest for images that do not fit the model.
    """
    from dra_serve.evaluation.data import as_float
    from dra_serve.evaluation.diagnosis import Case, claimed
    from dra_serve.evaluation.fit import check_fit

    check_fit(model, images)
    started = time.monotonic()
    case = Case.of(model, as_float(images.x[:]), images.y, norm=norm, eps=eps, seed=seed)
    findings = (*_watched(case), claimed(model.receipts))
    return Report(
        model=model.name,
        model_sha256=model.sha256,
        images=images.name,
        n=len(images.y),
        norm=norm,
        eps=eps,
        seed=seed,
        seconds=round(time.monotonic() - started, 1),
        findings=findings,
    )


def find_images(
    data: Path | None, model: "Model", *, n: int | None = None, seed: int = 0
) -> "LabelledImages":
    """Return a seeded random choice of n images (default: 64, or all if there are fewer).

    data: as `read_images` takes it; without it, where the environment says the model's data is, else the
    package's examples. Raises BadRequest if those are not of the model's kind, and as `read_images` does.
    """
    from dra_serve.evaluation.data import read_images

    name = model.config.data.name if model.config else "cifar10"
    place = data or os.environ.get(f"DRA_SERVE_{name.upper().replace('-', '_')}")
    read = partial(read_images, Path(place)) if place else partial(examples, model)
    return read(n=min(IMAGES, read().total) if n is None else n, seed=seed)


def examples(model: "Model", *, n: int | None = None, seed: int = 0) -> "LabelledImages":
    """Return the package's ten images of CIFAR-10, or n of them: one a class, named `...-CLASS.png`.

    Raises BadRequest for a model of other images.
    """
    import numpy as np

    from dra_serve.evaluation.data import LabelledImages
    from dra_serve.images import decode

    files = sorted(EXAMPLES.glob("*.png"))
    labels = [file.stem.rpartition("-")[2] for file in files]
    names = tuple(sorted(set(labels)))  # CIFAR-10's order is the alphabet's
    y = np.array([names.index(label) for label in labels])
    x = np.stack([decode(file.read_bytes()).transpose(2, 0, 1) for file in files])
    if model.input_shape != x.shape[1:] or len(model.classes) != len(names):
        kind = f"{len(model.classes)} classes of {' x '.join(map(str, model.input_shape))}"
        allowed = f"--data with images of the model's {kind}: the bundled examples are of CIFAR-10"
        raise BadRequest("data", given=None, allowed=allowed)
    return LabelledImages.of(x, y, name="bundled examples", n=n, seed=seed, classes=names)


def _threat(model: "Model", norm: str | None, eps: str | None, seed: int) -> dict[str, Any]:
    """Return norm, eps and seed in force: as given, else what the model was trained for, else linf 8/255."""
    from dra_serve.attacks.norms import get_norm
    from dra_serve.attacks.parameters import MAX_SEED, radius_within
    from dra_serve.checks import check_integer

    trained = model.config.threat if model.config else None
    norm = norm or (trained.norm if trained else "linf")
    largest = get_norm(norm).largest(model.input_shape)
    if eps is None and trained and trained.norm != norm:
        raise BadRequest("eps", given=None, allowed=f"a radius for {norm}: the model is for {trained.norm}")
    given = eps if eps is not None else (trained.eps if trained else "8/255")
    radius = radius_within(given, largest, field="eps")
    if radius <= 0:
        raise BadRequest("eps", given=given, allowed="above 0: at 0 there is nothing to attack")
    return {"norm": norm, "eps": radius, "seed": check_integer(seed, 0, MAX_SEED, field="seed")}


def _watched(case: "Case") -> list["Finding"]:
    """Return what the checks find, the one at work named on stderr if that is a terminal."""
    from rich.console import Console

    from dra_serve.evaluation.diagnosis import CHECKS, diagnose

    console = Console(stderr=True)
    if not console.is_terminal:
        return list(diagnose(case))
    found: list[Finding] = []
    with console.status("") as status:
        for check in CHECKS:
            status.update(check.question)
            found += diagnose(case, (check,))
    return found
