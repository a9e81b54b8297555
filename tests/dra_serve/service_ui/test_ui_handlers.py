"""What the buttons do, on real models: attacks that are watched, stopped, left, refused."""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dra_serve.attacks import ATTACKS
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.admission import Pool
from dra_serve.service.answers import AttackAnswer
from dra_serve.service.registry import Registry
from dra_serve.service.ui.faces import introduce, record
from dra_serve.service.ui.handlers import TOO_MANY, Handlers
from dra_serve.service.ui.live import Turn
from dra_serve.service.ui.picture import Picture

from .conftest import CLASSES, RECEIPT, SHAPE, noise

PICTURE = Picture(name="noise", pixels=noise(0), about="noise")
OPTIONS = {"norm": "linf", "eps": "8/255", "steps": 20, "restarts": 1, "seed": 0}
PAIR = ("tiny-dra", "tiny-at")
COUNTED: list[AttackAnswer] = []


@pytest.fixture
def handlers(registry: Registry, examples: Path) -> Handlers:
    return page(registry, examples)


def page(
    registry: Registry, examples: Path, *, pool: Pool | None = None, predictions: Pool | None = None
) -> Handlers:
    return Handlers(
        registry,
        examples=examples,
        attack_seconds=20,
        predictions=predictions or Pool("predictions", threads=2, queue=8, retry_after=1),
        attacks=pool or Pool("attacks", threads=1, queue=8, retry_after=1),
        count=COUNTED.append,
    )


def run(handlers: Handlers, turn: Turn | None = None, **replaced: Any) -> list[tuple[str, str]]:
    names, name = replaced.pop("names", PAIR), replaced.pop("attack", "pgd")
    return list(handlers.attack(turn, PICTURE, names, name, OPTIONS | replaced))


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_every_attack_can_be_chosen_on_the_page(handlers: Handlers, attack: str) -> None:
    *_, (message, _) = run(handlers, attack=attack, names=("tiny-dra",), steps=3, queries=50)
    assert 'data-kind="done"' in message
    assert "tiny-dra" in message


def test_an_attack_is_shown_step_by_step_and_judged_in_words(handlers: Handlers) -> None:
    *frames, (message, stage) = run(handlers)
    assert frames
    assert all('data-kind="busy"' in text for text, _ in frames)
    assert "tiny-dra withstood the attack (linf, eps 8/255, 20 steps): still cat" in message
    assert "tiny-at was fooled after" in message
    assert "No image fools another model than its own." in message
    assert 'data-model="tiny-dra" data-state="held"' in stage
    assert 'data-model="tiny-at" data-state="fooled"' in stage


def test_one_model_is_enough(handlers: Handlers) -> None:
    message, stage = run(handlers, names=["tiny-at"])[-1]
    assert message.count("<p>") == 1
    assert stage.count("<article") == 1


def test_radius_zero_changes_nothing_and_fools_nobody(handlers: Handlers) -> None:
    _, stage = run(handlers, eps="0/255")[-1]
    assert stage.count("none at all") == 2
    assert stage.count('data-state="held"') == 2


def test_both_models_are_shown_side_by_side_and_the_service_counts_them(handlers: Handlers) -> None:
    COUNTED.clear()
    frames = [stage for message, stage in run(handlers, eps="0/255", steps=10) if "Attacking" in message]
    for stage in frames:
        dra, at = (re.findall(r"step (\d+) of 10", card) or ["0"] for card in stage.split("</article>")[:2])
        assert abs(int(dra[0]) - int(at[0])) <= 1
    assert len(frames) > 5
    assert [[result.model for result in answer.results] for answer in COUNTED] == [list(PAIR)]


def test_an_attack_waits_for_its_place_in_the_services_pool_and_a_full_one_is_said(
    registry: Registry, examples: Path
) -> None:
    pool = Pool("attacks", threads=1, queue=1, retry_after=1)
    handlers, others = page(registry, examples, pool=pool), threading.Event()
    pool.submit(lambda _: others.wait(10), threading.Event())
    frames = handlers.attack(Turn(), PICTURE, PAIR, "pgd", OPTIONS)
    message, stage = next(frames)
    assert "Waiting for another visitor" in message
    assert stage.count('data-state="ready"') == 2
    ((message, _),) = run(handlers)
    assert TOO_MANY in message
    others.set()
    *_, (message, _) = frames
    assert 'data-kind="done"' in message
    pool.close()


def test_clean_predictions_wait_for_the_services_threads_and_a_full_queue_is_said(
    registry: Registry, examples: Path
) -> None:
    predictions, others = Pool("predictions", threads=1, queue=1, retry_after=1), threading.Event()
    handlers = page(registry, examples, predictions=predictions)
    predictions.submit(lambda _: others.wait(10), threading.Event())
    with ThreadPoolExecutor(1) as visitor:
        shown = visitor.submit(handlers.show, PICTURE, PAIR)
        with pytest.raises(TimeoutError):
            shown.result(timeout=0.3)
        message, stage = handlers.show(PICTURE, PAIR)  # one more than the queue holds
        assert "the queue of predictions is full; try again" in message
        assert stage == ""
        others.set()
        assert shown.result(timeout=10)[1].count('data-state="ready"') == 2
    predictions.close()
    assert "the service is shutting down" in handlers.show(PICTURE, PAIR)[0]


def test_who_leaves_the_queue_gives_the_place_free(registry: Registry, examples: Path) -> None:
    pool = Pool("attacks", threads=1, queue=1, retry_after=1)
    handlers, others = page(registry, examples, pool=pool), threading.Event()
    pool.submit(lambda _: others.wait(10), threading.Event())
    frames = handlers.attack(Turn(), PICTURE, PAIR, "pgd", OPTIONS)
    next(frames)
    frames.close()  # type: ignore[attr-defined]  # what Gradio does
    again = handlers.attack(Turn(), PICTURE, PAIR, "pgd", OPTIONS)
    assert "Waiting for another visitor" in next(again)[0]
    others.set()
    assert 'data-kind="done"' in list(again)[-1][0]
    pool.close()


def test_a_pressed_stop_ends_the_attack_with_a_verdict(handlers: Handlers) -> None:
    turn, _ = handlers.begin()
    frames = handlers.attack(turn, PICTURE, ["tiny-dra"], "square", OPTIONS | {"queries": 5_000})
    next(frames)
    handlers.stop(turn)
    message, stage = list(frames)[-1]
    assert "Stopped." in message
    assert 'data-state="unfinished"' in stage


def test_a_stop_before_the_turn_has_come_attacks_nothing(handlers: Handlers) -> None:
    turn, _ = handlers.begin()
    handlers.stop(turn)
    ((message, stage),) = run(handlers, turn)
    assert 'data-kind="hint"' in message
    assert 'data-state="ready"' in stage


def test_an_attack_that_was_left_shows_nothing_more(handlers: Handlers) -> None:
    turn, _ = handlers.begin()
    frames = handlers.attack(turn, PICTURE, PAIR, "pgd", OPTIONS | {"steps": 100})
    next(frames)
    turn.leave(("new message", "new stage"))
    assert list(frames) == []
    assert handlers.ended(turn) == ("new message", "new stage")


def test_a_visitor_who_closes_the_page_leaves_no_thread_behind(handlers: Handlers) -> None:
    turn = Turn()
    frames = handlers.attack(turn, PICTURE, PAIR, "square", OPTIONS | {"queries": 4_000})
    next(frames)
    begun = time.monotonic()
    frames.close()  # type: ignore[attr-defined]  # what Gradio does
    assert turn.stop.is_set()
    assert 'data-kind="done"' in run(handlers, steps=1)[-1][0]  # the only thread is free
    assert time.monotonic() - begun < 2


def test_an_attack_that_never_had_its_turn_says_so(handlers: Handlers) -> None:
    turn, _ = handlers.begin()
    message, stage = handlers.ended(turn)
    assert message is not None
    assert "too many visitors" in message
    assert stage is None


def test_an_attack_that_had_its_turn_keeps_its_verdict(handlers: Handlers) -> None:
    turn, _ = handlers.begin()
    run(handlers, turn)
    assert handlers.ended(turn) == handlers.ended(None) == (None, None)


def test_the_same_seed_gives_the_same_verdict(handlers: Handlers) -> None:
    assert run(handlers, seed=3)[-1] == run(handlers, seed=3)[-1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", None), ("seed", -1), ("eps", "nan"), ("eps", -1), ("steps", 10**9), ("norm", "l7")],
)
def test_a_bad_value_is_a_sentence_that_names_it(handlers: Handlers, field: str, value: Any) -> None:
    ((message, stage),) = run(handlers, **{field: value})
    assert 'data-kind="error"' in message
    assert f"{field}: got " in message
    assert 'data-state="ready"' in stage


def test_an_unknown_model_is_a_sentence(handlers: Handlers) -> None:
    ((message, _),) = run(handlers, names=["nobody"])
    assert "got nobody; allowed: tiny-dra, tiny-at" in message


@pytest.mark.parametrize(
    ("picture", "names", "says"),
    [
        (None, PAIR, "Choose an example or upload"),
        (
            Picture(name="w", pixels=noise(0), about="w", resized_from="30 × 20"),  # noqa: RUF001
            PAIR,
            "30 × 20 pixels; the models take 32 × 32",  # noqa: RUF001
        ),
        (PICTURE, (), "Choose at least one model"),
    ],
)
def test_what_is_missing_is_said_and_not_attacked(
    handlers: Handlers, picture: Picture | None, names: tuple[str, ...], says: str
) -> None:
    ((message, stage),) = handlers.attack(Turn(), picture, names, "pgd", OPTIONS)
    assert says in message
    assert stage == ""


def test_an_upload_that_is_no_picture_is_a_sentence(handlers: Handlers, tmp_path: Path) -> None:
    file = tmp_path / "text.png"
    file.write_text("no picture", encoding="utf-8")
    assert handlers.upload(str(file)) == (None, "image: no image we read; allowed: PNG, JPEG, WebP")
    assert not file.exists()


@pytest.mark.parametrize("index", [-1, 3, None, "0", 1.5])
def test_an_index_from_the_browser_is_not_trusted(handlers: Handlers, index: Any) -> None:
    assert handlers.example(index) is None


def test_a_model_without_gradients_predicts_but_is_not_attacked(
    linear_onnx: Callable[..., onnx.ModelProto], examples: Path
) -> None:
    weights = np.random.default_rng(0).standard_normal((len(CLASSES), int(np.prod(SHAPE))))
    forward = linear_onnx(weights, np.zeros(len(CLASSES)), SHAPE).SerializeToString()
    model = OnnxClassifier(forward, None, classes=CLASSES, input_shape=SHAPE, name="plain")
    handlers = page(Registry([model]), examples)
    ((message, stage),) = run(handlers, names=["plain"])
    assert "models with a gradient graph" in message
    assert 'data-state="ready"' in stage


def test_models_are_introduced_by_recipe_and_receipt(registry: Registry) -> None:
    dra, at = map(introduce, registry)
    assert (dra.name, dra.role, at.role) == ("tiny-dra", "DRA", "AT twin")
    assert dra.record == "10,000 images: 65.5 % clean, 37.5 % under PGD-50 x 5, linf 8/255"


def test_the_receipt_shown_is_of_the_most_images_and_the_hardest_attack() -> None:
    few, hard = RECEIPT | {"n": 100, "robust_accuracy_8bit": 0.1}, RECEIPT | {"robust_accuracy_8bit": 0.3}
    assert "30.0 % under PGD-50" in record([few, RECEIPT, hard])


@pytest.mark.parametrize("broken", [{}, {"n": 3}, RECEIPT | {"eps": "x"}, RECEIPT | {"attacks": None}])
def test_a_receipt_without_the_figures_is_passed_over(broken: dict[str, Any]) -> None:
    assert record([broken]) == ""
    assert record([broken, RECEIPT]) != ""
