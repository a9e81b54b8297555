"""Pieces of the page, and the pictures they show."""

import re
from pathlib import Path

import numpy as np
import pytest

from dra_serve.errors import UnsupportedFormat
from dra_serve.images import encode_png, fit
from dra_serve.service.ui import controls, view
from dra_serve.service.ui.picture import Picture, read_examples, read_upload

from .conftest import CLASSES, SHAPE, noise

EVIL = '"><script>alert(1)</script>'


def test_examples_are_the_pngs_that_fit_with_the_class_their_name_tells(examples: Path) -> None:
    pictures = read_examples(examples, SHAPE, CLASSES)
    assert [(p.name, p.truth) for p in pictures] == [
        ("cat-test-00001", "cat"),
        ("dog-test-00002", "dog"),
        ("ship-test-00003", "ship"),
    ]
    assert np.array_equal(pictures[0].pixels, noise(0))
    assert pictures[0].about == "Example: cat test 00001."


def test_a_missing_examples_folder_is_no_example(tmp_path: Path) -> None:
    assert read_examples(tmp_path / "nothing", SHAPE, CLASSES) == []


def test_an_upload_of_the_right_size_keeps_its_pixels_and_its_name(tmp_path: Path) -> None:
    file = tmp_path / "my cat.png"
    file.write_bytes(encode_png(noise(5)))
    picture = read_upload(file, SHAPE)
    assert np.array_equal(picture.pixels, noise(5))
    assert (picture.about, picture.resized_from) == ("my cat.png, 32 × 32 pixels.", None)  # noqa: RUF001


def test_an_upload_of_another_size_is_resized_as_the_service_does_and_waits_for_consent(
    tmp_path: Path,
) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(encode_png(noise(0, 150, 200)))
    picture = read_upload(file, SHAPE)
    assert np.array_equal(picture.pixels, fit(noise(0, 150, 200), SHAPE, resize=True))
    assert picture.resized_from == "200 × 150"  # noqa: RUF001
    for fact in ("200 × 150", "32 × 32", "bicubic"):  # noqa: RUF001
        assert fact in picture.about
    assert picture.accept().resized_from is None


def test_an_upload_that_is_no_image_raises_one_of_our_errors(tmp_path: Path) -> None:
    file = tmp_path / "text.png"
    file.write_text("no picture", encoding="utf-8")
    with pytest.raises(UnsupportedFormat):
        read_upload(file, SHAPE)


def test_only_the_chosen_example_is_pressed(examples: Path) -> None:
    pictures = read_examples(examples, SHAPE, CLASSES)
    pressed = re.findall('aria-pressed="(true|false)"', view.examples(pictures, pictures[1]))
    assert pressed == ["false", "true", "false"]


def test_texts_from_outside_are_escaped() -> None:
    picture = Picture(name=EVIL, pixels=noise(0), about=EVIL)
    for html in (
        view.message([EVIL], "error"),
        view.current(picture),
        view.examples([picture], picture),
        view.image(noise(0), alt=EVIL),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_percent_signs_stay_with_their_numbers() -> None:
    assert (
        view.message(["61 % sure"], "done")
        == '<div class="message" data-kind="done"><p>61&nbsp;% sure</p></div>'
    )


def test_without_a_picture_the_page_says_so() -> None:
    assert "No image yet" in view.current(None)


def test_the_order_of_examples_is_the_lists_and_the_rest_come_after_by_name(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.png").write_bytes(encode_png(noise(0)))
    (tmp_path / "order.txt").write_text("c.png\nnot-there.png\nb.png\n", encoding="utf-8")
    assert [picture.name for picture in read_examples(tmp_path, SHAPE, CLASSES)] == ["c", "b", "a", "d"]


def test_the_first_press_of_attack_is_what_the_controls_say() -> None:
    first = controls.first_attack()
    said = controls.to_options(
        norm=controls.NORM, eps_linf=controls.EPS, eps_l2=1.0, steps=controls.STEPS, restarts=1, seed=0
    )
    assert said.pop("queries") == controls.STEPS  # not of this attack, which the page leaves out
    assert dict(first.options) == said
