"""When the fault is ours, or the client dawdles: a problem for the client, one line in the log, no more."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from dra_serve.gradient_graph import differentiate
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.service import guard
from dra_serve.service.admission import Pool, Traffic
from dra_serve.service.api import create_app
from dra_serve.service.metrics import Metrics
from dra_serve.service.registry import Registry
from dra_serve.service.settings import Settings

from .conftest import CLASSES, png

PNG: dict[str, Any] = {"content": png(), "headers": {"Content-Type": "image/png"}}


@pytest.fixture
def model(tiny_onnx: Callable[..., onnx.ModelProto]) -> OnnxClassifier:
    forward = tiny_onnx(len(CLASSES))
    graphs = forward.SerializeToString(), differentiate(forward).SerializeToString()
    return OnnxClassifier(*graphs, classes=CLASSES, input_shape=(3, 8, 8), name="tiny")


def _ask(app: ASGIApp, method: str, path: str, **sent: Any) -> httpx.Response:
    """Return the answer of `app`; an exception that it lets out is raised here."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(ask())


def _break(model: OnnxClassifier) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret of /etc/passwd")

    model._gradient = broken  # type: ignore[assignment]


def test_a_full_queue_and_our_fault_have_the_protocols_form_under_v2(model: OnnxClassifier) -> None:
    app = create_app(Registry([model]), Settings(ui=False))
    x = {"name": "x", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192}
    infer = {"json": {"inputs": [x]}}
    app.state.service.predictions = Pool("predictions", threads=1, queue=0, retry_after=1)
    others = threading.Event()
    app.state.service.predictions.submit(lambda _: others.wait(10), threading.Event())
    full = _ask(app, "POST", "/v2/models/tiny/infer", **infer)
    others.set()
    assert (full.status_code, full.headers["Retry-After"]) == (429, "1")
    assert full.json() == {"error": "the queue of predictions is full; try again"}
    app.state.service.traffic.draining = True
    gone = _ask(app, "POST", "/v2/models/tiny/infer", **infer)
    assert (gone.status_code, list(gone.json()), gone.headers["Retry-After"]) == (503, ["error"], "5")
    assert _ask(app, "GET", "/v2/health/ready").status_code == 503
    assert _ask(app, "GET", "/v2/health/live").status_code == 200
    app.state.service.traffic.draining = False
    app.state.service.registry = None
    broken = _ask(app, "GET", "/v2/models/tiny")
    assert (broken.status_code, list(broken.json())) == (500, ["error"])
    assert "the fault is ours" in broken.json()["error"]


def test_our_fault_is_a_500_without_its_cause(
    model: OnnxClassifier, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(Registry([model]), Settings(ui=False))
    _break(model)
    answer = _ask(app, "POST", "/v1/attack", **PNG)
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert answer.json()["field"] is None
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert line["id"] == answer.headers["X-Request-Id"]
    assert (line["status"], line["route"]) == (500, "/v1/attack")
    assert "secret of /etc/passwd" in line["trace"]


def test_a_fault_in_a_stream_is_its_last_event(
    model: OnnxClassifier, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(Registry([model]), Settings(ui=False))
    _break(model)
    answer = _ask(app, "POST", "/v1/attack/stream", **PNG)
    assert answer.text.startswith("event: error\n")
    problem = json.loads(answer.text.split("data: ")[1])
    assert problem["status"] == 500
    assert "secret" not in answer.text
    unexpected, request = map(json.loads, capsys.readouterr().err.splitlines())
    assert unexpected["event"] == "unexpected"
    assert "secret of /etc/passwd" in unexpected["trace"]
    assert request["event"] == "request"


def test_a_wrong_golden_answer_is_not_ready(
    model: OnnxClassifier, tiny_onnx: Callable[..., onnx.ModelProto]
) -> None:
    app = create_app(Registry([model]), Settings(ui=False))
    assert _ask(app, "GET", "/readyz").status_code == 200
    other = tiny_onnx(len(CLASSES), seed=1).SerializeToString()
    model._forward = OnnxClassifier(other, None, classes=CLASSES, input_shape=(3, 8, 8))._forward
    answer = _ask(app, "GET", "/readyz")
    assert (answer.status_code, answer.json()["title"]) == (503, "Not ready")
    assert _ask(app, "GET", "/livez").status_code == 200


def test_a_slow_body_is_given_up(model: OnnxClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    app = create_app(Registry([model]), Settings(ui=False))

    async def dawdle() -> AsyncIterator[bytes]:
        yield png()[:10]
        await asyncio.sleep(1)
        yield png()[10:]

    answer = _ask(app, "POST", "/v1/predict", content=dawdle(), headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["field"]) == (408, "body")


def test_all_bodies_together_have_a_limit_and_leave_room_when_they_are_answered(
    model: OnnxClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MAX_HELD", 300_000)
    app = create_app(Registry([model]), Settings(ui=False))

    async def ask() -> list[httpx.Response]:
        go = asyncio.Event()

        async def waits() -> AsyncIterator[bytes]:
            yield bytes(200_000)
            await go.wait()

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            first = asyncio.create_task(client.post("/v1/predict", content=waits(), headers=PNG["headers"]))
            await asyncio.sleep(0.1)
            second = await client.post("/v2/models/tiny/infer", content=bytes(200_000))
            small = await client.post("/v1/predict", **PNG)
            go.set()
            await first
            third = await client.post("/v2/models/tiny/infer", content=bytes(200_000))
            return [second, small, await first, third]

    second, small, first, third = asyncio.run(ask())
    assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
    assert second.json() == {"error": "too many large bodies at once; try again"}
    assert (small.status_code, first.status_code, third.status_code) == (200, 415, 400)


def test_a_model_that_answers_no_numbers_is_our_fault_on_every_route(
    model: OnnxClassifier, capsys: pytest.CaptureFixture[str]
) -> None:
    app = create_app(Registry([model]), Settings(ui=False))
    model._forward = lambda x: [np.full((len(x), len(CLASSES)), np.nan, np.float32)]  # type: ignore[assignment]
    x = {"name": "x", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    answers = [
        _ask(app, "POST", "/v1/predict", **PNG),
        _ask(app, "POST", "/v2/models/tiny/infer", json={"inputs": [x]}),
        _ask(app, "POST", "/v2/models/tiny/infer", json={"inputs": [x], "outputs": outputs}),
    ]
    assert [answer.status_code for answer in answers] == [500] * 3
    assert "logits that are not finite" in capsys.readouterr().err


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-16", "undefined", "idna", "nonsense", ""])
def test_a_form_of_another_charset_than_utf_8_is_refused(model: OnnxClassifier, charset: str) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="\\ud800"\r\n\r\n1\r\n'
    image = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + png() + b"\r\n"
    app = create_app(Registry([model]), Settings(ui=False))
    sent = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    answer = _ask(app, "POST", "/v1/predict", content=part + image + b"--b--\r\n", headers=sent)
    assert (answer.status_code, answer.json()["field"]) == (400, "body")
    assert "must be UTF-8" in answer.json()["detail"]
    sent = {"Content-Type": "multipart/form-data; boundary=b; charset=UTF-8"}
    assert _ask(app, "POST", "/v1/predict", content=image + b"--b--\r\n", headers=sent).status_code == 200


def test_many_who_ask_whether_it_is_ready_share_one_check(model: OnnxClassifier) -> None:
    app = create_app(Registry([model]), Settings(ui=False))
    registry, checks = app.state.service.registry, []
    is_right = registry.is_right

    def slow() -> bool:
        checks.append(1)
        time.sleep(0.2)
        right: bool = is_right()
        return right

    registry.is_right = slow

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get("/readyz") for _ in range(20)))
            answers.append(await client.get("/v2/health/ready"))
            return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200] * 21
    assert len(checks) == 2  # the last one came later


def test_an_answer_that_has_begun_is_not_mended(capsys: pytest.CaptureFixture[str]) -> None:
    async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("too late")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    guarded = guard.Guard(breaks_off, traffic=Traffic(), metrics=Metrics())
    asyncio.run(guarded(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "too late" in json.loads(capsys.readouterr().err)["trace"]
