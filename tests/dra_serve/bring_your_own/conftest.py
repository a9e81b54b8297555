"""Someone else's file."""

import pytest

from tests.dra_serve.bring_your_own.theirs import Network, export


@pytest.fixture
def foreign(tmp_path):
    """An NHWC, BGR, 0-255, mean/std file that ends in a softmax, batch fixed at 1, and its network."""
    network = Network(layout="nhwc", softmax=True)
    return export(network, tmp_path / "theirs.onnx", batch=1), network
