"""Attacks check once: they go round a classifier's own checks, and never round its own answers."""

import numpy as np
import pytest

from dra_serve.attacks import ATTACKS
from dra_serve.checked import trusting
from dra_serve.model_folder import read_folder
from dra_serve.onnx_classifier import OnnxClassifier


@pytest.fixture
def model(tiny_onnx_folder):
    return read_folder(tiny_onnx_folder()).classifier()


def images(model, n=6):
    return np.random.default_rng(0).random((n, *model.input_shape), dtype=np.float32)


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "dlr_targeted"])
def test_the_answers_are_the_same(model, loss):
    x, y, target, quick = images(model), np.arange(6) % 4, (np.arange(6) + 1) % 4, trusting(model)
    assert quick is not model
    np.testing.assert_array_equal(quick.logits(x), model.logits(x))
    answers = (m.loss_and_grad(x, y, loss, target) for m in (quick, model))
    for own, checked in zip(*answers, strict=True):
        np.testing.assert_array_equal(own, checked)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_answer_of_ones_own_is_what_the_attack_meets(model, attack, monkeypatch):
    """A subclass that defends itself, or a call put on the object, must not be passed by."""
    asked = []

    class Defended(OnnxClassifier):
        def logits(self, x):
            asked.append("logits")
            return super().logits(x)

        def loss_and_grad(self, x, y, loss="ce", target=None):
            asked.append("gradient")
            return super().loss_and_grad(x, y, loss, target)

    x = images(model)
    y = model.logits(x).argmax(axis=1)
    model.__class__ = Defended
    assert trusting(model) is model
    ATTACKS[attack](model, x, y, eps=0.01)
    assert len(asked) > 2
    model.__class__ = OnnxClassifier
    plain = model.logits
    monkeypatch.setattr(model, "logits", lambda x: plain(x))
    assert trusting(model) is model


def test_a_model_that_checks_in_its_own_way_comes_back(model):
    class Own:
        logits, loss_and_grad = model.logits, model.loss_and_grad

    own = Own()
    assert trusting(own) is own
