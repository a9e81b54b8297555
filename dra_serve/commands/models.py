"""`dra-serve models`: what each model is measured to be."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from dra_serve.commands.output import Json, new_table, print_json, print_table


def models(
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Default: bundled:dra bundled:at.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show models and their measured accuracies, each with its attack, radius and number of images."""
    from dra_serve.loading import load
    from dra_serve.service.registry import BUNDLED_PAIR
    from dra_serve.service.schemas.models import ModelOut

    loaded = [load(source) for source in sources or BUNDLED_PAIR]
    if as_json:
        print_json({"models": [ModelOut.of(model).model_dump() for model in loaded]})
        return
    table = new_table(None, "model", "attack", "images", "clean", "robust (95 % interval)", "robust, 8-bit")
    for model in loaded:
        for receipt in model.receipts or [None]:
            table.add_row(escape(model.name), *map(escape, _receipt_cells(receipt)))
    print_table(table)


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
