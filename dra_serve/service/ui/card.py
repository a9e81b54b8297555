"""One model on the stage, as values: before an attack, step by step, and judged."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dra_serve.classifier import Prediction
from dra_serve.service.answers import Attacked, Step


@dataclass(frozen=True, kw_only=True)
class Face:
    """How a model is introduced. role: "DRA", "AT twin" or ""; record: its measured accuracy or ""."""

    name: str
    role: str = ""
    record: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known: before an attack no steps, during it some, after it `attacked` as well.

    pixels: the clean image, uint8 (H, W, C). clean: its prediction with the scores of all classes.
    truth: what the image shows, if that is known. unit: what the attack's length is counted in.
    """

    face: Face
    pixels: np.ndarray
    clean: Prediction
    truth: str | None = None
    unit: tuple[str, str] = ("step", "steps")
    steps: tuple[Step, ...] = ()
    attacked: Attacked | None = None

    @property
    def adversarial(self) -> np.ndarray | None:
        """The 8-bit adversarial image, or where the attack stands, or None."""
        if self.attacked:
            return self.attacked.pixels
        return self.steps[-1].pixels if self.steps else None

    @property
    def after(self) -> Prediction | None:
        """The model's answer to `adversarial`."""
        if self.attacked:
            return self.attacked.adversarial
        return self.steps[-1].prediction if self.steps else None

    @property
    def label(self) -> str:
        """The class that the attack leads away from."""
        return self.attacked.label if self.attacked else self.clean.label

    @property
    def state(self) -> Literal["ready", "running", "fooled", "held", "unfinished"]:
        if self.attacked is None:
            return "running" if self.steps else "ready"
        if self.attacked.success:
            return "fooled"
        return "held" if self.attacked.complete else "unfinished"


def score(prediction: Prediction, label: str) -> float:
    """Return the probability of the label; 0 if it is not among the answer's best."""
    return dict(prediction.top).get(label, 0.0)
