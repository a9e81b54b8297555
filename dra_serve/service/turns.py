"""Work that takes turns: each piece in a thread of its own, one of them at a time, on one core's time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")
PassOn = Callable[[], None]
"""Call it now and then: it returns when it is one's turn again."""

SLICE = 0.01  # seconds of a turn: a handover on a busy machine costs up to some milliseconds


def take_turns(works: Sequence[Callable[[PassOn], T]], *, seconds: float = SLICE) -> list[T]:
    """Return the results of works, in order; raises the first error in that order, once all have ended.

    seconds: a turn at least, before `pass_on` hands over.
    """
    if len(works) == 1:
        return [works[0](lambda: None)]
    baton = _Baton(len(works), seconds)

    def run(me: int) -> T:
        baton.wait(me)
        try:
            return works[me](partial(baton.pass_on, me))
        finally:
            baton.leave(me)

    with ThreadPoolExecutor(len(works), thread_name_prefix="dra-turns") as threads:
        return [future.result() for future in [threads.submit(run, me) for me in range(len(works))]]


class _Baton:
    def __init__(self, runners: int, seconds: float) -> None:
        self._order = deque(range(runners))
        self._moved = threading.Condition()
        self._seconds, self._since = seconds, time.monotonic()

    def wait(self, me: int) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._order[0] == me)
            self._since = time.monotonic()

    def pass_on(self, me: int) -> None:
        if time.monotonic() - self._since < self._seconds:
            return
        with self._moved:
            self._order.rotate(-1)
            self._moved.notify_all()
        self.wait(me)

    def leave(self, me: int) -> None:
        with self._moved:
            self._order.remove(me)
            self._moved.notify_all()
