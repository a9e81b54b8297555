"""Write test images of CIFAR-10 as PNG files, one a class: `export/write_examples.py FOLDER --data DATA`."""

from pathlib import Path
from typing import Annotated

import typer

from dra_serve.errors import DraServeError
from dra_serve.images import encode_png
from training.data import load_data


def main(
    folder: Annotated[Path, typer.Argument(help="Where the PNG files go.")],
    data: Annotated[str | None, typer.Option("--data", help="Data folder or Hub id.")] = None,
    first: Annotated[int, typer.Option(help="Look for each class from this test index on.")] = 5000,
) -> None:
    """Write the first image of each class from index FIRST on; the file's name holds its test index."""
    try:
        images = load_data("cifar10", data)
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    folder.mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(images.classes):
        index = int((images.test_y[first:] == label).nonzero()[0]) + first
        pixels = images.test_x[index].permute(1, 2, 0).numpy()
        path = folder / f"cifar10-test-{index:04d}-{name}.png"
        path.write_bytes(encode_png(pixels))
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
