"""Print a model folder's receipts in a form that others read.

.venv/bin/python export/receipts.py FOLDER --format robustbench

robustbench: model_info JSON; model-index: YAML for the top of a model card (`dra-serve push` writes it
there by itself); eval-results: YAML for `.eval_results/` of a repository on the Hub (so too).
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dra_serve.errors import BadRequest, DraServeError, UserError
from dra_serve.evaluation import read_receipts
from dra_serve.evaluation.robustbench import model_info
from dra_serve.exporters.eval_results import eval_results
from dra_serve.exporters.facts import of_model
from dra_serve.exporters.model_index import model_index
from dra_serve.model_folder import FORWARD, RESULTS, read_folder
from dra_serve.sums import sha256


class Format(StrEnum):
    robustbench = "robustbench"
    model_index = "model-index"
    eval_results = "eval-results"


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder; its results.json holds the receipts.")],
    form: Annotated[Format, typer.Option("--format", help="What to print.")],
    norm: Annotated[
        str | None, typer.Option(help="linf or l2, for robustbench; default: as trained.")
    ] = None,
    link: Annotated[str | None, typer.Option(help="Of the paper, for robustbench.")] = None,
    name: Annotated[str | None, typer.Option(help="Title of the paper, for robustbench.")] = None,
    authors: Annotated[str | None, typer.Option(help="Of the paper, for robustbench.")] = None,
    venue: Annotated[
        str | None, typer.Option(help='"ICML 2023" or "arXiv, Feb 2026", for robustbench.')
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="WideResNet-28-10, say, for robustbench.")] = None,
    additional_data: Annotated[
        bool | None,
        typer.Option(
            "--additional-data", help="Real images beyond the training set were used (robustbench)."
        ),
    ] = None,
    dataset_id: Annotated[str | None, typer.Option(help="ORG/NAME on the Hub, for eval-results.")] = None,
) -> None:
    """Print the receipts of FOLDER in another form."""
    paper = {
        "norm": norm,
        "link": link,
        "name": name,
        "authors": authors,
        "venue": venue,
        "architecture": architecture,
        "additional_data": additional_data,
    }
    try:
        typer.echo(exported(folder, form, dataset_id, **paper), nl=False)
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


def exported(folder: Path, form: Format, dataset_id: str | None = None, **paper: Any) -> str:
    """Return the text of a folder's receipts in this form. Raises UserError naming what is in the way."""
    given = {key: value for key, value in paper.items() if value is not None}
    for field, value, taken_by in (
        *((key, value, Format.robustbench) for key, value in given.items()),
        *([("dataset_id", dataset_id, Format.eval_results)] if dataset_id is not None else []),
    ):
        if form is not taken_by:
            raise BadRequest(field, given=value, allowed=f"nothing with {form}; {taken_by} takes it")
    model = read_folder(folder)
    if not model.receipts:
        raise UserError(
            f"{RESULTS}: {folder} holds no receipt; dra-serve evaluate --keep adds one", field=RESULTS
        )
    receipts = of_model(read_receipts(model.path / RESULTS), sha256(model.path / FORWARD))
    if not receipts:
        raise UserError(f"{RESULTS}: all receipts are of other weights than {FORWARD}'s", field=RESULTS)
    if form is Format.robustbench:
        info = model_info(model.config, receipts, **given)
        return json.dumps(info, indent=2, ensure_ascii=False) + "\n"
    if form is Format.model_index:
        return model_index(model.config.name, receipts)
    return eval_results(receipts, dataset_id=dataset_id)


if __name__ == "__main__":
    typer.run(main)
