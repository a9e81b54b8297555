"""Write the example images, one a class: `export/write_examples.py dra_serve/bundled/examples --data DATA`.

Then `make docs`, which points the README at the files that are there.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import dra_serve
from dra_serve.errors import DraServeError, UserError
from dra_serve.images import encode_png, to_float
from training.data import load_data

PATTERN = "cifar10-test-*.png"
BATCH = 256


def pick(y: np.ndarray, right: np.ndarray, *, classes: int, seed: int) -> list[int]:
    """Return for each class the index of its first image, in a seeded permutation, that is right (N,) bool.

    Raises UserError for a class without one.
    """
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = []
    for label in range(classes):
        hits = order[(y[order] == label) & right[order]]
        if not len(hits):
            raise UserError(f"no test image of class {label} is answered right by every model", field="model")
        chosen.append(int(hits[0]))
    return chosen


def answered_right(sources: list[str], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which images x uint8 (N, H, W, C) every model answers with y (N,), bool (N,)."""
    right = np.ones(len(y), bool)
    for source in sources:
        model = dra_serve.load(source)
        for start in range(0, len(y), BATCH):
            part = slice(start, start + BATCH)
            right[part] &= model.logits(to_float(x[part])).argmax(axis=1) == y[part]
    return right


def main(
    folder: Annotated[Path, typer.Argument(help="Where the PNG files go; earlier examples there go away.")],
    data: Annotated[str | None, typer.Option("--data", help="Data folder or Hub id.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Answers them all right when clean; default: the bundled pair.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the permutation in which images are looked through.")] = 0,
) -> None:
    """Write one test image a class that every model answers right; its file's name holds its test index."""
    try:
        images = load_data("cifar10", data)
        x, y = images.test_x.permute(0, 2, 3, 1).numpy(), images.test_y.numpy()
        right = answered_right(model or ["bundled:dra", "bundled:at"], x, y)
        chosen = pick(y, right, classes=len(images.classes), seed=seed)
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(PATTERN):
        old.unlink()
    for index, name in zip(chosen, images.classes, strict=True):
        path = folder / f"cifar10-test-{index:04d}-{name}.png"
        path.write_bytes(encode_png(x[index]))
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
