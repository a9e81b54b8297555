"""Copy a teacher for DRA runs, in half precision: `training/publish_teacher.py FROM TO`."""

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer

from dra_serve.errors import DraServeError
from training.teachers.folder import load_teacher, save_teacher

FACTS = ("training.json", "probe.json")


def main(
    source: Annotated[Path, typer.Argument(help="A teacher's folder, runs/RECIPE-sSEED/teacher.")],
    target: Annotated[Path, typer.Argument(help="Where the float16 copy goes.")],
    image_channels: Annotated[int, typer.Option(help="Channels of its images.")] = 3,
) -> None:
    """Write TARGET as a float16 pipeline folder; its training facts and probe table go along."""
    try:
        save_teacher(load_teacher(source, image_channels=image_channels), target, dtype=torch.float16)
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    for name in FACTS:
        if (source / name).exists():
            shutil.copy(source / name, target / name)
    total = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    typer.echo(f"{target}: {total:,} bytes")


if __name__ == "__main__":
    typer.run(main)
