"""A small model in ONNX's text form whose last value a random matrix turns into logits."""

import numpy as np
import onnx
import torch
from onnx import numpy_helper


def model(
    body,
    *,
    shape="n,6",
    classes=4,
    opset=20,
    ir=9,
    head="x",
    x="x",
    logits="logits",
    type="float",
    **constants,
):
    """A model in ONNX's text form; `head` is the value a random matrix turns into logits."""
    text = (
        f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1]> '
        f"net ({type}[{shape}] {x}) => ({type}[{shape.split(',')[0]},{classes}] {logits})"
        f"{{ {body} flat = Flatten({head}) {logits} = MatMul(flat, matrix) }}"
    )
    built = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    features = constants.pop("features", 6)
    arrays = {"matrix": rng.standard_normal((features, classes)).astype(np.float32)}
    arrays |= {name: np.asarray(value) for name, value in constants.items()}
    built.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return built


def matrix_of(built):
    return torch.tensor(numpy_helper.to_array(built.graph.initializer[0])).double()
