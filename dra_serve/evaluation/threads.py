"""Rows parted among threads: ONNX Runtime computes outside Python's lock, so each takes a core of its own."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

from dra_serve.checked import Checked, trusting
from dra_serve.classifier import Array, Classifier, Loss
from dra_serve.evaluation.shards import local_shards

T = TypeVar("T")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_a_shard(environment: Mapping[str, str]) -> int:
    """Return how many threads each shard on this machine may have, so that each core gets one; at least 1.

    Raises BadRequest as `local_shards` does.
    """
    return max(1, cores() // local_shards(environment))


def in_slices(
    work: Callable[[Classifier, slice], T], model: Classifier, rows: int, *, threads: int
) -> list[T]:
    """Return work(model, part) for each of `threads` parts of so many rows, in order, all at once.

    The first that fails ends the others at their next question to the model, and its error is raised;
    an interrupt does the same. One part, and no thread at all, if there is one row or one thread.
    """
    count = max(1, min(threads, rows))
    parts = [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]
    if count == 1:
        return [work(model, parts[0])]
    ended = Event()
    asked = _UntilEnded(model, ended)
    futures: list[Future[T]] = []
    with ThreadPoolExecutor(count) as pool:
        try:
            futures += (pool.submit(work, asked, part) for part in parts)
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            ended.set()
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, _Ended)):
        raise error
    return [future.result() for future in futures]


class _Ended(Exception):
    """Another part has failed, or nobody waits any more."""


class _UntilEnded(Checked):
    """A classifier that answers until it is told otherwise: not every attack can be stopped by a callback."""

    def __init__(self, model: Classifier, ended: Event) -> None:
        self.classes, self.input_shape = model.classes, model.input_shape
        self.has_gradient = getattr(model, "has_gradient", True)
        self._plain, self._ended = trusting(model), ended

    def _logits(self, x: Array) -> Array:
        self._go_on()
        return self._plain.logits(x)

    def _loss_and_grad(
        self, x: Array, y: Array, loss: Loss = "ce", target: Array | None = None
    ) -> tuple[Array, Array, Array]:
        self._go_on()
        return self._plain.loss_and_grad(x, y, loss, target)

    def _go_on(self) -> None:
        if self._ended.is_set():
            raise _Ended
