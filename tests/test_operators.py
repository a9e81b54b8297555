"""What `python -m docs.operators` says of ONNX's operators is what the rules do."""

import pytest
from onnx import defs

from docs.operators import KINDS, main, operators
from dra_serve.gradient_graph.rules import RULES

OWN, FLAT, ESTIMATE, DEFINED, WRITTEN_OUT, NO_GRADIENT, REFUSED = KINDS


def test_every_standard_operator_is_listed_once(capsys):
    listed = [name for names in operators().values() for name in names]
    standard = {s.name for s in defs.get_all_schemas() if s.domain == "" and not s.deprecated}
    assert len(listed) == len(set(listed))
    assert set(listed) == standard
    main()
    said = capsys.readouterr().out
    assert all(f" {name}" in said for name in standard)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Conv", OWN), ("GRU", OWN), ("Floor", FLAT), ("QuantizeLinear", ESTIMATE), ("Attention", DEFINED),
     ("Loop", WRITTEN_OUT), ("ArgMax", NO_GRADIENT), ("Shape", NO_GRADIENT), ("ConstantOfShape", NO_GRADIENT),
     ("MatMulInteger", REFUSED), ("SplitToSequence", REFUSED), ("DeformConv", REFUSED)],
)  # fmt: skip
def test_kind(name, kind):
    assert name in operators()[kind]


def test_every_rule_is_of_a_kind_that_has_rules():
    found = operators()
    assert set(RULES) <= {*found[OWN], *found[FLAT], *found[ESTIMATE]}
