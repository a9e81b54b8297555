"""A receipt's evaluation again, and what came out differently."""

from pathlib import Path
from typing import Any

import numpy as np

from dra_serve.errors import BadRequest
from dra_serve.evaluation.bits import unpack
from dra_serve.evaluation.data import LabelledImages, read_images
from dra_serve.evaluation.receipt import flipped_by, robust


def images_of(receipt: dict[str, Any], data: Path) -> LabelledImages:
    """Return the images of a receipt out of the data set at `data`; BadRequest if that is another one."""
    which = receipt["images"]
    subset = {} if which == "all" else {"n": receipt["n"], "seed": which["permutation_seed"]}
    images = read_images(data, **subset)
    if images.sha256 != receipt["data"]["sha256"]:
        given = f"data with sha256 {images.sha256[:12]}"
        raise BadRequest("data", given=given, allowed=f"the receipt's, {receipt['data']['sha256'][:12]}")
    return images


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, int]:
    """Return how many images have another outcome, for each kind of outcome; all 0 is the same.

    flipped_by: withstood one run and not the other, or fell to another attack.
    """
    n = old["n"]
    clean, on_file = (
        [unpack(receipt["outcomes"][name], n) for receipt in (old, new)] for name in ("clean", "robust_8bit")
    )
    return {
        "clean": int(np.sum(clean[0] != clean[1])),
        "robust": int(np.sum(robust(old) != robust(new))),
        "robust_8bit": int(np.sum(on_file[0] != on_file[1])),
        "flipped_by": int(np.sum(flipped_by(old) != flipped_by(new))),
    }
