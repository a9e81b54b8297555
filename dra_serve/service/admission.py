"""How much work is let in: a few threads, a bounded queue, and a flag that says nobody waits any more."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from dra_serve.errors import Overloaded, ShuttingDown
from dra_serve.service.problems import ClientGone

T = TypeVar("T")
Work = Callable[[threading.Event], T]
"""Runs in a thread; looks at the event now and then, and ends early once it is set."""


class Pool:
    """`threads` pieces of work at once and `queue` more waiting; another one raises Overloaded."""

    def __init__(self, name: str, *, threads: int, queue: int, retry_after: int) -> None:
        self.name = name
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"dra-{name}")
        self._places = threading.BoundedSemaphore(threads + queue)
        self._retry_after = retry_after
        self._stops: set[threading.Event] = set()

    def submit(self, work: Work[T], stop: threading.Event) -> Future[T]:
        """Return the future of work(stop); Overloaded if every place is taken, ShuttingDown after `close`."""
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"the queue of {self.name} is full; try again", retry_after=self._retry_after)
        try:
            future = self._executor.submit(work, stop)
        except RuntimeError as error:
            self._places.release()
            raise _closing() from error
        self._stops.add(stop)
        future.add_done_callback(lambda _: self._leave(stop))
        return future

    def _leave(self, stop: threading.Event) -> None:
        self._stops.discard(stop)
        self._places.release()

    async def run(self, work: Work[T], request: Request) -> T:
        """Return the result of work(stop). If the client leaves, set `stop` and raise ClientGone."""
        stop = threading.Event()
        try:
            return await while_connected(asyncio.wrap_future(self.submit(work, stop)), request)
        finally:
            stop.set()  # work that has begun ends by the flag

    def wait(self, work: Work[T]) -> T:
        """Return the result of work(stop) to a thread that has nothing else to do until then."""
        try:
            return self.submit(work, threading.Event()).result()
        except CancelledError as error:
            raise _closing() from error

    def close(self) -> None:
        """Take nothing more, and stop what still runs: its clients have been given up."""
        for stop in list(self._stops):
            stop.set()
        self._executor.shutdown(cancel_futures=True)


async def while_connected(job: asyncio.Future[T], request: Request) -> T:
    """Return the result of job. If the client leaves, or this is cancelled, cancel it; raise ClientGone.

    Cancelling takes it out of its queue. The request's body must have been read: what comes after it is
    the disconnect.
    """
    gone: asyncio.Future[None] = asyncio.ensure_future(_disconnect(request))
    first: list[asyncio.Future[Any]] = [job, gone]
    try:
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientGone("the client closed the connection")
        return job.result()
    finally:
        job.cancel()
        gone.cancel()


class Traffic:
    """The requests that a shutdown waits for, and whether one has begun. One per process."""

    def __init__(self) -> None:
        self.running = 0
        self.draining = False


def _closing() -> ShuttingDown:
    return ShuttingDown("the service is shutting down", retry_after=5)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
