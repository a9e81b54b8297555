"""What every rule is held to."""

import numpy as np
import pytest
import torch

from dra_serve.gradient_graph import differentiate
from tests.dra_serve.gradient_graph.rules.case import CLASSES


@pytest.fixture
def assert_exact(question, errors_by_row):
    """Assert that a case's gradient graph agrees with torch's autograd in float64, and that with central
    differences: torch and a rule could share a mistake."""

    def check(case):
        model, network = case.model_and_network()
        asked = question.draw((8, *case.shape), CLASSES, low=case.low, high=case.high)
        logits, value, grad = asked.ask_onnx(differentiate(model))
        torch_logits, torch_value, torch_grad = asked.ask_torch(network)

        assert errors_by_row(logits, torch_logits).max() < 1e-5
        np.testing.assert_allclose(value, torch_value, rtol=1e-4, atol=1e-4)
        assert np.abs(torch_grad).max() > 1e-3
        assert errors_by_row(grad, torch_grad).max() < 2e-5

        direction = torch.from_numpy(np.random.default_rng(9).standard_normal(asked.x.shape))
        slopes = asked.ask_differences(network, direction)  # summed: some cases mix examples
        np.testing.assert_allclose((grad * direction.numpy()).sum(), slopes.sum(), rtol=1e-4, atol=1e-4)

    return check
