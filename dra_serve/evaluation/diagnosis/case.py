"""What is examined: a model and a few images, in NumPy whatever runs the model, and what a check says."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import to_device

from dra_serve.attacks.norms import get_norm
from dra_serve.checks import check_images, check_labels
from dra_serve.classifier import Array, Classifier, Loss
from dra_serve.errors import BadRequest

DIFFERENCE = 1e-4
"""How far two answers to one image may lie apart, relative to their size; float32 kernels give 1e-6."""


@dataclass(frozen=True)
class Measured:
    """text: what was found, in figures. fault: whether it calls the evaluation into doubt."""

    text: str
    fault: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, its images x, float32 (N, C, H, W) in [0, 1], their labels y (N,), and the threat.

    The model is asked through a `NumpyModel`, so that no check can be disturbed by a model that writes
    into its input. eps: radius in units of x.
    """

    model: "NumpyModel"
    x: np.ndarray
    y: np.ndarray
    norm: str
    eps: float
    seed: int

    @classmethod
    def of(
        cls,
        model: Classifier,
        x: np.ndarray,
        y: Any,
        *,
        norm: str = "linf",
        eps: float = 8 / 255,
        seed: int = 0,
        as_array: Callable[[np.ndarray], Array] = np.asarray,
    ) -> "Case":
        """Return the case; BadRequest for images or labels that do not fit the model, or for no images."""
        check_images(x, model.input_shape)
        if len(x) == 0:
            raise BadRequest("x", given="no images", allowed="at least one")
        labels = check_labels(y, len(x), len(model.classes), like=x)
        get_norm(norm)
        return cls(model=NumpyModel(model, as_array), x=x, y=labels, norm=norm, eps=eps, seed=seed)

    @cached_property
    def logits(self) -> np.ndarray:
        """The answers to x, (N, K)."""
        return self.model.logits(self.x)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The model's own classes, (N,): attacks take them for the labels, so that every image counts."""
        classes: np.ndarray = np.argmax(self.logits, axis=1)
        return classes


class NumpyModel:
    """Any classifier as one on NumPy: `as_array` is the way into its array library.

    It is handed copies, so that it cannot write into the images of an attack.
    """

    def __init__(self, model: Classifier, as_array: Callable[[np.ndarray], Array] = np.asarray) -> None:
        self.model, self.as_array = model, as_array
        self.classes, self.input_shape, self.has_gradient = (
            model.classes,
            model.input_shape,
            model.has_gradient,
        )

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Return (N, K)."""
        return as_numpy(self.model.logits(self.as_array(np.array(x))))

    def loss_and_grad(
        self, x: np.ndarray, y: np.ndarray, loss: Loss = "ce", target: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return logits (N, K), loss (N,) and its gradient at x."""
        towards = None if target is None else self.as_array(target)
        outputs = self.model.loss_and_grad(self.as_array(np.array(x)), self.as_array(y), loss, towards)
        logits, value, grad = map(as_numpy, outputs)
        return logits, value, grad


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how far the answers a and b (N, K) to the same images lie apart, (N,), each scaled to length 1.

    The measure of AutoAttack's `check_randomized`. What is not finite counts as 0: another check's affair.
    """
    apart: np.ndarray = np.linalg.norm(_unit(a) - _unit(b), axis=1)
    return apart


def counted(mask: np.ndarray) -> str:
    """Return `3 of 64 images` for a mask (N,)."""
    return f"{int(mask.sum())} of {len(mask)} images"


def _unit(logits: np.ndarray) -> np.ndarray:
    finite = np.nan_to_num(logits.astype(np.float64), nan=0, posinf=0, neginf=0)
    unit: np.ndarray = finite / (np.linalg.norm(finite, axis=1, keepdims=True) + 1e-10)
    return unit


def as_numpy(array: Array) -> np.ndarray:
    """Return any library's array, on any device, as NumPy's."""
    return np.asarray(to_device(array, "cpu"))
