"""Pieces of the page as HTML: values in, text out, everything from outside escaped. Knows no Gradio."""

from collections.abc import Sequence
from html import escape
from typing import Literal

import numpy as np

from dra_serve.images import data_uri, encode_png
from dra_serve.service.ui.picture import Picture


def text(sentence: str) -> str:
    """Return the sentence escaped, its percent signs bound to their numbers."""
    return escape(sentence).replace(" %", "&nbsp;%")


def image(pixels: np.ndarray, *, alt: str) -> str:
    """Return an <img> that holds these very pixels, uint8 (H, W, C), as PNG; the style draws squares."""
    height, width = pixels.shape[:2]
    return (
        f'<img class="pixels" src="{data_uri(encode_png(pixels))}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}" style="--w:{width}px">'
    )


def examples(pictures: Sequence[Picture], chosen: Picture | None) -> str:
    """Return the example pictures as buttons, the chosen one pressed; `data-index` says which."""
    buttons = "".join(
        f'<button type="button" data-index="{i}" aria-pressed="{str(_is(picture, chosen)).lower()}" '
        f'title="{escape(picture.about)}">{image(picture.pixels, alt=picture.about)}</button>'
        for i, picture in enumerate(pictures)
    )
    return f'<div class="examples" role="group" aria-label="Example images">{buttons}</div>'


def current(picture: Picture | None) -> str:
    """Return the sentence about the chosen picture; one that is not among the examples is shown as well."""
    if picture is None:
        return '<p class="current">No image yet.</p>'
    shown = "" if picture.is_example else image(picture.pixels, alt="The chosen image")
    return f'<p class="current">{shown}<span>{escape(picture.about)}</span></p>'


def message(sentences: Sequence[str], kind: Literal["hint", "busy", "done", "error"]) -> str:
    """Return what the page has to say, one paragraph a sentence."""
    paragraphs = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
    return f'<div class="message" data-kind="{kind}">{paragraphs}</div>'


def _is(example: Picture, chosen: Picture | None) -> bool:
    return chosen is not None and chosen.is_example and chosen.name == example.name
