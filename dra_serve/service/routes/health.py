"""/livez, /readyz, /metrics: for whoever runs it."""

from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel

from dra_serve.service.openapi import problems
from dra_serve.service.shared import Service


class Health(BaseModel):
    """status: "alive" or "ready"."""

    status: str


def add(app: FastAPI, service: Service) -> None:
    """Add the routes to `app`."""

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
