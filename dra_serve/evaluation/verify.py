"""A receipt's evaluation again, and what came out differently."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from dra_serve.attacks import get_attack
from dra_serve.errors import BadRequest
from dra_serve.evaluation.bits import unpack
from dra_serve.evaluation.data import LabelledImages, read_images


def images_of(receipt: dict[str, Any], data: Path) -> LabelledImages:
    """Return the images of a receipt out of the data set at `data`; BadRequest if that is another one."""
    which = receipt["images"]
    subset = {} if which == "all" else {"n": receipt["n"], "seed": which["permutation_seed"]}
    images = read_images(data, **subset)
    if images.sha256 != receipt["data"]["sha256"]:
        given = f"data with sha256 {images.sha256[:12]}"
        raise BadRequest("data", given=given, allowed=f"the receipt's, {receipt['data']['sha256'][:12]}")
    return images


def options_of(receipt: dict[str, Any]) -> dict[str, Any]:
    """Return the options that make the receipt's attack what it was."""
    values = receipt["attack"] | {key: receipt[key] for key in ("norm", "eps", "seed")}
    known = inspect.signature(get_attack(values["name"]).parameters).parameters
    if not values["eps"]:
        values.pop("alpha", None)  # 0 with a radius of 0, and no value that anyone may give
    return {name: value for name, value in values.items() if name in known}


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, int]:
    """Return how many images have another outcome, for each kind of outcome; all 0 is the same."""
    n = old["n"]
    return {
        name: int(np.sum(unpack(old["outcomes"][name], n) != unpack(new["outcomes"][name], n)))
        for name in old["outcomes"]
    }
