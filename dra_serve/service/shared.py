"""What the routes share: the models, the pools, the batchers, the counters."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request

from dra_serve.errors import DraServeError, ShuttingDown
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.admission import Pool, Traffic, while_connected
from dra_serve.service.answers import AttackAnswer
from dra_serve.service.batcher import Batcher, Call
from dra_serve.service.inputs import MAX_IMAGES
from dra_serve.service.metrics import Metrics
from dra_serve.service.open_inference.statistics import Statistics
from dra_serve.service.registry import Registry
from dra_serve.service.settings import Settings

T = TypeVar("T")
_PREDICT_THREADS = 2
_PREDICT_QUEUE = 64  # images to decode, and again images that wait for a model


class NotReady(DraServeError):
    """A model answers wrongly: this process must not be asked."""

    status = 503
    title = "Not ready"


class Service:
    """One process's; `close` it at the end."""

    def __init__(self, registry: Registry, settings: Settings, traffic: Traffic) -> None:
        self.registry, self.settings, self.traffic = registry, settings, traffic
        self.metrics = Metrics()
        self.statistics = {model.name: Statistics() for model in registry}
        # Two pools: a prediction takes milliseconds and must not wait behind attacks that take seconds.
        self.predictions = Pool("predictions", threads=_PREDICT_THREADS, queue=_PREDICT_QUEUE, retry_after=1)
        self._batchers = {
            model.name: Batcher(
                model.name,
                model.logits,
                max_images=MAX_IMAGES,
                queue=_PREDICT_QUEUE,
                observe=partial(self._count_call, model.name),
            )
            for model in registry
        }
        self.attacks = Pool("attacks", threads=settings.threads, queue=settings.queue, retry_after=5)
        self._checking: asyncio.Future[bool] | None = None

    async def logits(
        self, model: OnnxClassifier, read: Callable[[], tuple[np.ndarray, T]], request: Request
    ) -> tuple[np.ndarray, T]:
        """Return the model's logits (N, K) of the images that `read` returns, and what came with them.

        An idle model answers in the thread that has read them, a busy one in its next call, together with
        whatever else waits for it.
        """
        batcher, loop = self._batchers[model.name], asyncio.get_running_loop()

        def work(_: Any) -> tuple[np.ndarray, T, np.ndarray | None]:
            x, rest = read()
            return x, rest, batcher.answer_now(x, loop)

        x, rest, logits = await self.predictions.run(work, request)
        if logits is None:
            logits = await while_connected(asyncio.ensure_future(batcher.ask(x)), request)
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"{model.name}: logits that are not finite")
        return logits, rest

    async def require_ready(self) -> None:
        """Raise ShuttingDown while draining, NotReady if a model has changed its mind."""
        if self.traffic.draining:
            raise ShuttingDown("the service is shutting down", retry_after=5)
        if self._checking is None:  # one check at a time: whoever asks during it has its answer
            self._checking = asyncio.ensure_future(asyncio.to_thread(self.registry.is_right))
            self._checking.add_done_callback(lambda _: setattr(self, "_checking", None))
        if not await asyncio.shield(self._checking):
            raise NotReady("a model no longer answers its golden image as it did at start")

    def count(self, answer: AttackAnswer) -> None:
        for result in answer.results:
            self.metrics.attack(
                result.model, success=result.success, complete=result.complete, steps=result.steps_done
            )

    def _count_call(self, model: str, call: Call) -> None:
        self.metrics.call(model, call.images)
        self.statistics[model].add(call)

    async def close(self) -> None:
        """Take no more work, answer the predictions that wait, stop the attacks that still run."""
        for batcher in self._batchers.values():
            await batcher.close()
        self.attacks.close()
        self.predictions.close()
