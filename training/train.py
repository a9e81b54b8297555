"""Train a robust classifier: `training/train.py RECIPE [--field value]`; the same command goes on."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from dra_serve.errors import BadRequest, DraServeError
from training.data import load_data
from training.loop import console, train
from training.recipes.checks import check_recipe
from training.recipes.classifier import RECIPES
from training.recipes.options import override
from training.recipes.teacher import TEACHERS
from training.train_teacher import train_teacher


def main(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")],
    data: Annotated[str | None, typer.Option("--data", help="Data folder or Hub id.")] = None,
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    max_time: Annotated[
        float | None, typer.Option("--max-time", help="Minutes; stop at a checkpoint.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train RECIPE and write runs/RECIPE-sSEED/model; any field can follow as --field value."""
    try:
        if recipe not in RECIPES:
            raise BadRequest("recipe", given=recipe, allowed=", ".join(RECIPES))
        resolved = override(RECIPES[recipe], context.args)
        torch.set_num_threads(threads)
        images = load_data(resolved.data, data)
        check_recipe(resolved, images)  # before a teacher is trained for it
        if resolved.lam and resolved.data == "digits" and not Path(resolved.teacher).exists():
            console.print("training the digits teacher first")
            teacher = TEACHERS["digits-teacher"]
            resolved_teacher = train_teacher(teacher, images, runs / f"{teacher.name}-s{teacher.seed}")
            resolved = override(resolved, ["--teacher", str(resolved_teacher)])
        folder = train(resolved, images, runs / f"{resolved.name}-s{resolved.seed}", max_minutes=max_time)
    except DraServeError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise SystemExit(error.exit_code) from None
    if folder is not None:
        print(folder)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)
    app()
