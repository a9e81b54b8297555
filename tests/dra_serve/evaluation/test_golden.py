"""The bundled pair's robust accuracies are those of the golden file: no change to an attack goes unseen."""

import json

import pytest

from tests.golden.robust_accuracy import FILE, PAIR, measure

ROUNDING = 1
"""Images: what another processor's float32 kernels may decide otherwise. On one machine it is 0."""


@pytest.mark.parametrize("name", PAIR)
def test_robust_accuracies_are_golden(name: str) -> None:
    golden, now = json.loads(FILE.read_text(encoding="utf-8"))[name], measure(name)
    assert golden["model_sha256"] == now["model_sha256"], "the bundled pair is another: make golden"
    assert golden["n"] == now["n"]
    for suite, counts in golden["robust"].items():
        assert list(counts) == list(now["robust"][suite])
        for kind, count in counts.items():
            assert abs(now["robust"][suite][kind] - count) <= ROUNDING, (suite, kind, golden, now)
