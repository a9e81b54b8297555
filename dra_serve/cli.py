"""`dra-serve`: results on stdout (`--json`: one object), everything else on stderr.

Exit codes: 0; 1, the fault is ours; 2, it is in the input. Only `serve` imports the server.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from dra_serve.errors import BadRequest, DraServeError, UserError
from dra_serve.evaluation.command import evaluate_command
from dra_serve.evaluation.doctor import doctor_command
from dra_serve.source_options import Source, takes_source

if TYPE_CHECKING:
    from dra_serve.onnx_classifier import OnnxClassifier
    from dra_serve.service.answers import AttackAnswer, Attacked

app = typer.Typer(
    help="Serve robust image classifiers, and attack them.",
    epilog="A MODEL is bundled:dra, bundled:at, a model folder, an .onnx file, or a Hub id (org/name).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="bundled:dra, a model folder, an .onnx file, or a Hub id.")
]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG or WebP files.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
TopK = Annotated[int, typer.Option(min=1, help="How many classes, best first.")]
Resize = Annotated[bool, typer.Option("--resize", help="Scale images to the model's input size.")]


def main() -> None:
    """Run the command line; an error of ours is one sentence on stderr and an exit code."""
    try:
        app()
    except DraServeError as error:
        print(f"dra-serve: {error.detail}", file=sys.stderr)
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from dra_serve import __version__

        print(__version__)
        raise typer.Exit


@app.command(epilog="Example: dra-serve serve bundled:dra bundled:at --port 3000")
def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Default: bundled:dra bundled:at.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 3000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, default 1; more are without the demo.")
    ] = None,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Serve the API alone.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Attacks at once; default: all cores but one.")
    ] = None,
) -> None:
    """Serve models over HTTP: predictions, attacks, and the demo at /ui.

    What is not given here comes from the environment (DRA_SERVE_MODELS, DRA_SERVE_THREADS, ...).
    """
    from dra_serve.service.server import serve as run
    from dra_serve.service.settings import Settings

    given = {"models": tuple(models or ()), "workers": workers, "threads": threads}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value}
    settings = replace(Settings.from_environ(), **chosen)
    run(replace(settings, ui=False) if no_ui else settings, host=host, port=port)


@app.command(epilog="Example: dra-serve predict bundled:dra cat.png --top-k 3")
@takes_source
def predict(
    model: Model,
    images: Images,
    source: Source,
    top_k: TopK = 5,
    resize: Resize = False,
    as_json: Json = False,
) -> None:
    """Classify images."""
    from dra_serve.service.answers import predict_pixels
    from dra_serve.service.schemas import PredictionOut
    from dra_serve.service.words import percent

    classifier = source.load(model)
    pixels = [_read(image, classifier, resize) for image in images]
    predictions = predict_pixels(classifier, pixels, top_k=top_k)
    if as_json:
        rows = [
            {"source": str(image), **PredictionOut.of(prediction).model_dump()}
            for image, prediction in zip(images, predictions, strict=True)
        ]
        _print_json({"model": classifier.name, "predictions": rows})
        return
    table = _table(classifier.name, "image", "prediction", "score", "then")
    for image, prediction in zip(images, predictions, strict=True):
        others = ", ".join(f"{label} {percent(score)}" for label, score in prediction.top[1:])
        table.add_row(*map(escape, (image.name, prediction.label, percent(prediction.score), others)))
    _print_table(table)


@app.command(epilog="Example: dra-serve attack bundled:dra cat.png --eps 8/255 --steps 20 --out adversarial/")
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
    from dra_serve.service.answers import AttackRequest, attack_models, check_attack

    classifier = source.load(model)
    options = {"norm": norm, "eps": eps, "alpha": alpha, "steps": steps, "restarts": restarts}
    options |= {"queries": queries, "seed": seed}
    chosen = {key: value for key, value in options.items() if value is not None}
    request = AttackRequest(attack=name, options=chosen, label=label, target=target)
    check_attack([classifier], request)
    pixels = [_read(image, classifier, resize) for image in images]
    answers, files = [], []
    for image, one in zip(_track(images, silent=as_json), pixels, strict=True):
        answers.append(attack_models([classifier], one, request))
        files.append(_write(answers[-1].results[0], image, out))
    if as_json:
        _print_json(_attack_json(classifier, images, answers, files))
    else:
        _print_attacks(classifier, images, answers, files)


@app.command(epilog="Example: dra-serve models runs/cifar10-tiny-dra-s0/model")
def models(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Default: bundled:dra bundled:at.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show models and their measured accuracies, each with its attack, radius and number of images."""
    from dra_serve.loading import load
    from dra_serve.service.registry import BUNDLED_PAIR
    from dra_serve.service.schemas import ModelOut

    loaded = [load(source) for source in sources or BUNDLED_PAIR]
    if as_json:
        _print_json({"models": [ModelOut.of(model).model_dump() for model in loaded]})
        return
    table = _table(None, "model", "attack", "images", "clean", "robust (95 % interval)", "robust, 8-bit")
    for model in loaded:
        for receipt in model.receipts or [None]:
            table.add_row(escape(model.name), *map(escape, _receipt_cells(receipt)))
    _print_table(table)


app.command("evaluate", epilog="Example: dra-serve evaluate bundled:dra --data cifar10 -n 500")(
    evaluate_command
)
app.command("doctor", epilog="Example: dra-serve doctor bundled:dra --data cifar10")(doctor_command)


@app.command(epilog="Example: dra-serve push runs/cifar10-tiny-dra-s0/model org/cifar10-tiny-dra")
def push(
    folder: Annotated[Path, typer.Argument(help="A model folder.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create it as a private repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; default: main.")] = None,
    as_json: Json = False,
) -> None:
    """Push a model folder, with its card, to the Hugging Face Hub (the token is huggingface_hub's own)."""
    from dra_serve import hub

    url = hub.push(folder, repo, private=private, revision=revision)
    _print_json({"url": url}) if as_json else print(url)


@app.command(epilog="Example: dra-serve pull org/cifar10-tiny-dra --to models/dra")
def pull(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Which repository.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write; default: the Hub's own cache.")] = None,
    as_json: Json = False,
) -> None:
    """Pull a model folder from the Hugging Face Hub and verify it."""
    from dra_serve import hub

    path = hub.pull(repo, revision=revision, to=to)
    _print_json({"path": str(path)}) if as_json else print(path)


def _read(path: Path, model: "OnnxClassifier", resize: bool) -> Any:
    """Return the pixels of the file as the model takes them; errors name the file."""
    from dra_serve.images import decode, fit

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}", field="image") from error
    try:
        return fit(decode(data, field=path.name), model.input_shape, resize=resize, field=path.name)
    except BadRequest as error:
        raise UserError(error.detail.replace("resize=true", "--resize"), field="image") from error


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
    from dra_serve.service.schemas import AttackOut

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

    table = _table(model.name, "image", "clean", "adversarial", "fooled", "steps", "linf x 255", "l2")
    for image, answer in zip(images, answers, strict=True):
        result = answer.results[0]
        clean, seen = (f"{p.label} {percent(p.score)}" for p in (result.clean, result.adversarial))
        numbers = (str(result.steps_done), f"{255 * result.linf:.0f}", f"{result.l2:.3f}")
        table.add_row(*map(escape, (image.name, clean, seen, "yes" if result.success else "no", *numbers)))
    _print_table(table)
    if len(images) == 1:
        print(*describe(answers[0]))
    else:
        fooled = sum(answer.results[0].success for answer in answers)
        print(f"{model.name} was fooled on {fooled} of {len(images)} images.")
    for file in files:
        if file is not None:
            print(f"wrote {file}", file=sys.stderr)


def _receipt_cells(receipt: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the columns of `models` after the name."""
    from dra_serve.receipts import title

    if receipt is None:
        return ("not measured", "", "", "", "")
    low, high = map(_accuracy, receipt["wilson_95"])
    return (
        title(receipt),
        f"{receipt['n']:,}",
        _accuracy(receipt["clean_accuracy"]),
        f"{_accuracy(receipt['robust_accuracy'])} ({low} to {high})",
        _accuracy(receipt["robust_accuracy_8bit"]),
    )


def _accuracy(value: float) -> str:
    return f"{100 * value:.1f} %"


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title and escape(title), box=SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width: nothing is wrapped or cut there
        console.width = 10_000
    console.print(table)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


if __name__ == "__main__":
    main()
