"""The forward graph of a torch network."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from export.forward_graph import BatchFixedError, forward_graph
from training.networks.preact_resnet import PreActResNet

SHAPE = (3, 8, 8)


class Small(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 5))


class CountsItsBatch(Small):
    def forward(self, x):
        return super().forward(x).reshape(len(x), 5)


@pytest.mark.parametrize("n", [1, 3, 64])
def test_every_batch_size_gives_torchs_logits(n):
    network = Small()
    session = onnxruntime.InferenceSession(forward_graph(network, SHAPE).SerializeToString())
    x = torch.rand(n, *SHAPE)
    (logits,) = session.run(["logits"], {"x": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, network.eval()(x).numpy(), rtol=1e-5, atol=1e-6)


def test_network_is_left_as_it_was():
    network = Small().train().double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    forward_graph(network, SHAPE)
    assert network.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_network_that_fixes_the_batch_is_refused():
    with pytest.raises(BatchFixedError, match=r"the batch became 2"):
        forward_graph(CountsItsBatch(), SHAPE)


@pytest.mark.parametrize(("channels", "width"), [(3, 8), (1, 16)])
def test_space_to_depth_stem_is_one_convolution(channels, width):
    network = PreActResNet(in_channels=channels, classes=5, width=width, blocks=(1,))
    graph = forward_graph(network, (channels, 8, 12))
    assert not {"Transpose", "SpaceToDepth"} & {node.op_type for node in graph.graph.node}
    x = torch.rand(4, channels, 8, 12)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    with torch.no_grad():
        expected = network.eval()(x).numpy()
    np.testing.assert_allclose(session.run(["logits"], {"x": x.numpy()})[0], expected, rtol=1e-5, atol=1e-5)
