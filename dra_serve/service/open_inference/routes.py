"""The routes of /v2."""

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

import dra_serve
from dra_serve.checks import check_images
from dra_serve.errors import BadRequest, MalformedRequest, TooLarge, UnknownModel, UnsupportedFormat
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service.inputs import MAX_IMAGES
from dra_serve.service.open_inference.bodies import INDEX_BODY, INFER_BODY, errors
from dra_serve.service.open_inference.names import HEADER, VERSION
from dra_serve.service.open_inference.reading import InferRequest, read_request
from dra_serve.service.open_inference.schemas import (
    Indexed,
    Live,
    ModelConfigOut,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    StatisticsOut,
)
from dra_serve.service.open_inference.statistics import Statistics
from dra_serve.service.open_inference.writing import write_answer
from dra_serve.service.registry import Registry

T = TypeVar("T")
_LONGEST_INDEX = 4096


class Service(Protocol):
    """What the routes need of `api.Service`."""

    registry: Registry
    statistics: dict[str, Statistics]

    async def require_ready(self) -> None: ...
    async def logits(
        self, model: OnnxClassifier, read: Callable[[], tuple[np.ndarray, T]], request: Request
    ) -> tuple[np.ndarray, T]: ...


def add(app: FastAPI, service: Service) -> None:
    """Add the routes of /v2 to `app`."""
    _add_server(app, service)
    _add_statistics(app, service)  # before the models: "stats" is no model's name there
    _add_models(app, service)


def _add_server(app: FastAPI, service: Service) -> None:
    tags: dict[str, Any] = {"tags": ["v2"]}

    @app.get("/v2", **tags)
    async def server() -> ServerMetadata:
        """The Open Inference Protocol: what answers here, and its extensions."""
        extensions = ["binary_tensor_data", "model_configuration", "statistics"]
        return ServerMetadata(name="dra-serve", version=dra_serve.__version__, extensions=extensions)

    @app.get("/v2/health/live", **tags)
    async def live() -> Live:
        """The process answers."""
        return Live(live=True)

    @app.get("/v2/health/ready", responses=errors(503), **tags)
    async def ready() -> Ready:
        """Every model answers, as /readyz says."""
        await service.require_ready()
        return Ready(ready=True)

    @app.post("/v2/repository/index", openapi_extra=INDEX_BODY, responses=errors(400, 413, 422, 503), **tags)
    async def index(request: Request) -> list[Indexed]:
        """Every model that is loaded, and that is all there are."""
        _check_index(await request.body())
        return [Indexed(name=model.name, version=VERSION) for model in service.registry]


def _add_statistics(app: FastAPI, service: Service) -> None:
    def told(models: list[OnnxClassifier]) -> StatisticsOut:
        stats = [
            {"name": model.name, "version": VERSION, **service.statistics[model.name].as_dict()}
            for model in models
        ]
        return StatisticsOut.model_validate({"model_stats": stats})

    @app.get("/v2/models/stats", tags=["v2"], responses=errors(503))
    async def all_statistics() -> StatisticsOut:
        """What every model has been asked since the start."""
        return told(list(service.registry))

    @_with_version(app.get, "/v2/models/{model}", "/stats", responses=errors(404, 503))
    async def statistics(model: str, version: str = VERSION) -> StatisticsOut:
        """What the model has been asked since the start."""
        return told([_find(service, model, version)])


def _add_models(app: FastAPI, service: Service) -> None:
    @_with_version(app.get, "/v2/models/{model}", "", responses=errors(404, 503))
    async def metadata(model: str, version: str = VERSION) -> ModelMetadata:
        """The model's input and outputs."""
        return ModelMetadata.of(_find(service, model, version), VERSION)

    @_with_version(app.get, "/v2/models/{model}", "/ready", responses=errors(404, 503))
    async def model_ready(model: str, version: str = VERSION) -> ModelReady:
        """The model is loaded: all that are named here have been since the start."""
        return ModelReady(name=_find(service, model, version).name, ready=True)

    @_with_version(app.get, "/v2/models/{model}", "/config", responses=errors(404, 503))
    async def config(model: str, version: str = VERSION) -> ModelConfigOut:
        """The model's configuration: the largest batch, the classes, and the range of x."""
        return ModelConfigOut.of(_find(service, model, version), MAX_IMAGES)

    @_with_version(
        app.post,
        "/v2/models/{model}",
        "/infer",
        openapi_extra=INFER_BODY,
        responses=errors(400, 404, 408, 413, 415, 422, 429, 503),
    )
    async def infer(request: Request, model: str, version: str = VERSION) -> Response:
        """Logits and probabilities of 1 to 32 images, JSON or binary, without rounding to 8 bits."""
        return await _infer(service, _find(service, model, version), request)


async def _infer(service: Service, model: OnnxClassifier, request: Request) -> Response:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        detail = f"Content-Encoding: got {encoding[:60]!r}; allowed: none, or identity"
        raise UnsupportedFormat(detail, field="Content-Encoding")
    body, length = await request.body(), request.headers.get(HEADER)

    def read() -> tuple[np.ndarray, InferRequest]:
        asked = read_request(body, length, model.input_shape, max_images=MAX_IMAGES)
        check_images(asked.x, model.input_shape, field="inputs[0].data")
        return asked.x, asked

    logits, asked = await service.logits(model, read, request)
    answer, head = await run_in_threadpool(write_answer, asked, logits, model=model.name, version=VERSION)
    if head is None:
        return Response(answer, media_type="application/json")
    return Response(answer, headers={HEADER: str(head)}, media_type="application/octet-stream")


def _find(service: Service, name: str, version: str) -> OnnxClassifier:
    model = service.registry.get(name)
    if version != VERSION:
        raise UnknownModel("version", given=version, allowed=VERSION)
    return model


def _check_index(body: bytes) -> None:
    """Raise unless the body is empty or an object that asks, at most, for the ready ones: all are."""
    if not body:
        return
    if len(body) > _LONGEST_INDEX:  # it is parsed here, where everybody waits
        raise TooLarge(f"body: more than {_LONGEST_INDEX:,} bytes", field="body")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest('body: must be empty, {} or {"ready": true}', field="body") from error
    if not isinstance(asked, dict) or not asked.keys() <= {"ready"}:
        raise BadRequest("body", given=asked, allowed='nothing, {} or {"ready": true}')
    if not isinstance(asked.get("ready", True), bool):
        raise BadRequest("ready", given=asked["ready"], allowed="true or false")


def _with_version(
    add: Callable[..., Any], path: str, end: str, **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds a route twice: as it stands, and with the version in the path."""

    def decorate(route: Callable[..., Any]) -> Callable[..., Any]:
        add(f"{path}/versions/{{version}}{end}", tags=["v2"], **options)(route)
        add(f"{path}{end}", tags=["v2"], **options)(route)
        return route

    return decorate
