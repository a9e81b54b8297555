"""Write the example images, one a class: `export/write_examples.py dra_serve/bundled/examples --data DATA`.

The page shows the first of them to whoever comes, so they are chosen by what the page's first attack does to
the pair (8/255, 20 steps; verdicts on 8-bit images), and every kind of outcome has its turn:

    1. one model falls and the other holds    4. the other model falls alone    7. as 1, and so on
    2. both fall                              5. both fall
    3. both hold                              6. both hold

Which model falls alone at first is the test set's choice: the first such image in a seeded permutation. Each
place takes the first image in that permutation of its outcome and of a class without an example; images that
a model misreads when clean, and outcomes that hang on the seed of the attack, are passed over. So the
examples show what may happen, never how often: that is what receipts are for.

Then `make docs`, which points the README at the files that are there.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import dra_serve
from dra_serve.errors import BadRequest, DraServeError, UserError
from dra_serve.images import encode_png, to_float
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.attacking import attack_models
from dra_serve.service.ui.controls import first_attack
from dra_serve.service.ui.picture import ORDER
from training.data import load_data

PATTERN = "cifar10-test-*.png"
BATCH = 256
SEEDS = (0, 1, 2)  # of the attack: the page's own, and two that a visitor may try

Fallen = frozenset[int]
"""Which models, by their places, an attack fools."""


def turns(first: Fallen, places: int) -> list[Fallen]:
    """Return the outcome that each place asks for; first: the one model that falls alone at first."""
    both = frozenset({0, 1})
    kinds = [first, both, frozenset[int](), both - first, both, frozenset[int]()]
    return [kinds[place % len(kinds)] for place in range(places)]


def pick(
    y: np.ndarray, right: np.ndarray, fallen: Callable[[int], Fallen | None], *, classes: int, seed: int
) -> list[int]:
    """Return the index of an image a class, in the order of their places.

    y: (N,) labels. right: (N,) bool, which images every model reads when clean. fallen: asked for those
    alone; None where the outcome hangs on the attack's seed. Raises UserError for a place without an image.
    """
    order = [int(i) for i in np.random.default_rng(seed).permutation(len(y)) if right[i]]
    first = next((kind for kind in map(fallen, order) if kind is not None and len(kind) == 1), None)
    if first is None:
        raise UserError("there is no test image on which one model falls and the other holds", field="model")
    chosen: dict[int, int] = {}
    for place, kind in enumerate(turns(first, classes), start=1):
        free = (i for i in order if int(y[i]) not in chosen)
        index = next((i for i in free if fallen(i) == kind), None)
        if index is None:
            raise UserError(f"no test image is left for place {place}: another --seed may do", field="seed")
        chosen[int(y[index])] = index
    return list(chosen.values())


def answered_right(models: Sequence[OnnxClassifier], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which images x uint8 (N, H, W, C) every model answers with y (N,), bool (N,)."""
    right = np.ones(len(y), bool)
    for model in models:
        for start in range(0, len(y), BATCH):
            part = slice(start, start + BATCH)
            right[part] &= model.logits(to_float(x[part])).argmax(axis=1) == y[part]
    return right


def fallen(models: Sequence[OnnxClassifier], pixels: np.ndarray) -> Fallen | None:
    """Return which models the page's first attack fools, None if that hangs on its seed.

    pixels: uint8 (H, W, C).
    """
    outcomes = set()
    for seed in SEEDS:
        results = attack_models(models, pixels, first_attack(seed=seed)).results
        outcomes.add(frozenset(place for place, result in enumerate(results) if result.success))
        if len(outcomes) > 1:
            return None
    return outcomes.pop()


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write the files and the list of their names, in order; earlier examples in the folder go away."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(PATTERN):
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / ORDER).write_text("".join(f"{name}\n" for name in files), encoding="utf-8")


def main(
    folder: Annotated[Path, typer.Argument(help="Where the PNG files go; earlier examples there go away.")],
    data: Annotated[str | None, typer.Option("--data", help="Data folder or Hub id.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="The two that are attacked; default: the bundled pair.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the permutation in which images are looked through.")] = 0,
) -> None:
    """Write one test image a class, chosen by what befalls both models; names hold the test's indices."""
    try:
        sources = model or ["bundled:dra", "bundled:at"]
        if len(sources) != 2:
            raise BadRequest("model", given=f"{len(sources)} models", allowed="two, or none for the pair")
        models = [dra_serve.load(source) for source in sources]
        images = load_data("cifar10", data)
        x, y = images.test_x.permute(0, 2, 3, 1).numpy(), images.test_y.numpy()
        outcome = cache(lambda index: fallen(models, x[index]))
        chosen = pick(y, answered_right(models, x, y), outcome, classes=len(images.classes), seed=seed)
    except DraServeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    names = {index: f"cifar10-test-{index:04d}-{images.classes[int(y[index])]}.png" for index in chosen}
    write(folder, {name: encode_png(x[index]) for index, name in names.items()})
    for index, name in names.items():
        fools = [models[k].name for k in sorted(outcome(index) or ())]
        typer.echo(f"{folder / name}: the attack fools {' and '.join(fools) or 'neither'}")


if __name__ == "__main__":
    typer.run(main)
