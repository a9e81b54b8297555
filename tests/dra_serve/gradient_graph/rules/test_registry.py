"""No rule without a test of its own."""

from dra_serve.gradient_graph.rules import RULES
from tests.dra_serve.gradient_graph.rules import (
    test_arithmetic,
    test_convolution,
    test_elementwise,
    test_flat,
    test_grid_sample,
    test_indexing,
    test_matrices,
    test_normalisation,
    test_pooling,
    test_recurrent,
    test_reductions,
    test_resize,
    test_shapes,
)

TESTED = [
    test_arithmetic,
    test_convolution,
    test_elementwise,
    test_flat,
    test_grid_sample,
    test_indexing,
    test_matrices,
    test_normalisation,
    test_pooling,
    test_recurrent,
    test_reductions,
    test_resize,
    test_shapes,
]
ELSEWHERE = {"QuantizeLinear", "DequantizeLinear"}  # test_quantised.py has those


def test_every_rule_has_a_case():
    cases = [case for module in TESTED for case in module.CASES]
    used = {node.op_type for case in cases for node in case.model_and_network()[0].graph.node}
    assert set(RULES) - ELSEWHERE <= used
