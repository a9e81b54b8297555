"""What surrounds every request: id, limits on its body, one log line, one metric, no exception let out.

A plain ASGI middleware inside Starlette's own error handler, which would answer an exception and then
raise it again: two tracebacks in the log and a closed connection.
"""

import asyncio
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dra_serve.errors import DraServeError, Overloaded, ShuttingDown, TooLarge
from dra_serve.service.admission import Traffic
from dra_serve.service.logs import log
from dra_serve.service.metrics import Metrics
from dra_serve.service.problems import ClientGone, SlowBody, error_response, unexpected_response

MAX_BODY = 16 * 2**20
MAX_HELD = 16 * MAX_BODY  # of all the bodies together: each waits in memory until its request is answered
BODY_SECONDS = 30
_TOO_LARGE = f"body: more than {MAX_BODY:,} bytes"
_WORK = ("/v1/", "/v2/models/", "/v2/repository/")


@dataclass
class _Exchange:
    """One request and what became of it."""

    started: float = field(default_factory=time.monotonic)
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    held: int = 0  # bytes of its body so far
    status: int | None = None
    trace: str | None = None


class Guard:
    """Wraps `app`; see the head of this file."""

    def __init__(self, app: ASGIApp, *, traffic: Traffic, metrics: Metrics) -> None:
        self.app, self._traffic, self._metrics = app, traffic, metrics
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange()
        is_work = scope["path"].startswith(_WORK)
        self._traffic.running += is_work
        try:
            await self._answer(exchange, scope, receive, send)
        finally:
            self._traffic.running -= is_work
            self._held -= exchange.held
            self._record(exchange, scope)

    async def _answer(self, exchange: _Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = exchange.id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            self._refuse_early(scope)
            await self.app(scope, _limited(receive, partial(self._hold, exchange)), send_marked)
            return
        except ClientGone as error:
            exchange.status = error.status
            return
        except DraServeError as error:
            response = error_response(error, scope["path"])
        except Exception:
            exchange.trace = traceback.format_exc()
            response = unexpected_response(scope["path"])
        if exchange.status is None:
            await response(scope, receive, send_marked)

    def _refuse_early(self, scope: Scope) -> None:
        if self._traffic.draining and scope["path"].startswith(_WORK):
            raise ShuttingDown("the service is shutting down; another instance may answer", retry_after=5)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_BODY:
            raise TooLarge(_TOO_LARGE, field="body")

    def _hold(self, exchange: _Exchange, size: int) -> None:
        """Count that many more bytes of a body; TooLarge, or Overloaded by those of others."""
        exchange.held += size
        self._held += size
        if exchange.held > MAX_BODY:
            raise TooLarge(_TOO_LARGE, field="body")
        if self._held > MAX_HELD:
            raise Overloaded("too many large bodies at once; try again", retry_after=1)

    def _record(self, exchange: _Exchange, scope: Scope) -> None:
        seconds = time.monotonic() - exchange.started
        route, status = _template(scope), exchange.status or ClientGone.status
        self._metrics.request(scope["method"], route, status, seconds)
        trace = {} if exchange.trace is None else {"trace": exchange.trace}
        log(
            "request",
            id=exchange.id,
            method=scope["method"][:16],
            route=route,
            status=status,
            ms=round(1000 * seconds, 1),
            **trace,
        )


def _limited(receive: Receive, hold: Callable[[int], None]) -> Receive:
    """Return receive, raising SlowBody after BODY_SECONDS and what `hold` raises of so many bytes more.

    FastAPI's own `max_body_size` answers text/plain, and in place of our answer.
    """
    end = time.monotonic() + BODY_SECONDS
    complete = False

    async def receive_limited() -> Message:
        nonlocal complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(end - time.monotonic(), 0.0))
        except TimeoutError as error:
            raise SlowBody(f"body: not complete after {BODY_SECONDS} s", field="body") from error
        complete = not message.get("more_body", False)
        hold(len(message.get("body", b"")))
        return message

    return receive_limited


def _template(scope: Scope) -> str:
    """Return the route's template: as many values as there are routes, whatever clients ask for."""
    if scope["path"].startswith("/ui"):
        return "/ui"
    return getattr(scope.get("route"), "path", "") or "other"
