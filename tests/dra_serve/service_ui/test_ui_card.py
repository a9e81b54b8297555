"""A model's card as a string: what it says, what it escapes, what it holds."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest

from dra_serve.classifier import Prediction
from dra_serve.images import decode
from dra_serve.service.answers import Attacked, Step
from dra_serve.service.ui.card import Card, Face
from dra_serve.service.ui.stage import magnify, render, stage

from .conftest import noise

CLEAN = noise(0)
SEVEN = tuple(f"class{i}" for i in range(7))


def prediction(*top: tuple[str, float]) -> Prediction:
    return Prediction(label=top[0][0], score=top[0][1], top=top)


CAT = prediction(("cat", 0.7), ("dog", 0.2), ("ship", 0.1))
DOG = prediction(("dog", 0.6), ("cat", 0.3), ("ship", 0.1))


def step(number: int, now: Prediction, *, pixels: np.ndarray = CLEAN, of: int = 20) -> Step:
    success = now.label != "cat"
    return Step(model="m", step=number, steps=of, loss=1.0, success=success, prediction=now, pixels=pixels)


def attacked(
    now: Prediction, *, pixels: np.ndarray = CLEAN, steps_done: int = 7, complete: bool = True
) -> Attacked:
    return Attacked(
        model="m",
        label="cat",
        clean=CAT,
        adversarial=now,
        pixels=pixels,
        success=now.label != "cat",
        linf=8 / 255,
        l2=1.25,
        steps_done=steps_done,
        complete=complete,
    )


READY = Card(face=Face(name="m"), pixels=CLEAN, clean=CAT)


def images(html: str) -> list[np.ndarray]:
    """Return the pixels of every <img>, in order."""
    return [decode(base64.b64decode(data)) for data in re.findall(r'<img [^>]*base64,([^"]+)"', html)]


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html).replace("&nbsp;", " ")).strip()


def test_before_an_attack_the_card_shows_the_clean_image_and_its_scores() -> None:
    html = render(READY)
    assert 'data-state="ready"' in html
    assert [image.tolist() for image in images(html)] == [CLEAN.tolist()]
    assert "cat clean 70 % dog 20 % ship 10 %" in words(html)
    assert "chip" not in html


def test_during_an_attack_it_shows_the_step_and_the_probabilities_so_far() -> None:
    now = prediction(("cat", 0.5), ("dog", 0.4), ("ship", 0.1))
    html = render(replace(READY, steps=(step(1, CAT), step(2, now))))
    assert 'data-state="running"' in html
    assert "step 2 of 20" in words(html)
    assert 'class="own" points="0.00,30.00 5.00,30.00 10.00,50.00"' in html
    assert 'class="rival" points="0.00,80.00 5.00,80.00 10.00,60.00"' in html
    assert "70 % → 50 %" in words(html)


@pytest.mark.parametrize("done", [1, 200, 201, 1999, 5000])
def test_the_chart_of_a_long_attack_is_thinned_and_ends_where_the_attack_stands(done: int) -> None:
    now = prediction(("cat", 0.5), ("dog", 0.4), ("ship", 0.1))
    steps = (*(step(k, CAT, of=5000) for k in range(1, done)), step(done, now, of=5000))
    html = render(replace(READY, steps=steps, unit=("query", "queries")))
    drawn = re.findall(r'class="own" points="([^"]*)"', html)[0].split()
    assert len(drawn) == 1 + done if done <= 200 else 100 < len(drawn) <= 201
    assert (drawn[0], drawn[-1]) == ("0.00,30.00", f"{done / 50:.2f},50.00")
    assert f"query {done:,} of 5,000" in words(html)


def test_a_fooled_model_is_told_by_sign_word_and_tag() -> None:
    html = render(replace(READY, steps=(step(7, DOG),), attacked=attacked(DOG)))
    assert 'data-state="fooled"' in html
    assert "✕ fooled at step 7" in words(html)
    assert "dog now 20 % → 60 %" in words(html)
    assert 'download="m-cat-to-dog.png"' in html
    assert "L∞ 8/255 · L2 1.25" in words(html)


@pytest.mark.parametrize(
    ("card", "state", "chip"),
    [
        (replace(READY, attacked=attacked(CAT)), "held", "✓ held"),
        (replace(READY, attacked=attacked(CAT, complete=False)), "unfinished", "◌ not finished"),
        (replace(READY, attacked=attacked(DOG, steps_done=0)), "fooled", "✕ fooled at the start"),
        (
            replace(READY, steps=(step(7, DOG),), attacked=attacked(CAT)),
            "held",
            "✓ held: rounding to 8 bits undid it",
        ),
    ],
)
def test_every_other_end_has_its_words(card: Card, state: str, chip: str) -> None:
    html = render(card)
    assert f'data-state="{state}"' in html
    assert f'<span class="chip">{chip}</span>' in html


def test_the_saved_file_holds_the_judged_pixels() -> None:
    pixels = noise(1)
    html = render(replace(READY, attacked=attacked(DOG, pixels=pixels)))
    saved = re.search(r'class="save"[^>]*base64,([^"]+)"', html)
    assert saved is not None
    assert np.array_equal(decode(base64.b64decode(saved[1])), pixels)
    assert np.array_equal(images(html)[1], pixels)


def test_a_clean_image_already_misread_is_said_to_be() -> None:
    assert "clean, misread" in render(replace(READY, truth="dog"))
    assert "misread" not in render(replace(READY, truth="cat"))


def test_the_present_answer_has_a_row_even_if_it_was_last_before() -> None:
    clean = prediction(*((name, (7 - i) / 28) for i, name in enumerate(SEVEN)))
    now = prediction((SEVEN[6], 0.9), *((name, 0.1 / 6) for name in SEVEN[:6]))
    html = render(Card(face=Face(name="m"), pixels=CLEAN, clean=clean, steps=(step(1, now),)))
    rows = re.findall(r'<th scope="row">(\w+)', html)
    assert rows == [*SEVEN[:4], SEVEN[6]]


def test_scores_near_certainty_are_short() -> None:
    sure = prediction(("cat", 0.999), ("dog", 0.001))
    html = render(replace(READY, clean=sure))
    assert "cat clean &gt;99 %" in words(html)
    assert "dog &lt;1 %" in words(html)


def test_names_from_outside_are_escaped_everywhere() -> None:
    evil = '<img src=x onerror="alert(1)">'
    bad = prediction((evil, 0.7), ("dog", 0.3))
    face = Face(name=evil, role=evil, record=evil)
    done = replace(attacked(bad), model=evil, label=evil, clean=bad)
    for card in (READY, replace(READY, steps=(step(1, bad),)), replace(READY, attacked=done)):
        html = render(replace(card, face=face, clean=bad, truth=evil))
        assert "<img src=x" not in html
        assert 'onerror="' not in html


@pytest.mark.parametrize("largest", [1, 2, 6, 8, 12, 30, 64, 100, 127, 128, 255])
def test_the_difference_is_magnified_as_far_as_nothing_is_cut_off(largest: int) -> None:
    clean = np.zeros((2, 2, 3), np.uint8)
    adversarial = clean.copy()
    adversarial[0, 0, 0] = largest
    pixels, gain = magnify(clean, adversarial)
    assert pixels[1, 1].tolist() == [128, 128, 128]
    assert pixels[0, 0, 0] == min(255, 128 + gain * largest)
    assert gain == max((g for g in (1, 2, 5, 10, 20, 50, 100) if g * largest <= 127), default=1)


def test_no_difference_is_plain_grey_and_said_to_be_none() -> None:
    pixels, gain = magnify(CLEAN, CLEAN)
    assert (gain, np.unique(pixels).tolist()) == (1, [128])
    html = render(replace(READY, attacked=attacked(CAT, pixels=CLEAN)))
    assert "difference none at all" in words(html)
    assert images(html)[2].tolist() == pixels.tolist()


def test_a_grey_image_has_one_channel_all_the_way() -> None:
    grey = noise(0)[:, :, :1]
    html = render(Card(face=Face(name="m"), pixels=grey, clean=CAT, steps=(step(1, DOG, pixels=grey),)))
    assert np.array_equal(images(html)[0], np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_stage_takes_any_number_of_models(count: int) -> None:
    assert stage([READY] * count).count("<article") == count
