"""The picture under attack: where it came from, and whether the visitor agreed to its size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dra_serve.errors import UserError
from dra_serve.images import decode, fit

Shape = tuple[int, int, int]
ORDER = "order.txt"
"""In a folder of examples: their names, a line each, in the order in which the page shows them."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """pixels: uint8 (H, W, 3) in the models' size; a visitor's session keeps nothing larger.

    about: one sentence on where it came from. truth: the class it shows, if that is known.
    resized_from: its own size, "200 x 150", until the visitor has agreed to the resizing.
    """

    name: str
    pixels: np.ndarray
    about: str
    truth: str | None = None
    is_example: bool = False
    resized_from: str | None = None

    def accept(self) -> "Picture":
        """Return it with the resizing agreed to."""
        return replace(self, resized_from=None)


def read_upload(path: Path, input_shape: Shape) -> Picture:
    """Return the picture in an uploaded file; whatever `images.decode` refuses is a UserError."""
    original = decode(path.read_bytes())
    pixels = fit(original, (3, *input_shape[1:]), resize=True)
    about = f"{path.name}, {size(original)} pixels"
    if original.shape == pixels.shape:
        return Picture(name=path.stem, pixels=pixels, about=f"{about}.")
    how = "the largest centred part of the right proportions, by a bicubic filter"
    about += f", resized to {size(pixels)}: {how}."
    return Picture(name=path.stem, pixels=pixels, about=about, resized_from=size(original))


def read_examples(folder: Path, input_shape: Shape, classes: Sequence[str]) -> list[Picture]:
    """Return the PNG files of `folder` that fit; a name that holds a class says what it shows.

    Those of its `order.txt` come first, as they stand there, the others after them by name.
    """
    listed = (folder / ORDER).read_text(encoding="utf-8").split() if (folder / ORDER).is_file() else []
    places = {name: place for place, name in enumerate(listed)}
    pictures = []
    for path in sorted(
        folder.glob("*.png"), key=lambda path: (places.get(path.name, len(places)), path.name)
    ):
        try:
            pixels = decode(path.read_bytes())
        except UserError:
            continue
        words = path.stem.replace("_", "-").split("-")
        truth = next((word for word in words if word in classes), None)
        about = f"Example: {' '.join(words)}."
        if pixels.shape[:2] == input_shape[1:]:
            pictures.append(Picture(name=path.stem, pixels=pixels, about=about, truth=truth, is_example=True))
    return pictures


def size(pixels: np.ndarray) -> str:
    """Return "32 x 24": width, height."""
    return f"{pixels.shape[1]} × {pixels.shape[0]}"  # noqa: RUF001 - the sign people read
