"""One model on the stage, as HTML and SVG: before an attack, step by step, and judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from dra_serve.attacks.norms import format_radius
from dra_serve.classifier import Prediction
from dra_serve.images import data_uri, encode_png
from dra_serve.service.answers import Attacked, Step
from dra_serve.service.ui.view import image, text
from dra_serve.service.words import percent

ROWS = 5
_GREY = 128
_POINTS = 200  # of a line of the chart
_GAINS = (100, 50, 20, 10, 5, 2, 1)


@dataclass(frozen=True, kw_only=True)
class Face:
    """How a model is introduced. role: "DRA", "AT twin" or ""; record: its measured accuracy or ""."""

    name: str
    role: str = ""
    record: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known: before an attack no steps, during it some, after it `attacked` as well.

    pixels: the clean image, uint8 (H, W, C). clean: its prediction with the scores of all classes.
    truth: what the image shows, if that is known. unit: what the attack's length is counted in.
    """

    face: Face
    pixels: np.ndarray
    clean: Prediction
    truth: str | None = None
    unit: tuple[str, str] = ("step", "steps")
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
        """The model's answer to `adversarial`."""
        if self.attacked:
            return self.attacked.adversarial
        return self.steps[-1].prediction if self.steps else None

    @property
    def label(self) -> str:
        """The class that the attack leads away from."""
        return self.attacked.label if self.attacked else self.clean.label

    @property
    def state(self) -> Literal["ready", "running", "fooled", "held", "unfinished"]:
        if self.attacked is None:
            return "running" if self.steps else "ready"
        if self.attacked.success:
            return "fooled"
        return "held" if self.attacked.complete else "unfinished"


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
        f"{_images(card)}{_chart(card)}{_bars(card)}{_footer(card)}</article>"
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


def _chart(card: Card) -> str:
    """Return the probability of the clean label by step, and that of its strongest rival."""
    steps = _thinned(card.steps)
    predictions = [card.clean, *(step.prediction for step in steps)]
    budget = steps[-1].steps if steps else 1
    at = [0.0, *(step.step / budget for step in steps)]
    own = [_score(p, card.label) for p in predictions]
    rival = [max((score for name, score in p.top if name != card.label), default=0.0) for p in predictions]
    summary = (
        f"Probability of {card.label} by {card.unit[0]}: {percent(own[0])} at first, {percent(own[-1])} now"
    )
    length = f"{budget:,} {card.unit[1]}" if steps else ""
    return (
        '<figure class="chart"><figcaption>'
        f"probability by {card.unit[0]}"
        f'<span class="key own">{escape(card.label)}</span><span class="key rival">strongest other</span>'
        '</figcaption><div class="plot">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{escape(summary)}">'
        '<path class="grid" d="M0 0H100M0 50H100M0 100H100"/>'
        f"{_line(at, rival, 'rival')}{_line(at, own, 'own')}</svg>"
        f'<i class="dot" style="left:{100 * at[-1]:.2f}%;top:{100 - 100 * own[-1]:.2f}%"></i>'
        '<span class="y top">100&nbsp;%</span><span class="y bottom">0</span></div>'
        f'<div class="x"><span>clean</span><span>{length}</span></div></figure>'
    )


def _thinned(steps: Sequence[Step]) -> Sequence[Step]:
    """Return so many steps as the chart has room for, the last among them.

    Drawing all 5,000 of Square twelve times a second would take the attack's own time.
    """
    stride = -(-len(steps) // _POINTS) or 1
    return steps[(len(steps) - 1) % stride :: stride] if steps else steps


def _line(at: Sequence[float], values: Sequence[float], kind: str) -> str:
    points = " ".join(f"{100 * x:.2f},{100 - 100 * y:.2f}" for x, y in zip(at, values, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _bars(card: Card) -> str:
    """Return the scores of the leading classes before and after."""
    rows = "".join(_row(label, card) for label in _leading(card.clean, card.after))
    return (
        '<table class="bars"><caption>probabilities<span class="key before">before</span>'
        '<span class="key after">after</span></caption>'
        '<thead><tr><th scope="col">class</th><th scope="col">bars</th>'
        f'<th scope="col">before, after</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _row(label: str, card: Card) -> str:
    after = card.after
    kind = "clean" if label == card.clean.label else "now" if after and label == after.label else ""
    tag = f'<span class="tag">{kind}</span>' if kind else ""
    bars, numbers = _bar(card.clean, label, "before"), _number(card.clean, label)
    if after is not None:
        bars += _bar(after, label, "after")
        numbers += f" → {_number(after, label)}"
    return (
        f'<tr class="{kind}"><th scope="row">{escape(label)}{tag}</th>'
        f'<td class="track">{bars}</td><td class="number">{numbers}</td></tr>'
    )


def _bar(prediction: Prediction, label: str, kind: str) -> str:
    return f'<i class="{kind}" style="width:{100 * _score(prediction, label):.1f}%"></i>'


def _number(prediction: Prediction, label: str) -> str:
    """Return the score as "61 %", "<1 %" or ">99 %": there is little room."""
    return text(percent(_score(prediction, label)).replace("under ", "<").replace("over ", ">"))


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


def _footer(card: Card) -> str:
    done = card.attacked
    if done is None:
        return ""
    name = escape(f"{done.model}-{done.label}-to-{done.adversarial.label}.png")
    return (
        f'<footer><a class="save" download="{name}" href="{data_uri(encode_png(done.pixels))}">'
        f"Save adversarial PNG</a><span>L∞ {format_radius(done.linf)} · L2 {done.l2:.2f}</span></footer>"
    )
