"""Serving on this machine: one process under uvicorn, or BentoML's supervisor for several workers."""

import errno
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request

from dra_serve.errors import BadRequest, DraServeError, MissingExtra, PortTaken
from dra_serve.service.settings import Settings

_BACKLOG = 2048
_START_SECONDS = 120
_NEEDED = ("bentoml", "fastapi", "uvicorn", "python_multipart", "prometheus_client")


class StartFailed(DraServeError):
    """The workers did not become ready."""

    title = "Start failed"


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, then let running requests finish.

    port 0 takes a free one; what is printed on stderr says which. Raises PortTaken before anything heavy
    is imported, MissingExtra without the serve extra, and whatever loading a model raises.
    """
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "serve")
    with listen(host, port) as listener:
        os.environ.update(settings.to_environ())
        if settings.workers == 1:
            _serve_here(settings, listener)
            return
        host, port = listener.getsockname()[:2]  # the supervisor takes an address, not a name
    _serve_with_supervisor(settings, host, port)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; clients that come while models load wait for their answer.

    Its connections inherit TCP_NODELAY. asyncio would set it only where the socket names its protocol, which
    create_server's do not: the body, sent after the head, then waits 40 ms for the client's acknowledgement.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (socket.gaierror, UnicodeError) as error:
        raise BadRequest("host", given=host, allowed="a name or an address of this machine") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            text = f"port: {port} on {host} is in use; choose another with --port, or 0 for a free one"
            raise PortTaken(text, field="port") from error
        allowed = "an address of this machine and a port that you may open"
        raise BadRequest("host and port", given=f"{host} {port}", allowed=allowed) from error


def _serve_here(settings: Settings, listener: socket.socket) -> None:
    from dra_serve.service.bento import Service, load_registry, traffic  # sets what bentoml reads on import

    registry = load_registry()  # here, where an error is one sentence; in uvicorn it would be a traceback

    import uvicorn

    from dra_serve.service.draining import DrainingServer

    config = uvicorn.Config(Service.to_asgi(), log_config=None, server_header=False, lifespan="on")
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it reports cut connections as errors
    host, port = listener.getsockname()[:2]
    server = DrainingServer(
        config,
        traffic,
        drain_seconds=settings.drain_seconds,
        on_started=lambda: _announce(settings, host, port, [model.name for model in registry]),
    )
    server.run(sockets=[listener])
    if not server.started:
        raise StartFailed("the service did not start; its log says why")


def _serve_with_supervisor(settings: Settings, host: str, port: int) -> None:
    os.environ.setdefault("BENTOML_QUIET", "true")  # stderr is for our one line a request
    from dra_serve.service.bento import Service, load_registry

    names = [model.name for model in load_registry()]  # a worker with a broken model is respawned for ever
    load_registry.cache_clear()
    server = Service.serve_http(host=host, port=port, threaded=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # after the supervisor, which has set its own by now
        signal.signal(number, lambda *_: ended.set())
    try:
        _wait_until_ready(host, port, ended)
        if not ended.is_set():
            _announce(settings, host, port, names)
        ended.wait()
    finally:
        server.stop()


def _wait_until_ready(host: str, port: int, ended: threading.Event) -> None:
    end = time.monotonic() + _START_SECONDS
    while not ended.wait(0.2):
        try:
            with urllib.request.urlopen(f"{_url(host, port)}/readyz", timeout=5):  # noqa: S310 - our own
                return
        except OSError:
            if time.monotonic() > end:
                raise StartFailed(f"the workers were not ready after {_START_SECONDS} s") from None


def _announce(settings: Settings, host: str, port: int, names: list[str]) -> None:
    url = _url(host, port)
    lines = [
        f"dra-serve serves {', '.join(names)}",
        f"  API   {url}/v1  (curl {url}/v1/models)",
        f"  docs  {url}/docs",
    ]
    if settings.shows_ui and importlib.util.find_spec("gradio") is not None:
        lines.append(f"  demo  {url}/ui/")
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def _url(host: str, port: int) -> str:
    """Return where to reach a server on this machine that listens at host."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
