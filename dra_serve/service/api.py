"""The HTTP API: thin routes from bytes to images to models to schemas. `create_app` is the whole of it."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException

from dra_serve.errors import DraServeError, ShuttingDown
from dra_serve.images import decode, fit, to_float
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.admission import Pool, Traffic, while_connected
from dra_serve.service.answers import AttackAnswer, to_prediction
from dra_serve.service.attack_job import AttackJob, AttackStream
from dra_serve.service.batcher import Batcher, Call
from dra_serve.service.guard import Guard
from dra_serve.service.inputs import MAX_IMAGES, Inputs, read_inputs
from dra_serve.service.metrics import Metrics
from dra_serve.service.open_inference import add_v2
from dra_serve.service.openapi import describe_body, problems
from dra_serve.service.problems import http_problem_response
from dra_serve.service.registry import Registry
from dra_serve.service.schemas import (
    AttackFields,
    AttackOut,
    Health,
    ModelsOut,
    PredictFields,
    PredictionOut,
    PredictOut,
    StreamFields,
)
from dra_serve.service.settings import Settings
from dra_serve.service.statistics import Statistics

T = TypeVar("T")
_DOCS = Path(__file__).parent / "docs.html"
_PREDICT_THREADS = 2
_PREDICT_QUEUE = 64  # images to decode, and again images that wait for a model


class Service:
    """What the routes share: the models, the two pools, the counters."""

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

    async def predict(self, request: Request) -> PredictOut:
        inputs = await read_inputs(request)
        fields = inputs.parse(PredictFields)
        model = self.registry.get(fields.model)

        def read() -> tuple[np.ndarray, None]:
            return to_float(np.stack(_decode(inputs, model, resize=fields.resize))), None

        logits, _ = await self.logits(model, read, request)
        predictions = [to_prediction(row, model.classes, fields.top_k) for row in logits]
        return PredictOut(model=model.name, predictions=[PredictionOut.of(p) for p in predictions])

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

    async def read_attack(self, request: Request) -> AttackJob:
        """Return the attack a request asks for, decoded and checked."""
        return await self._read_attack(request, AttackFields)

    async def read_stream(self, request: Request) -> AttackJob:
        """Return the same of a request for a stream."""
        return await self._read_attack(request, StreamFields)

    async def _read_attack(self, request: Request, model: type[AttackFields]) -> AttackJob:
        inputs = await read_inputs(request)
        inputs.require_one_image()
        fields = inputs.parse(model)
        models = self.registry.select(fields.models)

        def work(_: Any) -> AttackJob:
            job = AttackJob(
                models,
                _decode(inputs, models[0], resize=fields.resize)[0],
                fields.request(),
                self.settings.attack_seconds,
                fields.every if isinstance(fields, StreamFields) else None,
            )
            job.check()
            return job

        return await self.predictions.run(work, request)

    async def attack(self, request: Request, job: AttackJob) -> AttackOut:
        answer = await self.attacks.run(job.run, request)
        self.count(answer)
        return AttackOut.of(answer)

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


def create_app(registry: Registry, settings: Settings, traffic: Traffic | None = None) -> FastAPI:
    """Return the application that serves the models of `registry`.

    With settings.shows_ui and gradio installed the demo is at /ui. traffic: pass one to see what runs,
    and to set `draining` before a shutdown.
    """
    service = Service(registry, settings, traffic or Traffic())
    app = FastAPI(
        title="dra-serve",
        version="1",
        summary="Predictions of robust image classifiers, and attacks on them.",
        docs_url=None,  # FastAPI's pages load their scripts from a CDN; ours is docs.html
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Guard, traffic=service.traffic, metrics=service.metrics)
    app.add_exception_handler(HTTPException, _framework_error)
    _add_v1(app, service)
    add_v2(app, service)
    _add_health(app, service)
    _add_pages(app, service)
    return app


def _add_v1(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/predict",
        tags=["predict"],
        openapi_extra=describe_body(PredictFields, many=True),
        responses=problems(400, 404, 413, 415, 422, 429, 503),
    )
    async def predict(request: Request) -> PredictOut:
        """Classify one image or several."""
        return await service.predict(request)

    @app.post(
        "/v1/attack",
        tags=["attack"],
        openapi_extra=describe_body(AttackFields, many=False),
        responses=problems(400, 404, 413, 415, 422, 429, 503),
    )
    async def attack(request: Request, job: Annotated[AttackJob, Depends(service.read_attack)]) -> AttackOut:
        """Attack one image on one model or several, and see which model falls for whose image."""
        return await service.attack(request, job)

    async def open_stream(
        job: Annotated[AttackJob, Depends(service.read_stream)],
    ) -> AsyncIterator[AttackStream]:
        stream = AttackStream(job, service.attacks, service.count)
        try:
            yield stream
        finally:
            stream.close()

    @app.post(
        "/v1/attack/stream",
        tags=["attack"],
        response_class=EventSourceResponse,
        openapi_extra=describe_body(StreamFields, many=False),
        responses=problems(400, 404, 413, 415, 422, 429, 503),
    )
    async def attack_stream(
        stream: Annotated[AttackStream, Depends(open_stream)],
    ) -> AsyncIterator[ServerSentEvent]:
        """Attack, told live: `step` events, then `result` (as /v1/attack answers) or `error` (a problem)."""
        async for event in stream.events():
            yield event

    @app.get("/v1/models", tags=["models"], responses=problems(503))
    async def models() -> ModelsOut:
        """Every model with its classes, input, training facts and receipts."""
        return ModelsOut.of(service.registry)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/livez", tags=["health"])
    async def livez() -> Health:
        """The process answers."""
        return Health(status="alive")

    @app.get("/readyz", tags=["health"], responses=problems(503))
    async def readyz() -> Health:
        """Every model is loaded and answers a golden image as it did when it was loaded."""
        await service.require_ready()
        return Health(status="ready")

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return service.metrics.response()


def _add_pages(app: FastAPI, service: Service) -> None:
    page = _DOCS.read_text(encoding="utf-8")
    shows_ui = service.settings.shows_ui and importlib.util.find_spec("gradio") is not None

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        return RedirectResponse("/ui/" if shows_ui else "/docs")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page)

    if shows_ui:
        from dra_serve.service import ui

        ui.mount(app, service, attack_seconds=service.settings.attack_seconds)


async def _framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_problem_response(error, request.url.path)


class NotReady(DraServeError):
    """A model answers wrongly: this process must not be asked."""

    status = 503
    title = "Not ready"


def _decode(inputs: Inputs, model: OnnxClassifier, *, resize: bool) -> list[np.ndarray]:
    return [fit(decode(image), model.input_shape, resize=resize) for image in inputs.images]
