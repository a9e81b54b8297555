"""What an attack may ask of a model, whatever runs it."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

Array = Any
"""A NumPy array or a torch tensor; the core speaks the array API standard to both."""

Loss = Literal["ce", "margin", "dlr", "dlr_targeted"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
"""In the order of their codes in a gradient graph (0, 1, 2, 3). Larger is worse for the defender."""


class Classifier(Protocol):
    """A deterministic image classifier on [0, 1] images; normalisation is inside.

    Everything takes and returns arrays of one library. Labels and targets outside 0..K-1 and
    non-finite images raise BadRequest before anything is computed.
    """

    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]  # C, H, W
    has_gradient: bool

    def logits(self, x: Array) -> Array:
        """Return unnormalised scores (N, K) of x (N, C, H, W), float32 in [0, 1]."""
        ...

    def loss_and_grad(
        self, x: Array, y: Array, loss: Loss = "ce", target: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Return logits (N, K), loss (N,) and its gradient at x (N, C, H, W).

        y, target: (N,) integers; `dlr_targeted` needs `target`.
        Raises NoGradient where `has_gradient` is False.
        """
        ...


class Model(Classifier, Protocol):
    """A classifier that knows where it comes from: what an evaluation takes, and writes into its receipt.

    sha256: of the file, or of a torch network's parts and weights. config: the model folder's, or None.
    notes: what was assumed of someone else's model.
    """

    name: str
    sha256: str
    gradient_sha256: str | None
    config: Any
    receipts: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """One image's answer. score: softmax probability in [0, 1]; top: best first."""

    label: str
    score: float
    top: tuple[tuple[str, float], ...]


def predict(classifier: Classifier, x: Array, top_k: int = 5) -> list[Prediction]:
    """Return one Prediction an image of x (N, C, H, W), with its `top_k` best classes."""
    return predictions(classifier.logits(x), classifier.classes, top_k)


def predictions(logits: Array, classes: tuple[str, ...], top_k: int = 5) -> list[Prediction]:
    """Return one Prediction a row of logits (N, K); `top` holds min(top_k, K) classes."""
    probs = _softmax(np.asarray(logits, dtype=np.float64))
    order = np.argsort(-probs, axis=1, kind="stable")[:, : max(top_k, 1)]
    tops = [tuple((classes[k], float(p[k])) for k in best) for p, best in zip(probs, order, strict=True)]
    return [Prediction(label=top[0][0], score=top[0][1], top=top) for top in tops]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs: np.ndarray = exp / exp.sum(axis=1, keepdims=True)
    return probs
