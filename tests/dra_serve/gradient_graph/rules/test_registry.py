"""No rule without a test of its own."""

from importlib import import_module
from pathlib import Path

from dra_serve.gradient_graph.rules import RULES
from tests.dra_serve.gradient_graph.rules.case import Case

HERE = Path(__file__)
MODULES = [
    import_module(f"{__package__}.{path.stem}")
    for path in sorted(HERE.parent.glob("test_*.py"))
    if path != HERE
]
ELSEWHERE = {"QuantizeLinear", "DequantizeLinear"}  # test_quantised.py has those


def test_every_rule_has_a_case():
    cases = [case for module in MODULES for case in getattr(module, "CASES", []) if isinstance(case, Case)]
    used = {node.op_type for case in cases for node in case.model_and_network()[0].graph.node}
    assert set(RULES) - ELSEWHERE <= used
