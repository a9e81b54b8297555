"""Small real models for every test that needs one: built with onnx, run by ONNX Runtime, no training."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from dra_serve.gradient_graph import differentiate
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import write_config, write_receipts
from dra_serve.sums import write_sums

# "repeatable": the same examples in every run, so that a red run can be run again; "search" looks for new
# ones, many. No deadline: two shared cores make one meaningless.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("search", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

CLASSES = ("cat", "dog", "ship", "truck")


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or leaves anything in the user's cache."""
    monkeypatch.setenv("DRA_SERVE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def linear_onnx() -> Callable[..., onnx.ModelProto]:
    """Return make(weights (K, D), bias (K,), input_shape, batch="n"): logits = W flat(x) + b."""
    return _linear_onnx


@pytest.fixture(scope="session")
def tiny_onnx() -> Callable[..., onnx.ModelProto]:
    """Return make(classes=4, input_shape=(3, 8, 8), seed=0): a smooth random network, x -> logits."""
    return _tiny_onnx


@pytest.fixture
def tiny_onnx_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return make(name="tiny", classes=CLASSES, input_shape=(3, 8, 8), seed=0, gradient=True, **config).

    Each call writes a complete model folder under tmp_path and returns its path. config: fields of
    ModelConfig to replace. Another seed is another network.
    """

    def make(
        name: str = "tiny",
        *,
        classes: tuple[str, ...] = CLASSES,
        input_shape: tuple[int, int, int] = (3, 8, 8),
        seed: int = 0,
        gradient: bool = True,
        **config: object,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        forward = _tiny_onnx(len(classes), input_shape, seed)
        onnx.save(forward, folder / "model.onnx")
        if gradient:
            onnx.save(differentiate(forward), folder / "model.gradient.onnx")
        write_config(folder, _config(name, classes, input_shape, config))
        write_receipts(folder, [])
        write_sums(folder)
        return folder

    return make


def _config(
    name: str, classes: tuple[str, ...], input_shape: tuple[int, int, int], replaced: dict[str, object]
) -> ModelConfig:
    channels = input_shape[0]
    fields = {
        "name": name,
        "classes": classes,
        "input_shape": input_shape,
        "normalisation": {"mean": [0.5] * channels, "std": [0.25] * channels},
        "network": {"name": "two_layers", "arguments": {"width": 8}},
        "data": {"name": "noise", "sha256": "0" * 64, "images": 1},
        "threat": {"norm": "linf", "eps": "8/255"},
    }
    return ModelConfig.model_validate(fields | replaced)


def _linear_onnx(
    weights: np.ndarray, bias: np.ndarray, input_shape: tuple[int, int, int], batch: int | str = "n"
) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "W", "b"], ["logits"], transB=1),
    ]
    return _model(nodes, {"W": weights, "b": bias}, input_shape, len(bias), batch)


def _tiny_onnx(
    classes: int = len(CLASSES), input_shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0
) -> onnx.ModelProto:
    rng, pixels, width = np.random.default_rng(seed), int(np.prod(input_shape)), 8
    inner = rng.standard_normal((width, pixels)) / np.sqrt(pixels / 12)
    constants = {
        "W1": inner,
        "b1": -inner.sum(axis=1) / 2,  # the mean image lies in the middle of the tanh
        "W2": 2 * rng.standard_normal((classes, width)),
        "b2": 0.1 * rng.standard_normal(classes),
    }
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "W1", "b1"], ["inner"], transB=1),
        helper.make_node("Tanh", ["inner"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "W2", "b2"], ["logits"], transB=1),
    ]
    return _model(nodes, constants, input_shape, classes, "n")


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    input_shape: tuple[int, int, int],
    classes: int,
    batch: int | str,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *input_shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model
