"""The service as BentoML sees it: `bentoml serve app.service:Service`, or `to_asgi()` in one process.

BentoML brings packaging and workers. Its own metrics, access log and telemetry are off: ours are better
for us (bounded labels, one line a request, nothing leaves the machine). Models are loaded by the worker,
never on import, because the supervisor imports this module too.
"""

import logging
import os
from contextlib import AsyncExitStack
from functools import cache

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # read when bentoml is imported

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from dra_serve.service.admission import Traffic
from dra_serve.service.api import create_app
from dra_serve.service.registry import Registry
from dra_serve.service.settings import Settings

traffic = Traffic()
"""What runs in this process; whoever stops it sets `draining` first."""

settings = Settings.from_environ()


@cache
def load_registry() -> Registry:
    """Return the models of this process, loaded at the first call."""
    return Registry.load(settings.models)


class _Later:
    """The application of this worker, which exists once its models are loaded."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


_BENTOML = ("/livez", "/readyz", "/healthz", "/schema.json")
"""What BentoML answers before any mounted app: health in plain text, and a schema of none of our routes."""


class _RoutesAreOurs:
    """Ours answer there instead: /livez and /readyz in JSON, the others as any path that is not there."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"] in _BENTOML
        await (_later if ours else self._app)(scope, receive, send)


_later = _Later()


class _Dra:
    """Robust image classifiers: predictions and attacks."""

    def __init__(self) -> None:
        logging.getLogger("bentoml").setLevel(logging.WARNING)
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # warns of what we answer with 400
        self._app = create_app(load_registry(), settings, traffic)
        self._running = AsyncExitStack()
        _later.app = self._app

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Run the application's own start (the demo's queue), which BentoML does for static apps alone."""
        await self._running.enter_async_context(self._app.router.lifespan_context(self._app))

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def stop(self) -> None:
        """Refuse new work, let what runs finish."""
        traffic.draining = True
        await self._app.state.service.close()
        await self._running.aclose()


# Not as decorators: type checkers do not see what a decorator makes of a class.
Service = bentoml.service(
    name="dra",
    workers=settings.workers,
    traffic={"timeout": 600},  # a last resort: bodies and attacks have shorter limits of our own
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)(bentoml.asgi_app(_later, path="/")(_Dra))
Service.add_asgi_middleware(_RoutesAreOurs)
