"""The models side by side, as HTML: names and verdicts, images, what to save."""

from collections.abc import Sequence
from html import escape

import numpy as np

from dra_serve.attacks.norms import format_radius
from dra_serve.classifier import Prediction
from dra_serve.images import data_uri, encode_png
from dra_serve.service.ui.bars import bars
from dra_serve.service.ui.card import Card
from dra_serve.service.ui.chart import chart
from dra_serve.service.ui.view import image, text
from dra_serve.service.words import percent

_GREY = 128
_GAINS = (100, 50, 20, 10, 5, 2, 1)


def stage(cards: Sequence[Card]) -> str:
    """Return the cards side by side."""
    return f'<div class="cards">{"".join(map(render, cards))}</div>'


def render(card: Card) -> str:
    """Return one card."""
    face = card.face
    role = f'<span class="role">{escape(face.role)}</span>' if face.role else ""
    record = f'<p class="record">{text(face.record)}</p>' if face.record else ""
    return (
        f'<article class="card" data-model="{escape(face.name)}" data-state="{card.state}">'
        f"<header><h2>{escape(face.name)}</h2>{role}{_chip(card)}</header>{record}"
        f"{_images(card)}{chart(card)}{bars(card)}{_footer(card)}</article>"
    )


def magnify(clean: np.ndarray, adversarial: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the difference around middle grey as uint8 (H, W, C), and the factor it is magnified by.

    The factor is the largest of 1, 2, 5, ... 100 at which no pixel is cut off; 1 for no difference.
    """
    delta = adversarial.astype(np.int64) - clean.astype(np.int64)
    largest = int(np.abs(delta).max())
    room = 255 - _GREY
    gain = next((g for g in _GAINS if largest and g * largest <= room), 1)
    return np.clip(_GREY + gain * delta, 0, 255).astype(np.uint8), gain


def _chip(card: Card) -> str:
    """Return the verdict in three words, with a sign: colour is not the only signal."""
    words = _in_three_words(card)
    return f'<span class="chip">{words}</span>' if words else ""


def _in_three_words(card: Card) -> str:
    done, last = card.attacked, card.steps[-1] if card.steps else None
    if done is None:
        return f"{card.unit[0]} {last.step:,} of {last.steps:,}" if last else ""
    if done.success:
        return (
            f"✕ fooled at {card.unit[0]} {done.steps_done:,}" if done.steps_done else "✕ fooled at the start"
        )
    if last and last.success:
        return "✓ held: rounding to 8 bits undid it"
    return "✓ held" if done.complete else "◌ not finished"


def _images(card: Card) -> str:
    title = "clean" if card.truth in (None, card.clean.label) else "clean, misread"
    clean = _figure(image(card.pixels, alt="Clean image"), title, _answer(card.clean))
    if card.adversarial is None or card.after is None:
        height, width = card.pixels.shape[:2]
        empty = f'<div class="pixels empty" style="--w:{width}px;aspect-ratio:{width}/{height}"></div>'
        return (
            f'<div class="images">{clean}{_figure(empty, "adversarial")}{_figure(empty, "difference")}</div>'
        )
    adversarial = image(card.adversarial, alt="Adversarial image")
    pixels, gain = magnify(card.pixels, card.adversarial)
    difference = image(pixels, alt=f"Difference to the clean image, magnified {gain} times")
    differs = bool(np.any(card.adversarial != card.pixels))
    name, legend = (f"difference ×{gain}", "grey: same") if differs else ("difference", "none at all")  # noqa: RUF001
    return (
        f'<div class="images">{clean}{_figure(adversarial, "adversarial", _answer(card.after))}'
        f"{_figure(difference, name, legend)}</div>"
    )


def _figure(content: str, title: str, line: str = "&nbsp;") -> str:
    return f"<figure>{content}<figcaption><b>{title}</b><span>{line}</span></figcaption></figure>"


def _answer(prediction: Prediction) -> str:
    return text(f"{prediction.label} {percent(prediction.score)}")


def _footer(card: Card) -> str:
    done = card.attacked
    if done is None:
        return ""
    name = escape(f"{done.model}-{done.label}-to-{done.adversarial.label}.png")
    return (
        f'<footer><a class="save" download="{name}" href="{data_uri(encode_png(done.pixels))}">'
        f"Save adversarial PNG</a><span>L∞ {format_radius(done.linf)} · L2 {done.l2:.2f}</span></footer>"
    )
