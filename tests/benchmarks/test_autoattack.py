"""The benchmark's own side: what it counts is what `evaluate` says."""

import time
from importlib.util import find_spec

import numpy as np
import pytest
from typer.testing import CliRunner

import dra_serve
from benchmarks.autoattack import HOW, STAGES, Side, app, differences, run_ours
from dra_serve.gradient_graph import differentiate
from dra_serve.onnx_classifier import OnnxClassifier

SHAPE = (3, 8, 8)


@pytest.fixture
def model(tiny_onnx):
    forward = tiny_onnx(classes=5, input_shape=SHAPE)
    gradient = differentiate(forward).SerializeToString()
    return OnnxClassifier(
        forward.SerializeToString(), gradient, classes=tuple("abcde"), input_shape=SHAPE, name="tiny"
    )


def images(model, n):
    x = (0.5 + 0.3 * np.random.default_rng(0).uniform(-1, 1, (n, *SHAPE))).astype(np.float32)
    y = model.logits(x).argmax(axis=1)
    y[0] = (y[0] + 1) % 5  # one the model gets wrong
    return x, y


def test_counts_what_evaluate_counts(model):
    x, y = images(model, 12)
    side = Side(time.process_time)
    for rows in np.array_split(np.arange(12), 2):  # two rounds: an image keeps its number
        run_ours(model, 2, x[rows], y[rows], "linf", 0.01, side)
    outcomes = dra_serve.evaluate(model, x, y, suite="standard", eps=0.01)
    assert 0 < sum(side.robust) < 11  # or the test would say little
    np.testing.assert_array_equal(side.robust, outcomes.robust)
    assert side.left == {
        "clean": 11,
        **{stage: int(after.sum()) for stage, after in zip(STAGES, outcomes.after, strict=True)},
    }


def test_differences_say_who_fooled_whom_and_by_how_much(model):
    import torch

    x, y = images(model, 12)
    ours, theirs = Side(time.process_time), Side(time.process_time)
    run_ours(model, 2, x, y, "linf", 0.01, ours)
    run_ours(model, 1, x, y, "linf", 0.003, theirs)
    network = lambda images: torch.from_numpy(model.logits(images.numpy()))  # noqa: E731
    found = differences(model, network, x, y, "linf", ours, theirs)
    assert [entry["image"] for entry in found] == np.flatnonzero(
        ~np.array(ours.robust) & theirs.robust
    ).tolist()
    assert found
    for entry in found:
        assert entry["fooled_by"] == "ours"
        assert entry["lead_on_onnx"] == entry["lead_on_torch"] > 0
        assert 0.003 < entry["size"] <= 0.01 + 1e-6


@pytest.mark.skipif(find_spec("autoattack") is not None, reason="the original is at hand")
def test_says_where_the_original_is_to_be_had():
    result = CliRunner().invoke(app, ["-n", "2"])
    assert result.exit_code == 2
    assert HOW in result.output
