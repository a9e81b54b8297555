"""Push a model folder, with its card, to the Hugging Face Hub.

.venv/bin/python export/push_to_hub.py FOLDER ORG/NAME
"""

from pathlib import Path
from typing import Annotated

import typer

from dra_serve.errors import DraServeError
from dra_serve.hub import push


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder, exported and checked.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Create it as a private repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; default: main.")] = None,
) -> None:
    """Push FOLDER to ORG/NAME in one commit and print the commit's URL."""
    try:
        typer.echo(push(folder, repo, private=private, revision=revision))
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)
