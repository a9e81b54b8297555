"""Our micro-batcher: what is asked while a model is busy becomes its next call. Nobody waits for company.

Whoever finds the model idle asks it in the thread at hand: the queue, with its change of thread, is for those
who would have had to wait anyway.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dra_serve.errors import Overloaded, ShuttingDown

Logits = Callable[[np.ndarray], np.ndarray]
"""x (N, C, H, W) -> logits (N, K). Runs in a thread; one bad image may make it raise."""


class Asked(NamedTuple):
    """One ask's part in a call. wait_ns: its time in the queue."""

    images: int
    wait_ns: int
    failed: bool


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of a model, in nanoseconds: put together, run, taken apart."""

    asks: tuple[Asked, ...]
    stack_ns: int
    run_ns: int
    split_ns: int

    @property
    def images(self) -> int:
        return sum(ask.images for ask in self.asks)


@dataclass(frozen=True)
class _Ask:
    x: np.ndarray
    since: int = field(default_factory=time.perf_counter_ns)


class Batcher:
    """Answers `ask` in order, with up to `max_images` images a call, while at most `queue` images wait.

    observe: told every call, on the event loop. All methods but `answer_now` belong to one event loop.
    """

    def __init__(
        self, name: str, logits: Logits, *, max_images: int, queue: int, observe: Callable[[Call], None]
    ) -> None:
        self._name, self._logits, self._observe = name, logits, observe
        self._max_images, self._queue = max_images, queue
        self._waiting: dict[asyncio.Future[np.ndarray], _Ask] = {}
        self._model = threading.Lock()  # whoever holds it asks the model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"dra-batch-{name}")
        self._runner: asyncio.Task[None] | None = None
        self._closed = False

    def answer_now(self, x: np.ndarray, loop: asyncio.AbstractEventLoop) -> np.ndarray | None:
        """Return logits (n, K) of x, computed in this thread, or None while others are asking: then `ask`.

        loop: the event loop of the other methods. Raises what the model raises.
        """
        if self._closed or self._runner is not None or not self._model.acquire(blocking=False):
            return None
        try:
            outcomes, *times = _answer(self._logits, [x])
        finally:
            self._model.release()
        loop.call_soon_threadsafe(self._observe, _call([x], [0], outcomes, times))
        (outcome,) = outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def ask(self, x: np.ndarray) -> np.ndarray:
        """Return logits (n, K) of x (n, C, H, W). A caller that is cancelled leaves the queue.

        Raises Overloaded if n more images would be too many, ShuttingDown after `close`, and what the
        model raises for these very images: another's are no reason to fail.
        """
        if self._closed:
            raise ShuttingDown("the service is shutting down; another instance may answer", retry_after=5)
        if sum(len(ask.x) for ask in self._waiting.values()) + len(x) > self._queue:
            raise Overloaded(f"the queue of {self._name} is full; try again", retry_after=1)
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting[answer] = _Ask(x)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        try:
            return await answer
        finally:
            self._waiting.pop(answer, None)

    async def close(self) -> None:
        """Take nothing more, answer what waits, end the thread."""
        self._closed = True
        if self._runner is not None:
            await self._runner
        self._thread.shutdown()

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._observe(await self._answer(self._take()))
        finally:  # no await since the queue was seen empty: nobody can have come between
            self._runner = None

    async def _answer(self, batch: dict[asyncio.Future[np.ndarray], _Ask]) -> Call:
        begun = time.perf_counter_ns()
        xs = [ask.x for ask in batch.values()]
        loop = asyncio.get_running_loop()
        outcomes, *times = await loop.run_in_executor(self._thread, self._answer_in_turn, xs)
        for answer, outcome in zip(batch, outcomes, strict=True):
            if answer.done():  # its caller has left
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        return _call(xs, [begun - ask.since for ask in batch.values()], outcomes, times)

    def _answer_in_turn(self, xs: Sequence[np.ndarray]) -> "_Answered":
        with self._model:
            return _answer(self._logits, xs)

    def _take(self) -> dict[asyncio.Future[np.ndarray], _Ask]:
        """Remove and return the first asks whose images fit into one call, at least one."""
        batch: dict[asyncio.Future[np.ndarray], _Ask] = {}
        images = 0
        for answer, ask in self._waiting.items():
            images += len(ask.x)
            if batch and images > self._max_images:
                break
            batch[answer] = ask
        for answer in batch:
            del self._waiting[answer]
        return batch


_Outcome = np.ndarray | Exception
_Answered = tuple[list[_Outcome], int, int, int]


def _answer(logits: Logits, xs: Sequence[np.ndarray]) -> _Answered:
    """Return logits or an error for each of xs, and the nanoseconds spent on stacking, running, splitting."""
    marks = [time.perf_counter_ns()]
    try:
        x = xs[0] if len(xs) == 1 else np.concatenate(xs)
        marks.append(time.perf_counter_ns())
        rows = logits(x)
        marks.append(time.perf_counter_ns())
        ends = np.cumsum([len(part) for part in xs])[:-1]
        outcomes: list[_Outcome] = list(np.split(rows, ends))
    except Exception as error:
        if len(xs) > 1:  # somebody's images are at fault: each alone, so that only theirs fail
            alone, *times = zip(*(_answer(logits, [one]) for one in xs), strict=True)
            return [outcomes[0] for outcomes in alone], sum(times[0]), sum(times[1]), sum(times[2])
        outcomes = [error]
    marks += [time.perf_counter_ns()] * (4 - len(marks))
    return outcomes, marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]


def _call(
    xs: Sequence[np.ndarray], waits: Sequence[int], outcomes: Sequence[_Outcome], times: Sequence[int]
) -> Call:
    asks = zip(xs, waits, outcomes, strict=True)
    stack_ns, run_ns, split_ns = times
    return Call(
        asks=tuple(Asked(len(x), wait, isinstance(outcome, Exception)) for x, wait, outcome in asks),
        stack_ns=stack_ns,
        run_ns=run_ns,
        split_ns=split_ns,
    )
