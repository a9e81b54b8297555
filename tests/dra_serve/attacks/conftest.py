"""The same linear classifier on NumPy and on torch, and a curved one on ONNX Runtime."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from array_api_compat import array_namespace

from dra_serve.attacks.losses import LOSS_FUNCTIONS
from dra_serve.gradient_graph import differentiate
from dra_serve.onnx_classifier import OnnxClassifier

SHAPE = (3, 8, 8)


class LinearClassifier:
    """logits = W flat(x) + b over any array library. Counts its calls; refuses to be written through."""

    has_gradient = True

    def __init__(self, weights: Any, bias: Any, input_shape: tuple[int, int, int]) -> None:
        self.W, self.b, self.input_shape = weights, bias, input_shape
        self.classes = tuple(map(str, range(bias.shape[0])))
        self.forwards: list[int] = []
        self.gradients: list[int] = []

    def logits(self, x: Any) -> Any:
        self.forwards.append(x.shape[0])
        return self._logits(x)

    def loss_and_grad(self, x: Any, y: Any, loss: str = "ce", target: Any = None) -> tuple[Any, Any, Any]:
        self.gradients.append(x.shape[0])
        logits = self._logits(x)
        value, grad = LOSS_FUNCTIONS[loss](logits, y, target)
        return logits, value, array_namespace(x).reshape(grad @ self.W, x.shape)

    def _logits(self, x: Any) -> Any:
        flat = array_namespace(x).reshape(x, (x.shape[0], self.W.shape[1]))
        return flat @ self.W.T + self.b


@dataclass(frozen=True)
class Backend:
    """A classifier with the way into its array library and back."""

    model: Any
    array: Callable[[np.ndarray], Any]

    def images(self, n: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return (0.5 + 0.3 * rng.uniform(-1, 1, (n, *self.model.input_shape))).astype(np.float32)

    def labels(self, x: np.ndarray) -> np.ndarray:
        """Return what the model says of x."""
        return np.asarray(self.model.logits(self.array(x))).argmax(axis=1)


def _read_only(a: np.ndarray) -> np.ndarray:
    copy = a.copy()
    copy.setflags(write=False)
    return copy


def _linear(as_array: Callable[[np.ndarray], Any]) -> LinearClassifier:
    rng = np.random.default_rng(1)
    W = (rng.standard_normal((5, int(np.prod(SHAPE)))) / 5).astype(np.float32)
    b = (-W.sum(axis=1) / 2).astype(np.float32)  # grey is undecided: every class has its images
    return LinearClassifier(as_array(W), as_array(b), SHAPE)


def _onnx(tiny_onnx: Callable[..., onnx.ModelProto]) -> OnnxClassifier:
    forward = tiny_onnx(classes=5, input_shape=SHAPE)
    gradient = differentiate(forward).SerializeToString()
    return OnnxClassifier(
        forward.SerializeToString(), gradient, classes=tuple("abcde"), input_shape=SHAPE, name="tiny"
    )


@pytest.fixture(params=["numpy", "torch", "onnx"])
def backend(request: pytest.FixtureRequest, tiny_onnx: Callable[..., onnx.ModelProto]) -> Backend:
    """Each test runs over each of the three."""
    if request.param == "numpy":
        return Backend(_linear(_read_only), _read_only)
    if request.param == "torch":
        return Backend(_linear(torch.from_numpy), lambda a: torch.from_numpy(np.array(a)))
    return Backend(_onnx(tiny_onnx), _read_only)


@pytest.fixture
def linear() -> Callable[..., LinearClassifier]:
    """Return make(W (K, D), b (K,), input_shape), a NumPy classifier that counts its calls."""
    return LinearClassifier


class ScriptedClassifier:
    """Says [1, 0] of every image, with the losses and gradients of a script; keeps the images it is shown."""

    classes, has_gradient = ("0", "1"), True

    def __init__(self, losses: list[float], grads: list[np.ndarray]) -> None:
        self.script = list(zip(losses, grads, strict=True))
        self.input_shape = grads[0].shape
        self.asked: list[np.ndarray] = []  # by loss_and_grad, one image a call
        self.last: np.ndarray | None = None  # by logits

    def logits(self, x: np.ndarray) -> np.ndarray:
        self.last = x
        return np.tile(np.array([1, 0], np.float32), (len(x), 1))

    def loss_and_grad(self, x: np.ndarray, y: Any, loss: str = "ce", target: Any = None) -> tuple[Any, ...]:
        value, grad = self.script[len(self.asked)]
        self.asked.append(x[0])
        logits = np.tile(np.array([1, 0], np.float32), (len(x), 1))
        return logits, np.full(len(x), value, np.float32), np.stack([grad] * len(x)).astype(np.float32)


@pytest.fixture
def scripted() -> Callable[..., ScriptedClassifier]:
    """Return make(losses, grads): a classifier that answers one image as told, call after call."""
    return ScriptedClassifier
