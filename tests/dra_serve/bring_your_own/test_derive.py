"""Both graphs of a file: derived, cached, and what is said of them."""

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

import dra_serve
from dra_serve.bring_your_own import derive
from dra_serve.bring_your_own.declaration import Declaration
from dra_serve.gradient_graph.prepare import set_nodes
from tests.dra_serve.bring_your_own.theirs import Network, assert_is_the_original, export, images


def test_weights_beside_the_file_are_part_of_what_is_cached(tmp_path):
    network = Network()
    path = export(network, tmp_path / "split.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_is_the_original(dra_serve.load(path), network)
    weights = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes((np.frombuffer(weights, np.float32) * 1.25).tobytes())
    again = dra_serve.load(path)
    assert "gradient derived" in again.notes[-1]
    assert not np.allclose(again.logits(images()), network.float()(torch.from_numpy(images())).detach())


def test_weights_of_a_constant_beside_the_file_are_part_of_it_too(tmp_path):
    path = export(Network(), tmp_path / "constant.onnx")
    model = onnx.load(path)
    (weight,) = (t for t in model.graph.initializer if len(t.dims) == 4 and t.dims[1] == 3)
    constant = helper.make_node("Constant", [], [weight.name], value=weight)
    nodes = [constant, *model.graph.node]
    model.graph.initializer.remove(weight)
    set_nodes(model.graph, nodes)
    options = {"location": "weights.bin", "size_threshold": 0, "convert_attribute": True}
    onnx.save(model, path, save_as_external_data=True, **options)
    before = dra_serve.load(path)
    weights = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes((np.frombuffer(weights, np.float32) * 1.25).tobytes())
    assert not np.allclose(dra_serve.load(path).logits(images()), before.logits(images()))


def test_a_changed_rule_is_not_answered_from_the_cache(tmp_path, monkeypatch):
    """Found when a faster rule of the same version went on serving the graphs of the slower one."""
    path = export(Network(), tmp_path / "one.onnx")
    rules = tmp_path / "rules"
    (rules / "inner").mkdir(parents=True)
    (rules / "inner" / "conv.py").write_text("one")
    monkeypatch.setattr(derive, "_SOURCE", [rules])
    said = []
    for source in ("one", "one", "another"):
        (rules / "inner" / "conv.py").write_text(source)
        derive._source.cache_clear()  # as a new process has it
        said.append(derive.derive(path, Declaration()).cached)
    derive._source.cache_clear()
    assert said == [False, True, False]


def test_an_operator_that_stops_the_gradient_is_named(tmp_path):
    class Stepped(Network):
        def logits(self, x):
            return super().logits(x) * (1 + torch.floor(x.mean((1, 2, 3)) * 2)[:, None])

    network = Stepped()
    for again in range(2):
        model = dra_serve.load(export(network, tmp_path / "stepped.onnx"))
        assert "Floor passes no gradient: its derivative is zero, other ways remain" in model.notes, again
    assert_is_the_original(model, network)


def test_weights_that_no_converter_takes_are_folded_first(tmp_path):
    """A batch norm in training mode over the weights, as weight standardisation is exported at opset 13."""

    class Standardised(Network):
        def logits(self, x):
            conv = self.body[0]
            flat = conv.weight.reshape(1, len(conv.weight), -1)
            weight = nn.functional.batch_norm(flat, None, None, training=True).reshape_as(conv.weight)
            h = nn.functional.conv2d(x, weight, conv.bias, 2, 1)
            return self.body[1:](h).mean((2, 3))

    network = Standardised()
    loaded = dra_serve.load(export(network, tmp_path / "standardised.onnx", opset=13))
    assert loaded.has_gradient
    assert_is_the_original(loaded, network)
