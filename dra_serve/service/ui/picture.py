"""The picture under attack: where it came from, and whether it has the models' size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dra_serve.errors import UserError
from dra_serve.images import decode, fit

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """pixels: uint8 (H, W, 3), as decoded or as resized.

    about: one sentence on where it came from. truth: the class it shows, if that is known.
    """

    name: str
    pixels: np.ndarray
    about: str
    truth: str | None = None
    is_example: bool = False

    def fits(self, input_shape: Shape) -> bool:
        """Return whether it can be attacked as it is."""
        return self.pixels.shape[:2] == input_shape[1:]


def read_upload(path: Path) -> Picture:
    """Return the picture in an uploaded file; whatever `images.decode` refuses is a UserError."""
    pixels = decode(path.read_bytes())
    return Picture(name=path.stem, pixels=pixels, about=f"{path.name}, {size(pixels)} pixels.")


def resize(picture: Picture, input_shape: Shape) -> Picture:
    """Return it in the models' size, and say what was done."""
    pixels = fit(picture.pixels, (3, *input_shape[1:]), resize=True)
    about = (
        f"{picture.name}, {size(picture.pixels)} pixels, resized to {size(pixels)}: "
        "the largest centred part of the right proportions, by a bicubic filter."
    )
    return Picture(name=picture.name, pixels=pixels, about=about)


def read_examples(folder: Path, input_shape: Shape, classes: Sequence[str]) -> list[Picture]:
    """Return the PNG files of `folder` that fit, by name; a name that holds a class says what it shows."""
    pictures = []
    for path in sorted(folder.glob("*.png")):
        try:
            pixels = decode(path.read_bytes())
        except UserError:
            continue
        words = path.stem.replace("_", "-").split("-")
        truth = next((word for word in words if word in classes), None)
        about = f"Example: {' '.join(words)}."
        picture = Picture(name=path.stem, pixels=pixels, about=about, truth=truth, is_example=True)
        if picture.fits(input_shape):
            pictures.append(picture)
    return pictures


def size(pixels: np.ndarray) -> str:
    """Return "32 x 24": width, height."""
    return f"{pixels.shape[1]} × {pixels.shape[0]}"  # noqa: RUF001 - the sign people read
