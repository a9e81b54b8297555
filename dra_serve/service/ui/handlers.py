"""What each button does: values of the controls in, HTML out. Gradio calls these; they do not know it."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dra_serve.attacks import get_attack
from dra_serve.errors import DraServeError, Overloaded, ShuttingDown
from dra_serve.images import fit
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.admission import Pool
from dra_serve.service.answers import AttackAnswer, AttackRequest
from dra_serve.service.attack_job import AttackJob
from dra_serve.service.logs import log
from dra_serve.service.predicting import predict_pixels
from dra_serve.service.registry import Registry
from dra_serve.service.ui.card import Card
from dra_serve.service.ui.faces import introduce
from dra_serve.service.ui.live import Count, Turn, watch
from dra_serve.service.ui.picture import Picture, read_examples, read_upload
from dra_serve.service.ui.stage import stage
from dra_serve.service.ui.view import message
from dra_serve.service.words import describe

READY = "Press Attack: the same attack meets every model, with full knowledge of its weights."
WAITING = "Waiting for another visitor's attack to end …"
TOO_MANY = "The attack did not start: too many visitors wait for theirs. Try again in a moment."
STOPPED = "Stopped. This is the judgement on the best images so far."
_FRAME = 0.08  # seconds between two pictures of the stage: what eyes and a phone's network can follow
_PAUSE = 0.12  # seconds a step is shown at least: a small network's whole attack takes 0.1 s
_PAUSES = 0.2  # of the attack's budget, that the page takes to show it at least


class Handlers:
    """The page's behaviour over these models; what belongs to one visitor is in the arguments.

    No model is asked but in `predictions` and `attacks`, the API's own pools: visitors are many, threads few.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        examples: Path,
        attack_seconds: float,
        predictions: Pool,
        attacks: Pool,
        count: Count,
    ) -> None:
        first = registry.get(registry.pair[0])
        self.registry = registry
        self.input_shape = first.input_shape
        self.examples = read_examples(examples, first.input_shape, first.classes)
        self._seconds, self._count = attack_seconds, count
        self._predictions, self._attacks = predictions, attacks
        self._faces = {model.name: introduce(model) for model in registry}

    def show(self, picture: Picture | None, names: Sequence[str]) -> tuple[str, str]:
        """Return the message and the stage before an attack."""
        if picture is None:
            return message(["Choose an example or upload an image."], "hint"), ""
        if picture.resized_from is not None:
            return message([self._ask_to_resize(picture.resized_from)], "error"), ""
        if not names:
            return message(["Choose at least one model, under More."], "error"), ""
        try:
            cards = self._cards(picture, names)
        except DraServeError as error:
            return message([error.detail], "error"), ""
        return message([READY], "hint"), stage(cards)

    def example(self, index: Any) -> Picture | None:
        """Return the example with this index, which comes from the browser; None if there is none."""
        return self.examples[index] if index in range(len(self.examples)) else None

    def upload(self, file: str) -> tuple[Picture | None, str | None]:
        """Return the picture in an uploaded file, or the sentence that says why there is none.

        The file is deleted: nobody's picture stays on the disk.
        """
        path = Path(file)
        try:
            return read_upload(path, self.input_shape), None
        except DraServeError as error:
            return None, error.detail
        finally:
            path.unlink(missing_ok=True)

    def begin(self) -> tuple[Turn, str]:
        """Return a new attack's turn, and the message while it waits for it."""
        return Turn(), message([WAITING], "busy")

    def stop(self, turn: Turn | None) -> None:
        """End the attack at its next step, or before it has begun."""
        if turn is not None:
            turn.stop.set()

    def ended(self, turn: Turn | None) -> tuple[str | None, str | None]:
        """Return message and stage once no more of an attack will come; None for what stays.

        Answers overtake each other: a step of an attack that was left may have come after what the
        visitor went on to, which is shown again.
        """
        if turn is not None and turn.instead is not None:
            return turn.instead
        if turn is not None and not turn.began:
            return message([TOO_MANY], "error"), None
        return None, None

    def attack(
        self,
        turn: Turn | None,
        picture: Picture | None,
        names: Sequence[str],
        attack: str,
        options: dict[str, Any],
    ) -> Iterator[tuple[str, str]]:
        """Yield message and stage as the attack goes on; the last pair is the verdict.

        options: of those, the attack gets the ones it takes; the page hides the others.
        """
        turn = turn or Turn()
        turn.began = True
        try:
            for shown in self._attack(turn.stop, picture, names, attack, options):
                if turn.instead is None:
                    yield shown
        except DraServeError as error:
            crowded = isinstance(error, Overloaded) and not isinstance(error, ShuttingDown)
            yield message([TOO_MANY if crowded else error.detail], "error"), self.show(picture, names)[1]
        except Exception as error:
            log("unexpected", error=repr(error))
            yield message(["Something went wrong on our side; it has been logged."], "error"), ""

    def _attack(
        self,
        stop: threading.Event,
        picture: Picture | None,
        names: Sequence[str],
        attack: str,
        options: dict[str, Any],
    ) -> Iterator[tuple[str, str]]:
        if picture is None or picture.resized_from is not None or not names or stop.is_set():
            yield self.show(picture, names)
            return
        models = self.registry.select(names)
        taken = {name: value for name, value in options.items() if name in get_attack(attack).options}
        request = AttackRequest(attack=attack, options=taken, top_k=len(models[0].classes))
        job = AttackJob(models, fit(picture.pixels, self.input_shape, resize=False), request, self._seconds)
        pause = min(_PAUSE, _PAUSES * self._seconds / job.check().total_steps)
        unit = ("query", "queries") if "queries" in taken else ("step", "steps")
        cards = {card.face.name: replace(card, unit=unit) for card in self._cards(picture, names)}
        says, shown, due = WAITING, 0.0, 0.0
        for news in watch(job, stop, pool=self._attacks, count=self._count):
            if isinstance(news, AttackAnswer):
                yield self._judged(news, cards, stopped=stop.is_set())
                return
            for step in news:
                card = cards[step.model]
                cards[step.model] = replace(card, steps=(*card.steps, step))
                says = f"Attacking {' and '.join(cards)} …"
            now = time.monotonic()
            if now - shown >= _FRAME:
                shown = now
                yield message([says], "busy"), stage(list(cards.values()))
            if news:  # a fast attack is shown slower than it is, a slow one as it comes
                due = (due or now) + pause
                stop.wait(due - time.monotonic())

    def _judged(self, answer: AttackAnswer, cards: dict[str, Card], *, stopped: bool) -> tuple[str, str]:
        done = [replace(cards[result.model], attacked=result) for result in answer.results]
        ended_early = stopped and not all(result.complete for result in answer.results)
        sentences = ([STOPPED] if ended_early else []) + describe(answer)
        return message(sentences, "done"), stage(done)

    def _cards(self, picture: Picture, names: Sequence[str]) -> list[Card]:
        models = self.registry.select(names)
        return self._predictions.wait(lambda _: [self._card(picture, model) for model in models])

    def _card(self, picture: Picture, model: OnnxClassifier) -> Card:
        pixels = fit(picture.pixels, model.input_shape, resize=False)
        clean = predict_pixels(model, [pixels], top_k=len(model.classes))[0]
        return Card(face=self._faces[model.name], pixels=pixels, clean=clean, truth=picture.truth)

    def _ask_to_resize(self, own_size: str) -> str:
        _, height, width = self.input_shape
        return (
            f"This image has {own_size} pixels; the models take {width} × {height}. "  # noqa: RUF001
            "Take it resized, or upload one of that size."
        )
