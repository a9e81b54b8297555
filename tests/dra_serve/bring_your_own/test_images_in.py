"""The nodes before a file: layout, size, bytes, one channel."""

import numpy as np
import pytest
import torch

import dra_serve
from dra_serve.errors import BadRequest
from tests.dra_serve.bring_your_own.theirs import (
    SIZE,
    Network,
    assert_is_the_original,
    by_torch,
    export,
    images,
)


def test_height_and_width_left_open_are_fixed_by_the_input_size(tmp_path):
    network = Network()
    path = export(network, tmp_path / "open.onnx", open_size=True)
    with pytest.raises(BadRequest, match="input-size: got None; allowed: HxW"):
        dra_serve.load(path)
    model = dra_serve.load(path, input_size=(9, 15))
    assert model.input_shape == (3, 9, 15)
    assert_is_the_original(model, network)
    assert dra_serve.load(path).input_shape == (3, 9, 15)


def test_eight_bit_input_is_read_as_floats(tmp_path):
    network = Network(layout="nhwc", dtype=torch.uint8)
    path = export(network, tmp_path / "bytes.onnx", dtype=torch.uint8)
    with pytest.raises(BadRequest, match=r"range: got 1; allowed: 255: the file takes bytes"):
        dra_serve.load(path)
    model = dra_serve.load(path, range=255.0)
    assert any("8-bit input" in note for note in model.notes)
    assert_is_the_original(model, network, lambda x: 255 * x.permute(0, 2, 3, 1))
    whole = np.random.default_rng(2).integers(0, 256, (3, 3, *SIZE)).astype(np.uint8)
    theirs = network.float()(torch.from_numpy(whole.transpose(0, 2, 3, 1))).detach().numpy()
    np.testing.assert_allclose(model.logits(whole.astype(np.float32) / 255), theirs, rtol=1e-4, atol=1e-4)


def test_one_grey_channel(tmp_path):
    network = Network(channels=1)
    model = dra_serve.load(export(network, tmp_path / "grey.onnx"), mean=(0.5,), std=(0.25,))
    assert model.input_shape == (1, *SIZE)
    assert_is_the_original(model, network, lambda x: (x - 0.5) / 0.25)


@pytest.mark.parametrize("softmax", [False, True])
def test_half_precision_goes_in_and_comes_out_as_float32(tmp_path, softmax):
    """Found when such a file could not be loaded at all: its gradient graph mixed float16 and float32."""
    network = Network(dtype=torch.float16, softmax=softmax).half()
    model = dra_serve.load(export(network, tmp_path / "half.onnx", dtype=torch.float16, opset=17))
    assert ("the softmax at its end is taken off" in model.notes) == softmax
    assert "WARNING" not in model.notes[-1]
    x, y = images(), np.arange(4)
    z, _, grad = by_torch(network, x, y, "ce", y)
    ours = model.loss_and_grad(x, y)
    np.testing.assert_allclose(model.logits(x), z, atol=0.01)
    assert np.linalg.norm(ours[2] - grad) < 0.01 * np.linalg.norm(grad)
