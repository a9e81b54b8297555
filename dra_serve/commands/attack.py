"""`dra-serve attack`: images attacked, and what the model says of them afterwards."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from dra_serve.commands.images import Images, Model, Resize, read_image
from dra_serve.commands.output import Json, new_table, print_json, print_table
from dra_serve.errors import UserError
from dra_serve.source_options import Source, takes_source

if TYPE_CHECKING:
    from dra_serve.onnx_classifier import OnnxClassifier
    from dra_serve.service.answers import AttackAnswer, Attacked


@takes_source
def attack(
    model: Model,
    images: Images,
    source: Source,
    name: Annotated[str, typer.Option("--attack", help="Its name, such as pgd, apgd-t or square.")] = "pgd",
    norm: Annotated[str | None, typer.Option(help="linf (default) or l2.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius in units of x in [0, 1]; default 8/255.")] = None,
    alpha: Annotated[str | None, typer.Option(help="Size of a step; default 2.5 eps / steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of a restart; default 20.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Random starts; default 1.")] = None,
    queries: Annotated[int | None, typer.Option(help="Of square alone: answers asked for.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer; default 0.")] = None,
    label: Annotated[str | None, typer.Option(help="The true class; default: the clean prediction.")] = None,
    target: Annotated[str | None, typer.Option(help="A class to be led to; default: any other.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the adversarial images, as PNG.")] = None,
    resize: Resize = False,
    as_json: Json = False,
) -> None:
    """Attack images: the verdict is the model's answer to the image rounded to 8 bits."""
    from dra_serve.service.answers import AttackRequest
    from dra_serve.service.attacking import attack_models, check_attack

    classifier = source.load(model)
    options = {"norm": norm, "eps": eps, "alpha": alpha, "steps": steps, "restarts": restarts}
    options |= {"queries": queries, "seed": seed}
    chosen = {key: value for key, value in options.items() if value is not None}
    request = AttackRequest(attack=name, options=chosen, label=label, target=target)
    check_attack([classifier], request)
    pixels = [read_image(image, classifier, resize) for image in images]
    answers, files = [], []
    for image, one in zip(_track(images, silent=as_json), pixels, strict=True):
        answers.append(attack_models([classifier], one, request))
        files.append(_write(answers[-1].results[0], image, out))
    if as_json:
        print_json(_attack_json(classifier, images, answers, files))
    else:
        _print_attacks(classifier, images, answers, files)


def _write(attacked: "Attacked", image: Path, out: Path | None) -> Path | None:
    from dra_serve.images import encode_png

    if out is None:
        return None
    file = out / f"{image.stem}.{attacked.model}.png"
    try:
        out.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(attacked.pixels))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or 'cannot be written'}", field="out") from error
    return file


def _track(images: Sequence[Path], *, silent: bool) -> Iterable[Path]:
    """Return the images, counted by a bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    hidden = silent or not console.is_terminal
    return track(images, "attacking", console=console, transient=True, disable=hidden)


def _attack_json(
    model: "OnnxClassifier",
    images: Sequence[Path],
    answers: Sequence["AttackAnswer"],
    files: Sequence[Path | None],
) -> dict[str, Any]:
    from dra_serve.service.schemas.attacked import AttackOut

    results = []
    for image, answer, file in zip(images, answers, files, strict=True):
        result = AttackOut.of(answer).results[0].model_dump(exclude={"adversarial": {"image"}})
        results.append({"source": str(image), "file": None if file is None else str(file), **result})
    in_force = AttackOut.of(answers[0]).attack.model_dump()
    return {"model": model.name, "attack": in_force, "results": results}


def _print_attacks(
    model: "OnnxClassifier",
    images: Sequence[Path],
    answers: Sequence["AttackAnswer"],
    files: Sequence[Path | None],
) -> None:
    from dra_serve.service.words import describe, percent

    table = new_table(model.name, "image", "clean", "adversarial", "fooled", "steps", "linf x 255", "l2")
    for image, answer in zip(images, answers, strict=True):
        result = answer.results[0]
        clean, seen = (f"{p.label} {percent(p.score)}" for p in (result.clean, result.adversarial))
        numbers = (str(result.steps_done), f"{255 * result.linf:.0f}", f"{result.l2:.3f}")
        table.add_row(*map(escape, (image.name, clean, seen, "yes" if result.success else "no", *numbers)))
    print_table(table)
    if len(images) == 1:
        print(*describe(answers[0]))
    else:
        fooled = sum(answer.results[0].success for answer in answers)
        print(f"{model.name} was fooled on {fooled} of {len(images)} images.")
    for file in files:
        if file is not None:
            print(f"wrote {file}", file=sys.stderr)
