"""The nodes after a file: softmax, probabilities, several outputs."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import dra_serve
from dra_serve.errors import BadRequest
from tests.dra_serve.bring_your_own.theirs import Network, assert_is_the_original, by_torch, export, images


@pytest.mark.parametrize("opset", [9, 12, 17])
def test_a_softmax_over_channels_before_the_end_is_found(tmp_path, opset):
    """(N, K, 1, 1), as SqueezeNet has it."""
    network = Network(softmax=True, squeeze=False)
    model = dra_serve.load(export(network, tmp_path / "maps.onnx", opset=opset))
    assert "the softmax at its end is taken off" in model.notes
    assert_is_the_original(model, network)


def test_probabilities_without_a_softmax_are_turned_into_logits(tmp_path):
    class Divided(Network):
        def forward(self, x):
            e = self.logits(x).exp()
            return e / e.sum(1, keepdim=True)

    network = Divided()
    model = dra_serve.load(export(network, tmp_path / "divided.onnx"))
    assert "its outputs are probabilities: their logarithm is taken" in model.notes
    x, y = images(), np.arange(4)
    z, value, grad = by_torch(network, x, y, "margin", y)
    ours = model.loss_and_grad(x, y, "margin")
    np.testing.assert_allclose(np.diff(ours[0]), np.diff(z), rtol=1e-4, atol=1e-5)  # up to a shift
    np.testing.assert_allclose(ours[1], value, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(ours[2] - grad) < 1e-5 * np.linalg.norm(grad)


def test_probabilities_in_half_precision_have_a_finite_logarithm(tmp_path):
    """float16 knows nothing below 6e-8, so the floor of the logarithm is put in float32."""

    class Sure(Network):
        def forward(self, x):
            e = (60 * self.logits(x)).float()
            return (e - e.logsumexp(1, keepdim=True)).exp().half()

    network = Sure(dtype=torch.float16).half()
    model = dra_serve.load(export(network, tmp_path / "sure.onnx", dtype=torch.float16, opset=17))
    assert "its outputs are probabilities: their logarithm is taken" in model.notes
    logits, _, grad = model.loss_and_grad(images(), np.arange(4))
    assert (logits < -60).any()
    assert np.isfinite(logits).all()
    assert np.isfinite(grad).all()


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("Relu", {}), ("ArgMax", {"axis": 1, "keepdims": 0}), ("Cast", {"to": TensorProto.INT64})],
)
def test_feature_maps_labels_and_integers_are_no_logits(tmp_path, operator, attributes):
    network = Network()
    model = onnx.load(export(network, tmp_path / "two.onnx"))
    source = model.graph.node[-1].output[0] if operator != "Relu" else model.graph.node[0].output[0]
    model.graph.node.append(helper.make_node(operator, [source], ["other"], **attributes))
    kind = TensorProto.FLOAT if operator == "Relu" else TensorProto.INT64
    model.graph.output.insert(0, helper.make_tensor_value_info("other", kind, None))
    onnx.save(model, tmp_path / "two.onnx")
    loaded = dra_serve.load(tmp_path / "two.onnx")
    assert "of its 2 outputs scores is taken" in loaded.notes
    assert_is_the_original(loaded, network)


def test_a_file_of_feature_maps_alone_is_refused(tmp_path):
    class Maps(Network):
        def forward(self, x):
            return self.body(x)

    with pytest.raises(BadRequest, match="model output shape"):
        dra_serve.load(export(Maps(), tmp_path / "maps.onnx"))


def test_of_two_outputs_the_first_that_may_be_logits_is_taken(tmp_path):
    network = Network()
    model = onnx.load(export(network, tmp_path / "two.onnx"))
    model.graph.node.append(helper.make_node("ReduceMean", ["scores"], ["mean"], keepdims=0))
    model.graph.output.insert(0, helper.make_tensor_value_info("mean", TensorProto.FLOAT, []))
    onnx.save(model, tmp_path / "two.onnx")
    loaded = dra_serve.load(tmp_path / "two.onnx")
    assert "of its 2 outputs scores is taken" in loaded.notes
    assert_is_the_original(loaded, network)
