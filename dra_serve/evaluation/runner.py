"""Attack every image once and keep what became of it, batch by batch, on disk if asked."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dra_serve.attacks import get_attack
from dra_serve.classifier import Classifier
from dra_serve.errors import BadRequest
from dra_serve.evaluation.data import LabelledImages
from dra_serve.images import round_into_ball

BATCH = 128


@dataclass(frozen=True)
class Outcomes:
    """What became of each image, bool (N,): right when clean, after the attack, on its 8-bit image."""

    clean: np.ndarray
    robust: np.ndarray
    robust_8bit: np.ndarray


OnBatch = Callable[[int, Outcomes], None]


def evaluate(
    model: Classifier,
    images: LabelledImages,
    *,
    attack: str = "pgd",
    batch: int = BATCH,
    state: Path | None = None,
    model_sha256: str = "",
    on_batch: OnBatch | None = None,
    **options: Any,
) -> Outcomes:
    """Return each image's outcome under `attack`.

    options: the attack's own (norm, eps, steps, restarts, seed...). Noise is keyed by an image's position
    in the data set, so batch size and subset change nothing. state: a file rewritten after every batch;
    a killed evaluation goes on from it. on_batch: called with the images done and the outcomes so far.

    Raises BadRequest for an unknown attack or option, for images that do not fit the model, and for a
    state file of another evaluation.
    """
    if batch < 1:
        raise BadRequest("batch", given=batch, allowed="at least 1")
    if tuple(images.x.shape[1:]) != tuple(model.input_shape):
        given = f"images of shape {tuple(images.x.shape[1:])}"
        raise BadRequest("data", given=given, allowed=f"{tuple(model.input_shape)}, the model's input")
    chosen = get_attack(attack)
    parameters = chosen.resolve(model.input_shape, **options)
    rows = _State(state, _key(attack, parameters.as_dict(), images, model_sha256))
    for start in range(rows.done, len(images.y), batch):
        part = slice(start, start + batch)
        x, y = images.x[part].astype(np.float32) / 255, images.y[part]
        clean = model.logits(x).argmax(1) == y
        result = chosen(model, x, y, indices=images.indices[part], **options)
        rounded = round_into_ball(result.x_adv, x, parameters.eps, parameters.norm)
        right_8bit = model.logits(rounded).argmax(1) == y
        rows.add(clean, clean & ~result.success, clean & right_8bit)
        if on_batch is not None:
            on_batch(rows.done, rows.outcomes())
    return rows.outcomes()


def _key(attack: str, parameters: dict[str, Any], images: LabelledImages, model_sha256: str) -> str:
    """Return a hash of all that decides an outcome."""
    which = hashlib.sha256(images.indices.tobytes()).hexdigest()
    parts = [attack, parameters, images.sha256, which, model_sha256]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _State:
    """Outcomes so far, one 0/1 character an image, kept in a JSON file that is replaced whole."""

    def __init__(self, path: Path | None, key: str) -> None:
        self.path, self.key = path, key
        self.marks = {"clean": "", "robust": "", "robust_8bit": ""}
        if path is None or not path.exists():
            return
        try:
            saved = json.loads(path.read_text())
            theirs, marks = saved["key"], saved["marks"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadRequest("state", given=str(path), allowed="a state file of this evaluation") from error
        if theirs != key:
            raise BadRequest(
                "state", given=str(path), allowed="a state file of this very evaluation; remove it"
            )
        self.marks = marks

    @property
    def done(self) -> int:
        return len(self.marks["clean"])

    def add(self, *columns: np.ndarray) -> None:
        for name, column in zip(self.marks, columns, strict=True):
            self.marks[name] += "".join("01"[int(flag)] for flag in column)
        if self.path is not None:
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps({"key": self.key, "marks": self.marks}))
            partial.replace(self.path)

    def outcomes(self) -> Outcomes:
        return Outcomes(*(np.array([c == "1" for c in mark], dtype=bool) for mark in self.marks.values()))
