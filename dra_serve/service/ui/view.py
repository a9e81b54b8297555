"""What the page shows, as HTML and SVG: values in, text out, everything from outside escaped.

Knows neither Gradio nor models, so every picture of it can be tested as a string.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from dra_serve.classifier import Prediction
from dra_serve.images import data_uri, encode_png
from dra_serve.service.answers import Attacked, Step
from dra_serve.service.ui.picture import Picture
from dra_serve.service.words import format_radius, percent

ROWS = 5
_GAINS = (100, 50, 20, 10, 5, 2, 1)
_GREY = 128


@dataclass(frozen=True, kw_only=True)
class Face:
    """How a model is introduced. role: "DRA", "AT twin" or ""; record: its measured accuracy or ""."""

    name: str
    role: str = ""
    record: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One model on the stage: before an attack (no steps), during it, and after it (attacked).

    pixels: the clean image, uint8 (H, W, C). clean: its prediction with the scores of all classes.
    """

    face: Face
    pixels: np.ndarray
    clean: Prediction
    steps: tuple[Step, ...] = ()
    attacked: Attacked | None = None

    @property
    def adversarial(self) -> np.ndarray | None:
        """The 8-bit adversarial image, or where the attack stands, or None."""
        if self.attacked:
            return self.attacked.pixels
        return self.steps[-1].pixels if self.steps else None

    @property
    def after(self) -> Prediction | None:
        """The answer to `adversarial`."""
        if self.attacked:
            return self.attacked.adversarial
        return self.steps[-1].prediction if self.steps else None


def stage(cards: Sequence[Card]) -> str:
    """Return the cards side by side."""
    return f'<div class="cards">{"".join(map(card, cards))}</div>'


def card(shown: Card) -> str:
    """Return one model's card."""
    face = shown.face
    role = f'<span class="role">{escape(face.role)}</span>' if face.role else ""
    record = f'<p class="record">{escape(face.record)}</p>' if face.record else ""
    return (
        f'<article class="card" data-model="{escape(face.name)}" data-state="{_state(shown)}">'
        f"<header><h2>{escape(face.name)}</h2>{role}{_chip(shown)}</header>{record}"
        f"{_images(shown)}{_chart(shown)}{_bars(shown)}{_footer(shown)}</article>"
    )


def examples(pictures: Sequence[Picture], chosen: int | None) -> str:
    """Return the example pictures as buttons; `data-index` says which."""
    buttons = "".join(
        f'<button type="button" data-index="{i}" aria-pressed="{str(i == chosen).lower()}" '
        f'aria-label="{escape(picture.about)}" title="{escape(picture.about)}">'
        f"{image(picture.pixels, alt='')}</button>"
        for i, picture in enumerate(pictures)
    )
    return f'<div class="examples" role="group" aria-label="Example images">{buttons}</div>'


def current(picture: Picture | None) -> str:
    """Return the chosen picture with the sentence about it."""
    if picture is None:
        return '<p class="about">No image yet.</p>'
    return (
        f'<figure class="current">{image(picture.pixels, alt="The chosen image")}'
        f"<figcaption>{escape(picture.about)}</figcaption></figure>"
    )


def message(sentences: Sequence[str], kind: Literal["hint", "busy", "done", "error"]) -> str:
    """Return what the page has to say, one paragraph a sentence."""
    paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="message" data-kind="{kind}">{paragraphs}</div>'


def image(pixels: np.ndarray, *, alt: str) -> str:
    """Return an <img> that holds the very pixels, as PNG, drawn without smoothing."""
    height, width = pixels.shape[:2]
    return (
        f'<img class="pixels" src="{data_uri(encode_png(pixels))}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}" style="--w:{width}px">'
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


def _state(shown: Card) -> str:
    """Return ready, running, held, fooled or unfinished."""
    done = shown.attacked
    if done is None:
        return "running" if shown.steps else "ready"
    if done.success:
        return "fooled"
    return "held" if done.complete else "unfinished"


def _chip(shown: Card) -> str:
    """Return the verdict in three words, with a sign: colour is not the only signal."""
    done, last = shown.attacked, shown.steps[-1] if shown.steps else None
    match _state(shown):
        case "ready":
            return ""
        case "running" if last:
            text = f"step {last.step} of {last.steps}"
        case "fooled" if done:
            text = f"✕ fooled at step {done.steps_done}" if done.steps_done else "✕ fooled at once"  # noqa: RUF001
        case "held" if last and last.success:
            text = "✓ held: rounding to 8 bits undid it"
        case "held":
            text = "✓ held"
        case _:
            text = "◌ not finished"
    return f'<span class="chip">{text}</span>'


def _images(shown: Card) -> str:
    clean = _figure(image(shown.pixels, alt="Clean image"), "clean", _answer(shown.clean))
    if shown.adversarial is None or shown.after is None:
        empty = '<div class="pixels empty"></div>'
        return (
            f'<div class="images">{clean}{_figure(empty, "adversarial")}{_figure(empty, "difference")}</div>'
        )
    difference, gain = magnify(shown.pixels, shown.adversarial)
    unchanged = not np.any(shown.adversarial != shown.pixels)
    alt = f"Difference to the clean image, magnified {gain} times"
    return (
        f'<div class="images">{clean}'
        f"{_figure(image(shown.adversarial, alt='Adversarial image'), 'adversarial', _answer(shown.after))}"
        f"{_figure(image(difference, alt=alt), f'difference ×{gain}', 'none' if unchanged else 'grey: unchanged')}"  # noqa: RUF001
        "</div>"
    )


def _figure(content: str, title: str, line: str = "&nbsp;") -> str:
    return f"<figure>{content}<figcaption><b>{title}</b><span>{line}</span></figcaption></figure>"


def _answer(prediction: Prediction) -> str:
    return f"{escape(prediction.label)} {percent(prediction.score)}"


def _chart(shown: Card) -> str:
    """Return the probability of the clean label by step, and that of its strongest rival."""
    label = shown.attacked.label if shown.attacked else shown.clean.label
    budget = shown.steps[-1].steps if shown.steps else 1
    predictions = [shown.clean, *(step.prediction for step in shown.steps)]
    at = [0.0, *(step.step / budget for step in shown.steps)]
    own = [_score(p, label) for p in predictions]
    rival = [max((score for name, score in p.top if name != label), default=0.0) for p in predictions]
    lines = _line(at, rival, "rival") + _line(at, own, "own")
    summary = f"Probability of {label} by step: {percent(own[0])} before, {percent(own[-1])} now"
    end = f"{100 * at[-1]:.2f}%"
    return (
        f'<figure class="chart"><figcaption>probability by step'
        f'<span class="key own">{escape(label)}</span><span class="key rival">strongest other</span></figcaption>'
        f'<div class="plot"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(summary)}"><path class="grid" d="M0 0H100M0 50H100M0 100H100"/>{lines}</svg>'
        f'<i class="dot" style="left:{end};top:{100 - 100 * own[-1]:.2f}%"></i>'
        f'<span class="y top">100 %</span><span class="y bottom">0</span></div>'
        f'<div class="x"><span>clean</span><span>{f"{budget} steps" if shown.steps else ""}</span></div></figure>'
    )


def _line(at: Sequence[float], values: Sequence[float], kind: str) -> str:
    points = " ".join(f"{100 * x:.2f},{100 - 100 * y:.2f}" for x, y in zip(at, values, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _bars(shown: Card) -> str:
    """Return the scores before and after of the leading classes."""
    after = shown.after
    fooled = after is not None and after.label != shown.clean.label
    rows = "".join(
        _row(label, shown, is_now=fooled and after is not None and label == after.label)
        for label in _leading(shown.clean, after)
    )
    return (
        '<table class="bars"><caption>probabilities<span class="key before">before</span>'
        '<span class="key after">after</span></caption>'
        '<thead><tr><th scope="col">class</th><th scope="col">bars</th><th scope="col">before, after</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _row(label: str, shown: Card, *, is_now: bool) -> str:
    before, after = _score(shown.clean, label), shown.after
    is_clean = label == shown.clean.label
    tag = '<span class="tag">clean</span>' if is_clean else '<span class="tag">now</span>' if is_now else ""
    kind = "clean" if is_clean else "now" if is_now else ""
    change = percent(before)
    second = ""
    if after is not None:
        change += f" → {percent(_score(after, label))}"
        second = f'<i class="after" style="width:{100 * _score(after, label):.1f}%"></i>'
    return (
        f'<tr class="{kind}"><th scope="row">{escape(label)}{tag}</th>'
        f'<td class="track"><i class="before" style="width:{100 * before:.1f}%"></i>{second}</td>'
        f'<td class="number">{change}</td></tr>'
    )


def _leading(clean: Prediction, after: Prediction | None) -> list[str]:
    """Return the clean image's leading classes, the last of them giving way to the present answer.

    The order stays while an attack runs, so that the eye can follow a bar.
    """
    labels = [label for label, _ in clean.top[:ROWS]]
    if after is not None and after.label not in labels:
        labels[-1] = after.label
    return labels


def _score(prediction: Prediction, label: str) -> float:
    return dict(prediction.top).get(label, 0.0)


def _footer(shown: Card) -> str:
    done = shown.attacked
    if done is None:
        return ""
    name = f"{done.model}-{done.label}-to-{done.adversarial.label}.png"
    return (
        f'<footer><a class="save" download="{escape(name)}" href="{data_uri(encode_png(done.pixels))}">'
        f"Save adversarial PNG</a><span>L∞ {format_radius(done.linf)} · L2 {done.l2:.2f}</span></footer>"
    )
