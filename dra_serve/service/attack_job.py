"""An attack on its way through the service: checked in full, then run in a thread, watched by its client."""

import asyncio
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from fastapi.sse import ServerSentEvent

from dra_serve.attacks import get_attack
from dra_serve.attacks.parameters import Parameters
from dra_serve.errors import BadRequest, DraServeError
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.admission import Pool
from dra_serve.service.answers import AttackAnswer, AttackRequest, OnStep, Step
from dra_serve.service.attacking import attack_models, check_attack
from dra_serve.service.logs import log
from dra_serve.service.problems import to_problem
from dra_serve.service.schemas.attack import MAX_TOTAL_QUERIES, MAX_TOTAL_STEPS
from dra_serve.service.schemas.attacked import AttackOut, StepOut


@dataclass(frozen=True)
class AttackJob:
    """One request's attack. seconds: its budget, counted from the moment it begins to run.

    every: the steps of a stream that carry an image, None for none.
    """

    models: list[OnnxClassifier]
    pixels: np.ndarray
    request: AttackRequest
    seconds: float
    every: int | None = None

    def check(self) -> Parameters:
        """Return the values in force; BadRequest for what cannot be done or is more than we do."""
        parameters = check_attack(self.models, self.request)
        total = parameters.total_steps * len(self.models)
        limit = MAX_TOTAL_STEPS if get_attack(self.request.attack).needs_gradient else MAX_TOTAL_QUERIES
        if total > limit:
            given = f"{parameters.total_steps:,} steps, restarts included, x {len(self.models)} models"
            raise BadRequest("steps", given=given, allowed=f"at most {limit:,} in all")
        return parameters

    def run(self, stop: threading.Event, on_step: OnStep | None = None) -> AttackAnswer:
        """Return the answer; ends early, incomplete, when the budget is over or `stop` is set."""

        def watch(step: Step) -> bool | None:
            if on_step is not None:
                on_step(step)
            return False if stop.is_set() else None

        deadline = time.monotonic() + self.seconds
        return attack_models(self.models, self.pixels, self.request, watch, deadline)


class AttackStream:
    """An attack that has a place in the pool, told event by event: `step`s, then `result` or `error`.

    Made before the response begins, so that a full queue is still a 429. Call `close` at the end,
    however it comes: the attack stops at its next step.
    """

    def __init__(self, job: AttackJob, pool: Pool, count: Callable[[AttackAnswer], None]) -> None:
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
        self._stop = threading.Event()

        def emit(event: ServerSentEvent) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        def tell(step: Step) -> None:
            told = StepOut.of(step, every=job.every).model_dump(exclude_none=True)
            emit(ServerSentEvent(event="step", data=told))

        def work(stop: threading.Event) -> AttackAnswer:
            answer = job.run(stop, tell)
            count(answer)
            return answer

        self.future: Future[AttackAnswer] = pool.submit(work, self._stop)
        self.future.add_done_callback(lambda future: None if future.cancelled() else emit(_last(future)))

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Yield every event; the last one is `result` or `error`."""
        while True:
            event = await self._events.get()
            yield event
            if event.event != "step":
                return

    def close(self) -> None:
        """Stop the attack if it still runs, or take it out of the queue."""
        self._stop.set()
        self.future.cancel()


def _last(future: Future[AttackAnswer]) -> ServerSentEvent:
    error = future.exception()
    if error is None:
        return ServerSentEvent(event="result", data=AttackOut.of(future.result()))
    if not isinstance(error, DraServeError):
        log("unexpected", trace="".join(traceback.format_exception(error)))
        error = DraServeError("unexpected")
    return ServerSentEvent(event="error", data=to_problem(error))
