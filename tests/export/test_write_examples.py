"""The examples that ship: one a class, each answered right by both bundled models before any attack."""

import re
from pathlib import Path

import numpy as np
import pytest

import dra_serve
from dra_serve.errors import UserError
from dra_serve.images import decode, to_float
from export.write_examples import answered_right, pick

FOLDER = Path(__file__).parents[2] / "dra_serve" / "bundled" / "examples"
NAME = re.compile(r"cifar10-test-(\d{4})-(\w+)\.png")


def shipped() -> list[tuple[str, np.ndarray]]:
    """Return class and pixels of each shipped file; a file of another name fails."""
    return [(NAME.fullmatch(path.name)[2], decode(path.read_bytes())) for path in sorted(FOLDER.iterdir())]


@pytest.mark.parametrize("source", ["bundled:dra", "bundled:at"])
def test_both_bundled_models_answer_every_example_right(source):
    model = dra_serve.load(source)
    names, pixels = zip(*shipped(), strict=True)
    answers = model.logits(to_float(np.stack(pixels))).argmax(axis=1)
    assert [model.classes[answer] for answer in answers] == list(names)


def test_there_is_one_example_a_class():
    assert sorted(name for name, _ in shipped()) == sorted(dra_serve.load("bundled:dra").classes)


def test_the_first_right_one_of_each_class_is_picked_in_a_seeded_order():
    rng = np.random.default_rng(1)
    y, right = rng.integers(0, 3, 200), rng.random(200) < 0.5
    chosen = pick(y, right, classes=3, seed=0)
    order = np.random.default_rng(0).permutation(200).tolist()
    for label, index in enumerate(chosen):
        assert y[index] == label
        assert right[index]
        assert not any(y[i] == label and right[i] for i in order[: order.index(index)])
    assert chosen == pick(y, right, classes=3, seed=0)
    assert chosen != pick(y, right, classes=3, seed=1)


def test_a_class_without_a_right_image_is_said():
    with pytest.raises(UserError, match="class 1"):
        pick(np.array([0, 1, 1]), np.array([True, False, False]), classes=2, seed=0)


def test_right_means_by_every_model():
    patches = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    pixels = patches.repeat(8, axis=1).repeat(8, axis=2)
    answers = [
        dra_serve.load(source).logits(to_float(pixels)).argmax(axis=1)
        for source in ("bundled:dra", "bundled:at")
    ]
    right = answered_right(["bundled:dra", "bundled:at"], pixels, answers[0])
    np.testing.assert_array_equal(right, answers[0] == answers[1])
    assert 0 < right.sum() < 300
