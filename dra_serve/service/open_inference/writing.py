"""Logits -> an answer's body, its tensors as JSON or raw, as was asked."""

import json
from typing import Any

import numpy as np

from dra_serve.service.open_inference.names import DATATYPE, FLOAT
from dra_serve.service.open_inference.reading import InferRequest


def write_answer(
    request: InferRequest, logits: np.ndarray, *, model: str, version: str
) -> tuple[bytes, int | None]:
    """Return the body, and the length of its JSON if tensors follow it."""
    values = {"logits": logits, "probabilities": _softmax(logits)}
    described, raw = [], []
    for name, is_binary in request.outputs.items():
        tensor = {"name": name, "datatype": DATATYPE, "shape": list(logits.shape)}
        if is_binary:
            raw.append(values[name].astype(FLOAT).tobytes())
            described.append({**tensor, "parameters": {"binary_data_size": len(raw[-1])}})
        else:
            described.append({**tensor, "data": values[name].ravel().tolist()})
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.id is not None:
        answer["id"] = request.id
    head = json.dumps(answer, allow_nan=False).encode()
    return head + b"".join(raw), len(head) if raw else None


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities
