"""An attack that is watched: it runs in the service's pool, and the page plays its steps side by side."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from dra_serve.errors import ShuttingDown
from dra_serve.service.admission import Pool
from dra_serve.service.answers import AttackAnswer, Step
from dra_serve.service.attack_job import AttackJob

Count = Callable[[AttackAnswer], None]
Frame = tuple[Step, ...]
"""The next step of each model, none ahead of another; empty while nothing happens, to notice who has left."""

_PATIENCE = 0.5  # seconds


@dataclass
class Turn:
    """One visitor's attack, from the press of the button.

    stop: set it to end the attack at its next step. instead: message and stage that the visitor went on
    to; of this attack they are to see no more.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    began: bool = False
    instead: tuple[str, str] | None = None

    def leave(self, instead: tuple[str, str]) -> None:
        """End the attack without a verdict."""
        self.instead = instead
        self.stop.set()


def watch(
    job: AttackJob, stop: threading.Event, *, pool: Pool, count: Count
) -> Iterator[Frame | AttackAnswer]:
    """Yield frames of steps, then the answer; raises Overloaded, and what `job.run` raises.

    The attack is never kept waiting for its watcher: others wait for its place. count: told the answer.
    stop: set it to end the attack at its next step and judge what there is. Closing the iterator does
    the same, so nobody who leaves keeps a thread busy.
    """
    news: SimpleQueue[Step | None] = SimpleQueue()

    def work(stop: threading.Event) -> AttackAnswer:
        answer = job.run(stop, news.put)
        count(answer)
        return answer

    running = pool.submit(work, stop)
    running.add_done_callback(lambda _: news.put(None))
    waiting: dict[str, deque[Step]] = {model.name: deque() for model in job.models}
    ended = False
    try:
        while not ended or any(waiting.values()):
            ended = _collect(news, waiting, patient=not any(waiting.values())) or ended
            yield _next(waiting)
        yield running.result()
    except CancelledError as error:
        raise ShuttingDown("the service is shutting down", retry_after=5) from error
    finally:
        stop.set()
        running.cancel()


def _next(waiting: dict[str, deque[Step]]) -> Frame:
    first = min((steps[0].step for steps in waiting.values() if steps), default=0)
    return tuple(steps.popleft() for steps in waiting.values() if steps and steps[0].step == first)


def _collect(news: SimpleQueue[Step | None], waiting: dict[str, deque[Step]], *, patient: bool) -> bool:
    """Move what has come to `waiting`, after some patience for the first; return whether no more will."""
    try:
        step = news.get(timeout=_PATIENCE) if patient else news.get_nowait()
        while step is not None:
            waiting[step.model].append(step)
            step = news.get_nowait()
    except Empty:
        return False
    return True
