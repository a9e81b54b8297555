"""Someone else's ONNX file is attacked white-box, without torch."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import dra_serve
from dra_serve.errors import BadRequest
from dra_serve.onnx_classifier import OnnxClassifier
from tests.dra_serve.bring_your_own.theirs import (
    FOREIGN,
    SIZE,
    Network,
    assert_is_the_original,
    export,
    foreign_input,
    images,
)


def test_a_foreign_file_is_attacked_white_box(foreign):
    path, network = foreign
    model = dra_serve.load(path, **FOREIGN)
    assert model.input_shape == (3, *SIZE)
    assert model.classes == tuple("01234")
    assert_is_the_original(model, network, foreign_input)
    x = images()
    result = dra_serve.attack(model, x, model.logits(x).argmax(axis=1), eps=0.2, steps=10)
    assert result.success.any()
    said = "; ".join(model.notes)
    assert "takes NHWC, BGR in [0, 255], mean 103.9 116.8 123.7, std 57.4 57.1 58.4" in said
    assert "declared, kept in theirs.onnx.config.json" in said
    assert "the softmax at its end is taken off" in said
    assert "finite differences agree with its gradient" in said


def test_without_torch(foreign):
    """A clean process: no torch is loaded while the file is declared, derived and attacked."""
    path, _ = foreign
    code = (
        "import sys, dra_serve, numpy as np\n"
        f"m = dra_serve.load({str(path)!r}, **{FOREIGN!r})\n"
        "x = np.random.default_rng(0).random((2, *m.input_shape), np.float32)\n"
        "dra_serve.attack(m, x, np.zeros(2, int), steps=2)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_graph_itself_is_used_where_nothing_has_to_be_done(tmp_path):
    path = export(Network(), tmp_path / "plain.onnx")
    direct = OnnxClassifier(path, None, classes=tuple("01234"), input_shape=(3, *SIZE))
    assert dra_serve.load(path).sha256 == direct.sha256


def test_a_file_that_is_no_image_classifier(tmp_path):
    def saved(shape, kind=TensorProto.FLOAT):
        graph = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
        )
        opsets = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "odd.onnx")
        return Path(tmp_path / "odd.onnx")

    with pytest.raises(BadRequest, match="model input shape"):
        dra_serve.load(saved([1, 16]))
    with pytest.raises(BadRequest, match="model input type"):
        dra_serve.load(saved([1, 3, 4, 4], TensorProto.INT64))
    with pytest.raises(BadRequest, match="UINT8 into"):
        dra_serve.load(saved([1, 3, 4, 4], TensorProto.UINT8))
