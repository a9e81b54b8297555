"""`dra-serve`: results on stdout (`--json`: one object), everything else on stderr.

Exit codes: 0; 1, the fault is ours; 2, it is in the input. Only `serve` imports the server.
"""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from dra_serve.commands.attack import attack
from dra_serve.commands.hub import pull, push
from dra_serve.commands.models import models
from dra_serve.commands.predict import predict
from dra_serve.commands.serve import serve
from dra_serve.errors import DraServeError
from dra_serve.evaluation.command import evaluate_command
from dra_serve.evaluation.doctor import doctor_command

COMMANDS: dict[str, tuple[Callable[..., None], str]] = {  # name -> command, example in its help
    "serve": (serve, "serve bundled:dra bundled:at --port 3000"),
    "predict": (predict, "predict bundled:dra cat.png --top-k 3"),
    "attack": (attack, "attack bundled:dra cat.png --eps 8/255 --steps 20 --out adversarial/"),
    "models": (models, "models runs/cifar10-tiny-dra-s0/model"),
    "evaluate": (evaluate_command, "evaluate bundled:dra --data cifar10 -n 500"),
    "doctor": (doctor_command, "doctor bundled:dra --data cifar10"),
    "push": (push, "push runs/cifar10-tiny-dra-s0/model org/cifar10-tiny-dra"),
    "pull": (pull, "pull org/cifar10-tiny-dra --to models/dra"),
}

app = typer.Typer(
    help="Serve robust image classifiers, and attack them.",
    epilog="A MODEL is bundled:dra, bundled:at, a model folder, an .onnx file, or a Hub id (org/name).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

for name, (command, example) in COMMANDS.items():
    app.command(name, epilog=f"Example: dra-serve {example}")(command)


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


if __name__ == "__main__":
    main()
