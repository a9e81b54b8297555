"""What the client's calls return, read from the service's JSON."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dra_serve.classifier import Prediction
from dra_serve.images import decode
from dra_serve.service.answers import Attacked

_COLOUR_TYPE, _GREY = 25, 0  # its place in a PNG file, and its value for one channel (PNG, section 11.2.1)


@dataclass(frozen=True)
class AttackResponse:
    """attack: every value in force. transfer[source][target]: whether source's image fools target."""

    attack: dict[str, Any]
    results: tuple[Attacked, ...]
    transfer: dict[str, dict[str, bool]]


@dataclass(frozen=True)
class AttackStep:
    """Where the attack on one model stands; step is 1-based.

    pixels: the image there, uint8 (H, W, C), at each `every`-th step of a stream that asked for it.
    """

    model: str
    step: int
    steps: int
    loss: float
    success: bool
    label: str
    score: float
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class ServedModel:
    """A model as the service describes it; None where its folder says nothing."""

    name: str
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    has_gradient: bool
    twin: str | None
    threat: dict[str, Any] | None
    data: dict[str, Any] | None
    recipe: dict[str, Any] | None
    training: dict[str, Any] | None
    receipts: tuple[dict[str, Any], ...]


def prediction(value: Mapping[str, Any]) -> Prediction:
    """Return a prediction as the service writes it."""
    top = tuple((entry["label"], entry["score"]) for entry in value["top"])
    return Prediction(label=value["label"], score=value["score"], top=top)


def attack_response(value: Mapping[str, Any]) -> AttackResponse:
    """Return the answer of /v1/attack."""
    return AttackResponse(value["attack"], tuple(map(_attacked, value["results"])), value["transfer"])


def _attacked(value: Mapping[str, Any]) -> Attacked:
    seen = {"clean": prediction(value["clean"]), "adversarial": prediction(value["adversarial"])}
    return Attacked(**{**value, **seen, "pixels": _pixels(value["adversarial"]["image"])})


def attack_step(value: Mapping[str, Any]) -> AttackStep:
    """Return a `step` event of the stream."""
    plain = {name: part for name, part in value.items() if name != "image"}
    return AttackStep(**plain, pixels=_pixels(value["image"]) if "image" in value else None)


def _pixels(uri: str) -> np.ndarray:
    """Return the pixels of a PNG in a data URI, (H, W, 3) or (H, W, 1) as the file has them."""
    png = base64.b64decode(uri.partition(",")[2])
    pixels = decode(png)  # RGB, whatever the file is
    return pixels[:, :, :1] if png[_COLOUR_TYPE] == _GREY else pixels


def served_model(value: Mapping[str, Any]) -> ServedModel:
    """Return one model of /v1/models."""
    shape = value["input_shape"]
    tuples = {"classes": tuple(value["classes"]), "receipts": tuple(value["receipts"])}
    return ServedModel(**{**value, **tuples, "input_shape": (shape[0], shape[1], shape[2])})
