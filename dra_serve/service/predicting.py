"""Predictions on pixels: the one home of what HTTP, the demo and the command line answer."""

from collections.abc import Sequence

import numpy as np

from dra_serve.classifier import Prediction
from dra_serve.images import to_float
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.answers import TOP_K


def predict_pixels(
    model: OnnxClassifier, pixels: Sequence[np.ndarray], *, top_k: int = TOP_K
) -> list[Prediction]:
    """Return one Prediction an image. pixels: uint8 (H, W, C) each, in the model's own size."""
    logits = model.logits(to_float(np.stack(pixels)))
    return [to_prediction(row, model.classes, top_k) for row in logits]


def to_prediction(logits: np.ndarray, classes: Sequence[str], top_k: int = TOP_K) -> Prediction:
    """Return the answer in one row of logits (K,): softmax scores, best first, ties in class order."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probs = shifted / shifted.sum()
    best = np.argsort(-logits, kind="stable")[:top_k]
    top = tuple((classes[k], float(probs[k])) for k in best)
    return Prediction(label=top[0][0], score=top[0][1], top=top)
