"""An int8 file as ONNX Runtime's own quantiser writes it: attacked, and the estimate is said."""

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

import dra_serve
from dra_serve.attacks import pgd
from dra_serve.evaluation.diagnosis import warnings_for

SHAPE, CLASSES = (3, 12, 12), 5


class Images(CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(0)
        self.batches = iter([{"x": rng.random((8, *SHAPE), np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the paths of a float network and of the same one quantised."""
    folder = tmp_path_factory.mktemp("quantised")
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(144, CLASSES)),
    )
    plain, quantised = folder / "plain.onnx", folder / "int8.onnx"
    names = {"input_names": ["x"], "output_names": ["logits"], "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(
        network.eval(), (torch.rand(2, *SHAPE),), plain, dynamo=False, opset_version=17, **names
    )
    quantize_static(plain, quantised, Images(), quant_format=QuantFormat.QDQ, per_channel=True,
                    weight_type=QuantType.QInt8)  # fmt: skip
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(quantised).graph.node}
    return plain, quantised


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRA_SERVE_CACHE", str(tmp_path / "cache"))


def test_the_estimate_is_close_to_the_float_networks_gradient_and_is_said(files):
    plain, quantised = map(dra_serve.load, files)
    assert quantised.has_gradient
    assert quantised.straight_through == ("QuantizeLinear",)
    assert plain.straight_through == ()
    assert "an estimate: QuantizeLinear is passed straight through" in quantised.notes[-1]
    x = np.random.default_rng(3).random((8, *SHAPE), np.float32)
    y = plain.logits(x).argmax(1)
    ours, float_ones = (model.loss_and_grad(x, y)[2].reshape(8, -1) for model in (quantised, plain))
    cosine = (ours * float_ones).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(float_ones, axis=1)
    assert cosine.min() > 0.9


def test_pgd_fools_it_as_it_fools_the_float_network(files):
    x = np.random.default_rng(4).random((32, *SHAPE), np.float32)
    fooled = []
    for model in map(dra_serve.load, files):
        y = model.logits(x).argmax(1)
        result = pgd(model, x, y, norm="linf", eps=8 / 255, steps=10)
        fooled.append((model.logits(result.x_adv).argmax(1) != y).mean())
    assert fooled[0] > 0.3
    assert abs(fooled[1] - fooled[0]) < 0.15


def test_an_evaluation_is_warned(files):
    model = dra_serve.load(files[1])
    x = np.random.default_rng(5).random((16, *SHAPE), np.float32)
    told = warnings_for(model, x, model.logits(x).argmax(1))
    assert any(text.startswith("straight-through: QuantizeLinear") for text in told)
    assert not any(text.startswith("graphs-disagree") for text in told)
