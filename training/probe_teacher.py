"""Probe a teacher: `training/probe_teacher.py FOLDER --data DATA` prints and keeps its table."""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from dra_serve.errors import DraServeError
from training.data import load_data
from training.teachers.features import block_names
from training.teachers.folder import load_teacher, untrained_like
from training.teachers.probe import ProbeData, probe

console = Console(stderr=True)


def main(
    folder: Annotated[Path, typer.Argument(help="A diffusers pipeline folder.")],
    name: Annotated[str, typer.Option("--data-set", help="cifar10 or digits.")] = "cifar10",
    data: Annotated[str | None, typer.Option("--data", help="Data folder or Hub id.")] = None,
    sigmas: Annotated[str, typer.Option(help="Noise levels, comma separated.")] = "0.05,0.15,0.4",
    grids: Annotated[str, typer.Option(help="Pooling grids, comma separated.")] = "1",
    fit: Annotated[int, typer.Option(help="Training images the probe is fitted on.")] = 6000,
    score: Annotated[int, typer.Option(help="Other training images it is scored on.")] = 4000,
    seed: Annotated[int, typer.Option(help="Draws the images and the untrained control's weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score every block and noise level, beside the same network untrained; keep FOLDER/probe.json."""
    try:
        torch.set_num_threads(1)
        images = load_data(name, data)
        teacher = load_teacher(folder, image_channels=images.input_shape[0])
        drawn = ProbeData.draw(images, fit=fit, score=score, seed=seed)
        levels = tuple(float(s) for s in sigmas.split(","))
        sizes = tuple(int(g) for g in grids.split(","))
        trained = probe(teacher, drawn, sigmas=levels, grids=sizes)
        control = probe(untrained_like(teacher, seed=seed), drawn, sigmas=levels, grids=sizes)
    except DraServeError as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise SystemExit(error.exit_code) from None
    rows = [row | {"untrained": other["accuracy"]} for row, other in zip(trained, control, strict=True)]
    result = {"data": name, "fit": fit, "score": score, "seed": seed, "rows": rows}
    (folder / "probe.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result)) if as_json else _show(rows, block_names(teacher.unet), fit, score)


def _show(rows: list[dict[str, object]], blocks: tuple[str, ...], fit: int, score: int) -> None:
    table = Table(title=f"Linear probe, % (untrained network); {fit:,} images fitted, {score:,} scored")
    for column in ("sigma", "grid", *blocks):
        table.add_column(column, justify="right")
    for sigma, grid in dict.fromkeys((row["sigma"], row["grid"]) for row in rows):
        line = [row for row in rows if (row["sigma"], row["grid"]) == (sigma, grid)]
        cells = [
            f"{100 * float(str(r['accuracy'])):.1f} ({100 * float(str(r['untrained'])):.1f})" for r in line
        ]
        table.add_row(str(sigma), str(grid), *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app()
