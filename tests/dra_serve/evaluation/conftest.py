"""A tiny model and images of which it gets most right, as arrays and as files."""

from pathlib import Path

import numpy as np
import pytest

from dra_serve.evaluation import LabelledImages
from dra_serve.loading import load
from dra_serve.onnx_classifier import OnnxClassifier

N = 40
WRONG = 5  # of them, labelled otherwise than the model sees them


@pytest.fixture
def folder(tiny_onnx_folder) -> Path:
    return tiny_onnx_folder(name="tiny")


@pytest.fixture
def model(folder: Path) -> OnnxClassifier:
    return load(folder)


@pytest.fixture
def images(model: OnnxClassifier) -> LabelledImages:
    x = np.random.default_rng(0).integers(0, 256, (N, *model.input_shape), dtype=np.uint8)
    y = model.logits(x.astype(np.float32) / 255).argmax(1)
    y[:WRONG] = (y[:WRONG] + 1) % len(model.classes)
    return LabelledImages.of(x, y, name="toy")


@pytest.fixture
def data(images: LabelledImages, tmp_path: Path) -> Path:
    np.savez(tmp_path / "toy.npz", x=images.x[:], y=images.y)
    return tmp_path / "toy.npz"
