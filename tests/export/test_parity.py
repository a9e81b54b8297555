"""The comparison with torch finds what is wrong, and only that."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from dra_serve.gradient_graph import differentiate
from dra_serve.onnx_classifier import OnnxClassifier
from export.forward_graph import forward_graph
from export.parity import ATTACKED, Finding, compare, images, is_smooth
from export.timing import BATCHES, time_both

SHAPE, CLASSES = (3, 8, 8), ("cat", "dog", "emu", "fox", "gnu")


def network(activation):
    torch.manual_seed(1)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), activation, nn.Conv2d(8, 8, 3, 2, 1), activation)
    return nn.Sequential(body, nn.Flatten(), nn.Linear(128, len(CLASSES)))


@pytest.fixture(scope="module", params=[nn.SiLU(), nn.ReLU()], ids=["smooth", "kinked"])
def exported(request):
    """A network with its two graphs."""
    net = network(request.param)
    forward = forward_graph(net, SHAPE)
    return net, forward, differentiate(forward)


def classifier(forward, gradient):
    """Both graphs behind the Classifier protocol."""
    data = (graph.SerializeToString() for graph in (forward, gradient))
    return OnnxClassifier(*data, classes=CLASSES, input_shape=SHAPE)


def broken(net, forward, gradient):
    """The names of the findings that do not pass."""
    findings = compare(net, classifier(forward, gradient), smooth=is_smooth(forward))
    return [finding.what for finding in findings if not finding.passed]


def altered(model, change):
    """A copy of the graph with `change` done to it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy.graph)
    return copy


def test_graphs_of_the_network_itself_pass(exported):
    assert broken(*exported) == []


def test_weight_off_by_a_thousandth_is_found(exported):
    def nudge(graph):
        weight = max(graph.initializer, key=lambda tensor: len(tensor.raw_data))
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name)
        )

    net, forward, gradient = exported
    found = broken(net, altered(forward, nudge), altered(gradient, nudge))
    assert "logits" in found
    assert "logits of the two files" not in found


def test_gradient_of_the_wrong_sign_is_found_for_every_loss(exported):
    def negate(graph):
        (last,) = (node for node in graph.node if "grad" in node.output)
        last.output[0] = "unsigned"
        graph.node.append(helper.make_node("Neg", ["unsigned"], ["grad"]))

    net, forward, gradient = exported
    found = broken(net, forward, altered(gradient, negate))
    for loss in ("ce", "margin", "dlr", "dlr_targeted"):
        assert any(what.startswith(f"{loss} gradient") for what in found)
        assert f"{loss} value" not in found


def test_gradient_with_a_few_wrong_pixels_is_found(exported):
    def mask(graph):
        (last,) = (node for node in graph.node if "grad" in node.output)
        last.output[0] = "whole"
        pixels = np.ones(SHAPE, np.float32)
        pixels[0, 3, 3] = -1
        graph.initializer.append(numpy_helper.from_array(pixels, "pixels"))
        graph.node.append(helper.make_node("Mul", ["whole", "pixels"], ["grad"]))

    net, forward, gradient = exported
    assert "ce gradient" in " ".join(broken(net, forward, altered(gradient, mask)))


def test_nan_never_passes():
    assert not Finding("logits", float("nan"), 1e-5).passed


def test_images_are_images_and_differ():
    x = images(ATTACKED, (3, 10, 6))
    assert x.shape == (ATTACKED, 3, 10, 6)
    assert x.dtype == np.float32
    assert 0 <= x.min() < 0.05 < 0.95 < x.max() <= 1
    assert len({image.tobytes() for image in x}) == ATTACKED
    np.testing.assert_array_equal(x, images(ATTACKED, (3, 10, 6)))


def test_timing_measures_both_at_each_batch_and_restores_torchs_threads(exported):
    net, forward, gradient = exported
    model = classifier(forward, gradient)
    before = torch.get_num_threads()
    timings = time_both(net, model, rounds=3)
    assert [(t.what, t.n) for t in timings] == [(what, n) for n in BATCHES for what in ("logits", "gradient")]
    assert all(0 < t.low <= t.ratio <= t.high and t.milliseconds > 0 for t in timings)
    assert torch.get_num_threads() == before
