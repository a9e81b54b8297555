"""Catastrophic overfitting: what the run keeps and says when robust accuracy falls."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from dra_serve.model_config import ModelConfig
from training import loop
from training.fast_path import FastPath


@pytest.fixture
def judged(monkeypatch, recipe, data, tmp_path):
    """Return run(robust accuracies, one an epoch): the model's weights, each epoch's, and its facts.

    The watch is fed because a collapse cannot be had on demand; everything it decides is real.
    """

    def run(*robust):
        epochs, answers = [], iter(robust)

        def watch(state, _held):
            average = state.average.module.state_dict()
            epochs.append({key: value.clone() for key, value in average.items()})
            return 0.9, next(answers)

        monkeypatch.setattr(loop, "watch", watch)
        several = replace(recipe, epochs=len(robust))
        folder = loop.train(several, data, tmp_path / "run", path=FastPath())
        config = ModelConfig.model_validate_json((folder / "config.json").read_bytes())
        return load_file(folder / "model.safetensors"), epochs, config.training

    return run


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_after_a_collapse_the_best_weights_are_the_model(judged, capsys):
    model, epochs, facts = judged(0.40, 0.45, 0.20)
    assert same(model, epochs[1])
    assert not same(model, epochs[2])
    assert facts["collapsed"] is True
    printed = " ".join(capsys.readouterr().err.split())
    assert "CATASTROPHIC OVERFITTING" in printed
    assert "fell from 45.0% to 20.0%" in printed


def test_a_small_fall_is_noise(judged, capsys):
    model, epochs, facts = judged(0.40, 0.45, 0.38)
    assert same(model, epochs[2])
    assert facts["collapsed"] is False
    assert "CATASTROPHIC" not in capsys.readouterr().err


def test_a_recovered_run_ends_with_its_last_weights(judged, capsys):
    model, epochs, facts = judged(0.40, 0.10, 0.44)
    assert same(model, epochs[2])
    assert facts["collapsed"] is False
    assert "CATASTROPHIC" in capsys.readouterr().err


def test_a_slow_decline_is_a_collapse_too(judged):
    model, epochs, facts = judged(0.45, 0.40, 0.36, 0.33)
    assert same(model, epochs[0])
    assert facts["collapsed"] is True


def test_watch_measures_the_average_and_leaves_the_run_alone(make_run):
    run = make_run()
    run.step()
    modes = [m.training for m in run.average.module.modules()]
    before = {key: value.clone() for key, value in run.average.state_dict().items()}
    clean, robust = loop.watch(run, torch.arange(48, 64))
    assert 0 <= robust <= clean <= 1
    assert [m.training for m in run.average.module.modules()] == modes
    assert same(before, run.average.state_dict())
