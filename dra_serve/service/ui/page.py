"""The page itself: which controls there are, and which handler each of them calls."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from dra_serve.attacks import ATTACKS, get_attack
from dra_serve.service.ui import Service, controls, view
from dra_serve.service.ui.handlers import Handlers
from dra_serve.service.ui.live import Turn
from dra_serve.service.ui.mounting import use_own_temporary_folder
from dra_serve.service.ui.picture import Picture

_ATTACKS = {
    "pgd": "PGD",
    "fgsm": "FGSM: one step",
    "mifgsm": "MI-FGSM: with momentum",
    "apgd-ce": "Auto-PGD on cross-entropy",
    "apgd-dlr": "Auto-PGD on the DLR loss",
    "apgd-t": "Auto-PGD, towards each class",
    "fab-t": "FAB, towards each class",
    "fmn": "FMN: the nearest image",
    "square": "Square: no gradient, queries",
}
_QUERIES = 1000  # a few seconds of watching; the evaluation asks 5,000 times
_TITLE = "Attack image classifiers, live"
_INTRO = """
<h1>Attack image classifiers, live</h1>
<p>The attack looks for a nearby image that the model gets wrong, along its own gradient or by asking it. The
verdict is on the 8-bit image, just as a file would hold it.</p>
"""
_PICK = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-index]');
  if (button) trigger('select', {index: Number(button.dataset.index)});
});
"""
_SHOW_RESULT = """
() => {
  document.getElementById('result').scrollIntoView({behavior: 'smooth', block: 'nearest'});
  return [];
}
"""
_WATCHED = 16  # pages that watch an attack, or wait for one: each holds a thread; the pool says who attacks
_CACHE_SECONDS = (600, 3600)  # look every ten minutes; delete uploads older than an hour


def build_page(service: Service, *, examples: Path, attack_seconds: float) -> gr.Blocks:
    """Return the page; see `dra_serve.service.ui.build`."""
    use_own_temporary_folder()
    handlers = Handlers(
        service.registry,
        examples=examples,
        attack_seconds=attack_seconds,
        predictions=service.predictions,
        attacks=service.attacks,
        count=service.count,
    )
    page = gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=_CACHE_SECONDS)
    with page:
        _Page(handlers)
    page.queue(default_concurrency_limit=2, max_size=8)
    return page


class _Page:
    """The components, made in the order in which they stand on the page, then wired."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        first = handlers.examples[0] if handlers.examples else None
        message, stage = handlers.show(first, handlers.registry.pair)
        self.picture = gr.State(first)
        self.turn = gr.State(None)
        gr.HTML(_INTRO, elem_id="intro", apply_default_css=False)
        with gr.Row(elem_id="layout"):
            with gr.Column(elem_id="controls"):
                self._add_picture_controls(first)
                self._add_attack_controls()
            with gr.Column(elem_id="result"):
                self.message = gr.HTML(
                    message,
                    html_template='<div role="status" aria-live="polite">${value}</div>',
                    elem_id="message",
                    apply_default_css=False,
                )
                self.stage = gr.HTML(stage, elem_id="stage", apply_default_css=False)
        self._wire()

    def _add_picture_controls(self, first: Picture | None) -> None:
        gr.HTML("<h2>Image</h2>", apply_default_css=False)
        self.gallery = gr.HTML(
            view.examples(self.handlers.examples, first),
            js_on_load=_PICK,
            elem_id="examples",
            apply_default_css=False,
            visible=bool(self.handlers.examples),
        )
        self.file = gr.File(
            label="Upload an image: PNG, JPEG or WebP",
            file_types=[".png", ".jpg", ".jpeg", ".webp"],
            type="filepath",
            height=72,
            elem_id="upload",
        )
        self.current = gr.HTML(view.current(first), elem_id="current", apply_default_css=False)
        _, height, width = self.handlers.input_shape
        self.resize = gr.Button(f"Take it resized to {width} × {height}", visible=False, elem_id="resize")  # noqa: RUF001

    def _add_attack_controls(self) -> None:
        registry, shape = self.handlers.registry, self.handlers.input_shape
        gr.HTML("<h2>Attack</h2>", apply_default_css=False)
        self.attack_name = gr.Dropdown(
            [(_ATTACKS.get(name, name), name) for name in ATTACKS],
            value=controls.ATTACK,
            label="Method",
            elem_id="attack-name",
            filterable=False,
        )
        self.norm = gr.Radio(
            [("L∞ (per value)", "linf"), ("L2 (in total)", "l2")],
            value=controls.NORM,
            label="Norm",
            elem_id="norm",
        )
        self.eps_linf = gr.Slider(
            0, 32, controls.EPS, step=1, label="Radius eps", elem_id="eps-linf", buttons=[]
        )
        l2_max = math.ceil(math.sqrt(math.prod(shape)) / 20)
        self.eps_l2 = gr.Slider(
            0, l2_max, l2_max / 6, step=0.05, label="Radius eps", elem_id="eps-l2", visible=False, buttons=[]
        )
        self.steps = gr.Slider(1, 100, controls.STEPS, step=1, label="Steps", elem_id="steps", buttons=[])
        with gr.Accordion("More", open=False, elem_id="more"):
            self.restarts = gr.Slider(
                1, 5, controls.RESTARTS, step=1, label="Restarts", elem_id="restarts", buttons=[]
            )
            self.seed = gr.Number(
                controls.SEED, precision=0, label="Seed", elem_id="seed"
            )  # checked with the attack
            self.models = gr.CheckboxGroup(
                [model.name for model in registry],
                value=list(registry.pair),
                label="Models",
                elem_id="models",
            )
        with gr.Row(elem_id="buttons"):
            self.attack = gr.Button("Attack", variant="primary", elem_id="attack")
            self.stop = gr.Button("Stop", interactive=False, elem_id="stop")

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        buttons = [self.attack, self.stop]
        options = [self.norm, self.eps_linf, self.eps_l2, self.steps, self.restarts, self.seed]
        self.attack_name.change(
            _own_options, self.attack_name, [self.steps, self.restarts, self.seed], queue=False, **quiet
        )
        self.norm.change(_radius_for, self.norm, [self.eps_linf, self.eps_l2], queue=False, **quiet)

        waiting = self.attack.click(
            self._begin, None, [self.turn, self.message, *buttons], queue=False, js=_SHOW_RESULT, **quiet
        )
        running = waiting.then(
            self._attack,
            [self.turn, self.picture, self.models, self.attack_name, *options],
            [self.message, self.stage],
            concurrency_limit=_WATCHED,
            **quiet,
        )
        for end in (running.success, running.failure):
            end(self._ended, self.turn, [self.message, self.stage, *buttons], queue=False, **quiet)
        self.stop.click(self._stop, self.turn, self.stop, queue=False, **quiet)

        shown = [self.picture, self.gallery, self.current, self.resize, self.message, self.stage, *buttons]
        now = [self.turn, self.picture, self.models]
        self.gallery.select(self._pick, now, shown, queue=False, **quiet)
        self.file.upload(self._upload, [*now, self.file], [*shown, self.file], concurrency_limit=2, **quiet)
        self.resize.click(self._resize, now, shown, queue=False, **quiet)
        self.models.change(self._shown, now, shown, queue=False, **quiet)

    def _begin(self) -> tuple[Any, ...]:
        return *self.handlers.begin(), gr.update(interactive=False), gr.update(interactive=True)

    def _stop(self, turn: Turn | None) -> Any:
        self.handlers.stop(turn)
        return gr.update(interactive=False)

    def _ended(self, turn: Turn | None) -> tuple[Any, ...]:
        message, stage = self.handlers.ended(turn)
        return message or gr.skip(), gr.skip() if stage is None else stage, *_idle()

    def _attack(
        self,
        turn: Turn | None,
        picture: Picture | None,
        names: list[str],
        attack: str,
        norm: str,
        eps_linf: int,
        eps_l2: float,
        steps: int,
        restarts: int,
        seed: int,
    ) -> Iterator[tuple[str, str]]:
        options = controls.to_options(
            norm=norm, eps_linf=eps_linf, eps_l2=eps_l2, steps=steps, restarts=restarts, seed=seed
        )
        yield from self.handlers.attack(turn, picture, names, attack, options)

    def _pick(
        self, turn: Turn | None, _: Picture | None, names: list[str], event: gr.EventData
    ) -> tuple[Any, ...]:
        return self._shown(turn, self.handlers.example(getattr(event, "index", None)), names)

    def _upload(self, turn: Turn | None, _: Picture | None, names: list[str], file: str) -> tuple[Any, ...]:
        picture, problem = self.handlers.upload(file)
        return *self._shown(turn, picture, names, problem), None  # None: the field is free again

    def _resize(self, turn: Turn | None, picture: Picture | None, names: list[str]) -> tuple[Any, ...]:
        return self._shown(turn, picture and picture.accept(), names)

    def _shown(
        self, turn: Turn | None, picture: Picture | None, names: list[str], problem: str | None = None
    ) -> tuple[Any, ...]:
        """Return the values of `shown` in `_wire`; problem: what to say instead of the usual message."""
        message, stage = self.handlers.show(picture, names)
        if problem is not None:
            message = view.message([problem], "error")
        if turn is not None:
            turn.leave((message, stage))
        return (
            picture,
            view.examples(self.handlers.examples, picture),
            view.current(picture),
            gr.update(visible=picture is not None and picture.resized_from is not None),
            message,
            stage,
            *_idle(),
        )


def _radius_for(norm: str) -> tuple[Any, Any]:
    return gr.update(visible=norm == "linf"), gr.update(visible=norm == "l2")


def _own_options(attack: str) -> tuple[Any, ...]:
    """Show the steps (or queries), restarts and seed of an attack that has them, at its own length."""
    takes, defaults = get_attack(attack).options, get_attack(attack).defaults
    if "queries" in takes:
        length = gr.update(visible=True, label="Queries", maximum=5000, step=100, value=_QUERIES)
    elif "steps" in takes:
        length = gr.update(visible=True, label="Steps", maximum=100, step=1, value=defaults["steps"])
    else:
        length = gr.update(visible=False)
    return length, gr.update(visible="restarts" in takes), gr.update(visible="seed" in takes)


def _idle() -> tuple[Any, Any]:
    return gr.update(interactive=True), gr.update(interactive=False)
