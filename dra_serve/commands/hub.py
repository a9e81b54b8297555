"""`dra-serve push` and `pull`: model folders to and from the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from dra_serve.commands.output import Json, print_json


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
    print_json({"url": url}) if as_json else print(url)


def pull(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Which repository.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write; default: the Hub's own cache.")] = None,
    as_json: Json = False,
) -> None:
    """Pull a model folder from the Hugging Face Hub and verify it."""
    from dra_serve import hub

    path = hub.pull(repo, revision=revision, to=to)
    print_json({"path": str(path)}) if as_json else print(path)
