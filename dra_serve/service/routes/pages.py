"""Pages for people: /docs, and the demo at /ui if it is wanted and can be; / leads to one of the two."""

import importlib.util
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, RedirectResponse

from dra_serve.service.shared import Service


def add(app: FastAPI, service: Service) -> None:
    """Add the routes to `app`, the demo's with settings.shows_ui and gradio installed."""
    page = (files("dra_serve.service") / "docs.html").read_text(encoding="utf-8")
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
