"""A rule's test: a small model in ONNX's text form, and the same function in torch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import torch
from onnx import numpy_helper

CLASSES = 5
IMAGE = (4, 9, 8)  # of one example


@dataclass
class Case:
    """`body` computes `y` from `x` and constants; `torch` does the same from x and the constants, float64."""

    name: str
    body: str
    shape: tuple[int, ...]  # of one example
    torch: Callable[..., torch.Tensor]
    constants: dict[str, tuple[int, ...] | list | np.ndarray] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    opset: int = 20

    def arrays(self) -> dict[str, np.ndarray]:
        """Tuples are shapes of random weights; lists are int64 arrays."""
        rng = np.random.default_rng(7)
        return {
            name: rng.uniform(0.5, 1.5, value).astype(np.float32)
            * rng.choice([-1, 1], value).astype(np.float32)
            if isinstance(value, tuple)
            else np.asarray(value)
            for name, value in self.constants.items()
        }

    def model_and_network(self):
        """Return the ONNX model x -> logits and the same function in torch; a random matrix ends both."""
        constants = self.arrays()
        weights = {
            name: torch.from_numpy(a).double() if a.dtype == np.float32 else torch.from_numpy(a)
            for name, a in constants.items()
        }
        x = torch.from_numpy(np.random.default_rng(6).uniform(self.low, self.high, (8, *self.shape)))
        y = self.torch(x, **weights).flatten(1).numpy()
        matrix = np.random.default_rng(8).standard_normal((y.shape[1], CLASSES))
        matrix = (matrix / (y @ matrix).std()).astype(np.float32)  # logits of size 1: no softmax saturates
        sizes = ",".join(map(str, self.shape))
        model = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["" : {self.opset}]> '
            f"net (float[n,{sizes}] x) => (float[n,{CLASSES}] logits)"
            "{" + self.body + " flat = Flatten(y) logits = MatMul(flat, matrix) }"
        )
        constants["matrix"] = matrix
        model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
        return model, lambda x: self.torch(x, **weights).flatten(1) @ torch.from_numpy(matrix).double()


def unary(operator: str, function: Callable[..., torch.Tensor], attributes: str = "", **limits) -> Case:
    return Case(f"{operator}{attributes}", f"y = {operator}{attributes}(x)", (2, 3, 4), function, **limits)
