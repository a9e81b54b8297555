"""The demo at /ui: attack the loaded models in the browser, live and side by side.

    picture.py   an example or an upload, and the words about it
    live.py      an attack in the service's pool, its steps as they happen
    view.py      pieces of the page as HTML, everything escaped
    controls.py  what the controls say at first, and what an attack makes of them
    card.py      what is known of one model; faces.py: how it is introduced
    stage.py     the models' cards side by side; chart.py, bars.py: two parts of a card
    handlers.py  what each button does
    page.py      the layout and the wiring, in Gradio; mounting.py: where it stands

Gradio takes 8 s to import, so nothing here imports it before `build` or `mount` is called.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dra_serve.errors import MissingExtra
from dra_serve.service.admission import Pool
from dra_serve.service.answers import AttackAnswer
from dra_serve.service.registry import Registry

if TYPE_CHECKING:
    import gradio as gr
    from fastapi import FastAPI

PATH = "/ui"
EXAMPLES = Path(__file__).parents[2] / "bundled" / "examples"
ATTACK_SECONDS = 20

# Read by Gradio when it is imported: the page asks no other host for anything.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


class Service(Protocol):
    """What the page shares with the API: the models, the pools its work runs in, who counts the attacks."""

    registry: Registry
    predictions: Pool
    attacks: Pool

    def count(self, answer: AttackAnswer) -> None: ...


def build(
    service: Service, *, examples: Path = EXAMPLES, attack_seconds: float = ATTACK_SECONDS
) -> "gr.Blocks":
    """Return the page over the service's models.

    examples: a folder of PNG files in the models' own size; others in it are left out.
    attack_seconds: the budget of one attack; then the best image so far is judged.
    Raises MissingExtra without gradio.
    """
    _require_gradio()
    from dra_serve.service.ui.page import build_page

    return build_page(service, examples=examples, attack_seconds=attack_seconds)


def mount(
    app: "FastAPI",
    service: Service,
    *,
    examples: Path = EXAMPLES,
    attack_seconds: float = ATTACK_SECONDS,
) -> "FastAPI":
    """Return `app` with the page at /ui; arguments and errors as in `build`.

    One process only: Gradio's queue and sessions live in memory.
    """
    _require_gradio()
    from dra_serve.service.ui.mounting import mount_page

    return mount_page(app, build(service, examples=examples, attack_seconds=attack_seconds), path=PATH)


def _require_gradio() -> None:
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingExtra("gradio", "ui") from error
