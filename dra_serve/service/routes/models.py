"""/v1/models."""

from fastapi import FastAPI

from dra_serve.service.openapi import problems
from dra_serve.service.schemas.models import ModelsOut
from dra_serve.service.shared import Service


def add(app: FastAPI, service: Service) -> None:
    """Add the route to `app`."""

    @app.get("/v1/models", tags=["models"], responses=problems(503))
    async def models() -> ModelsOut:
        """Every model with its classes, input, training facts and receipts."""
        return ModelsOut.of(service.registry)
