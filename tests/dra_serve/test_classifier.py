"""Logits become predictions."""

import numpy as np
import pytest

from dra_serve.classifier import Prediction, predict, predictions
from dra_serve.model_folder import read_folder


def test_best_first_with_softmax_scores():
    logits = np.log(np.array([[0.1, 0.6, 0.3]], np.float32))
    (answer,) = predictions(logits, ("cat", "dog", "ship"), top_k=2)
    assert answer.label == "dog"
    assert answer.score == pytest.approx(0.6)
    assert [label for label, _ in answer.top] == ["dog", "ship"]
    assert answer.top[1][1] == pytest.approx(0.3)


def test_huge_logits_do_not_overflow():
    (answer,) = predictions(np.array([[1e4, 0, -1e4]], np.float32), ("a", "b", "c"))
    assert answer == Prediction("a", 1.0, (("a", 1.0), ("b", 0.0), ("c", 0.0)))


def test_at_most_as_many_as_there_are_classes():
    (answer,) = predictions(np.zeros((1, 3)), ("a", "b", "c"), top_k=10)
    assert [label for label, _ in answer.top] == ["a", "b", "c"]  # ties in the order of the classes
    assert sum(score for _, score in answer.top) == pytest.approx(1)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_predict_answers_each_image(n, tiny_onnx_folder):
    model = read_folder(tiny_onnx_folder()).classifier()
    x = np.random.default_rng(0).random((n, 3, 8, 8), dtype=np.float32)
    answers = predict(model, x, top_k=1)
    assert [answer.label for answer in answers] == [model.classes[k] for k in model.logits(x).argmax(axis=1)]
