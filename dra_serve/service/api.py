"""The HTTP application: `create_app` puts the rooms of `routes`, and /v2, behind one guard."""

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dra_serve.service.admission import Traffic
from dra_serve.service.guard import Guard
from dra_serve.service.open_inference import routes as open_inference
from dra_serve.service.problems import http_problem_response
from dra_serve.service.registry import Registry
from dra_serve.service.routes import attack, health, models, pages, predict
from dra_serve.service.settings import Settings
from dra_serve.service.shared import Service


def create_app(registry: Registry, settings: Settings, traffic: Traffic | None = None) -> FastAPI:
    """Return the application that serves the models of `registry`.

    traffic: pass one to see what runs,
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
    for room in (predict, attack, models, open_inference, health, pages):
        room.add(app, service)
    return app


async def _framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return http_problem_response(error, request.url.path)
