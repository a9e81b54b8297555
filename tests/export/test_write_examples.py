"""The examples that ship: one a class, read right by both bundled models, and chosen by what befalls them."""

import re

import numpy as np
import pytest

import dra_serve
from dra_serve.errors import UserError
from dra_serve.images import decode, encode_png, to_float
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.answers import AttackRequest
from dra_serve.service.ui import EXAMPLES
from dra_serve.service.ui.picture import ORDER, read_examples
from export import write_examples
from export.write_examples import Fallen, answered_right, fallen, pick, turns, write

NAME = re.compile(r"cifar10-test-(\d{4})-(\w+)\.png")
DRA, AT, BOTH, NEITHER = frozenset({0}), frozenset({1}), frozenset({0, 1}), frozenset[int]()


@pytest.fixture(scope="module")
def pair() -> list[OnnxClassifier]:
    return [dra_serve.load(source) for source in ("bundled:dra", "bundled:at")]


@pytest.fixture(scope="module")
def shipped() -> list[tuple[str, np.ndarray]]:
    """Return class and pixels of each shipped file, in their order."""
    names = (EXAMPLES / ORDER).read_text().split()
    return [(NAME.fullmatch(name)[2], decode((EXAMPLES / name).read_bytes())) for name in names]


def test_the_list_names_every_file_there_is() -> None:
    names = (EXAMPLES / ORDER).read_text().split()
    assert sorted([*names, ORDER]) == sorted(path.name for path in EXAMPLES.iterdir())


def test_both_bundled_models_read_every_example_right(pair, shipped) -> None:
    names, pixels = zip(*shipped, strict=True)
    for model in pair:
        answers = model.logits(to_float(np.stack(pixels))).argmax(axis=1)
        assert [model.classes[answer] for answer in answers] == list(names)


def test_there_is_one_example_a_class(pair, shipped) -> None:
    assert sorted(name for name, _ in shipped) == sorted(pair[0].classes)


def test_one_model_falls_on_the_first_and_every_outcome_has_its_turn(pair, shipped) -> None:
    outcomes = [fallen(pair, pixels) for _, pixels in shipped]
    assert outcomes[0] in (DRA, AT)
    assert outcomes == turns(outcomes[0], len(shipped))
    assert {*outcomes} == {DRA, AT, BOTH, NEITHER}


def test_the_page_shows_the_first_of_the_list_first(pair, shipped) -> None:
    pictures = read_examples(EXAMPLES, pair[0].input_shape, pair[0].classes)
    assert [picture.truth for picture in pictures] == [name for name, _ in shipped]
    assert np.array_equal(pictures[0].pixels, shipped[0][1])


def outcomes_at_random(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray, list[Fallen | None]]:
    rng = np.random.default_rng(seed)
    kinds = [DRA, AT, BOTH, NEITHER, None]
    return rng.integers(0, 5, n), rng.random(n) < 0.7, [kinds[k] for k in rng.integers(0, 5, n)]


def test_each_place_takes_the_first_image_of_its_outcome_and_of_a_new_class() -> None:
    y, right, kinds = outcomes_at_random(400)
    asked: list[int] = []

    def outcome(index: int) -> Fallen | None:
        asked.append(index)
        return kinds[index]

    chosen = pick(y, right, outcome, classes=5, seed=0)
    assert all(right[asked])
    order = [i for i in np.random.default_rng(0).permutation(400).tolist() if right[i]]
    first = next(kinds[i] for i in order if kinds[i] in (DRA, AT))
    for place, (index, kind) in enumerate(zip(chosen, turns(first, 5), strict=True)):
        before = {y[i] for i in chosen[:place]}
        assert index == next(i for i in order if kinds[i] == kind and y[i] not in before)
    assert chosen == pick(y, right, outcome, classes=5, seed=0)
    assert chosen != pick(y, right, outcome, classes=5, seed=1)


def test_which_model_falls_alone_at_first_is_the_images_choice() -> None:
    y = np.arange(4)
    for first, other in ((DRA, AT), (AT, DRA)):
        kinds = dict(zip(np.random.default_rng(0).permutation(4), (first, other, NEITHER, BOTH), strict=True))
        chosen = pick(y, np.ones(4, bool), kinds.get, classes=4, seed=0)
        assert [kinds[i] for i in chosen] == [first, BOTH, NEITHER, other]


def test_what_the_test_set_has_none_of_is_said() -> None:
    y, right = np.array([0, 1, 1]), np.ones(3, bool)
    with pytest.raises(UserError, match="on which one model falls"):
        pick(y, right, lambda _: BOTH, classes=2, seed=0)
    with pytest.raises(UserError, match="place 2: another --seed"):
        pick(y, right, lambda _: AT, classes=2, seed=0)


def test_an_outcome_that_hangs_on_the_seed_is_none(pair, shipped, monkeypatch) -> None:
    _, pixels = shipped[2]  # both hold
    assert fallen(pair, pixels) == NEITHER

    def stronger(*, seed: int) -> AttackRequest:
        return AttackRequest(options={"eps": seed / 4, "steps": 5})

    monkeypatch.setattr(write_examples, "first_attack", stronger)
    assert fallen(pair, pixels) is None


def test_right_means_by_every_model(pair) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    pixels = patches.repeat(8, axis=1).repeat(8, axis=2)
    answers = [model.logits(to_float(pixels)).argmax(axis=1) for model in pair]
    right = answered_right(pair, pixels, answers[0])
    np.testing.assert_array_equal(right, answers[0] == answers[1])
    assert 0 < right.sum() < 300


def test_earlier_examples_go_and_the_list_holds_the_order(tmp_path) -> None:
    (tmp_path / "cifar10-test-0001-cat.png").write_bytes(b"old")
    (tmp_path / "mine.png").write_bytes(b"stays")
    pixels = np.zeros((8, 8, 3), np.uint8)
    write(tmp_path, {"b.png": encode_png(pixels), "a.png": encode_png(pixels)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "mine.png", ORDER]
    pictures = read_examples(tmp_path, (3, 8, 8), ())
    assert [picture.name for picture in pictures] == ["b", "a"]
