"""The shipped client against the real server."""

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from dra_serve import Client
from dra_serve.client import AttackResponse, AttackStep, Unreachable
from dra_serve.errors import BadRequest, MalformedRequest, UnknownModel, UnsupportedFormat, UserError
from dra_serve.images import decode

from .conftest import CLASSES, Server, png, wait_until


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url)


@pytest.fixture
def stranger() -> Iterator[str]:
    """The URL of a server that answers everything with a page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(502 if self.path == "/readyz" else 200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as other:
        thread = Thread(target=other.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{other.server_port}"
        other.shutdown()


def test_predict_takes_a_path_bytes_or_pixels(client: Client, http: httpx.Client, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    pixels = np.asarray(Image.open(BytesIO(png())))
    answers = [client.predict(image, model="tiny-at", top_k=2) for image in (path, str(path), png(), pixels)]
    raw = http.post("/v1/predict?model=tiny-at&top_k=2", content=png(), headers={"Content-Type": "image/png"})
    expected = raw.json()["predictions"][0]
    for answer in answers:
        assert (answer.label, answer.score) == (expected["label"], expected["score"])
        assert answer.top == tuple((entry["label"], entry["score"]) for entry in expected["top"])


def test_attack_returns_pixels_and_verdicts(client: Client) -> None:
    answer = client.attack(png(), eps="8/255", steps=5, models=["tiny-at"], top_k=1)
    assert answer.attack["eps"] == 8 / 255
    (result,) = answer.results
    clean = np.asarray(Image.open(BytesIO(png())), np.int16)
    assert np.abs(result.pixels - clean).max() == round(255 * result.linf)
    assert client.predict(result.pixels, model="tiny-at").label == result.adversarial.label
    assert answer.transfer == {"tiny-at": {"tiny-at": result.success}}


def test_a_stream_ends_with_the_same_answer(client: Client) -> None:
    *steps, last = client.attack_stream(png(), eps=2 / 255, steps=3)
    whole = client.attack(png(), eps=2 / 255, steps=3)
    assert isinstance(last, AttackResponse)
    assert all(isinstance(step, AttackStep) for step in steps)
    assert steps
    assert last.transfer == whole.transfer
    for ours, theirs in zip(last.results, whole.results, strict=True):
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        assert ours.adversarial == theirs.adversarial


def test_a_stream_shows_the_image_each_so_many_steps(client: Client) -> None:
    *steps, last = client.attack_stream(png(), models=["tiny-dra"], eps=0, steps=6, every=2)
    assert isinstance(last, AttackResponse)
    shown = [step for step in steps if isinstance(step, AttackStep) and step.pixels is not None]
    assert [step.step for step in shown] == [2, 4, 6]
    for step in shown:
        assert_array_equal(step.pixels, decode(png()))  # eps 0 leaves the clean image


def test_leaving_a_stream_stops_the_attack(client: Client, server: Server) -> None:
    before = len(server.log())
    for _ in client.attack_stream(png(64, 64), models=["slow"], eps=0, steps=200, restarts=10):
        break
    wait_until(lambda: any(e["route"] == "/v1/attack/stream" for e in server.log()[before:]), 1.5)


def test_models_are_described(client: Client) -> None:
    first = client.models()[0]
    assert (first.name, first.classes, first.input_shape) == ("tiny-dra", CLASSES, (3, 8, 8))
    assert first.twin == "tiny-at"
    assert first.receipts[0]["n"] == 1000
    assert client.ready()


def test_errors_are_those_of_the_package(client: Client) -> None:
    with pytest.raises(BadRequest, match="eps: got -1") as bad:
        client.attack(png(), eps=-1)
    assert (bad.value.field, bad.value.given) == ("eps", "-1")
    assert "8/255" in bad.value.allowed
    with pytest.raises(UnknownModel) as unknown:
        client.predict(png(), model="gpt")
    assert unknown.value.field == "model"
    with pytest.raises(UnsupportedFormat):
        client.predict(b"no picture")
    with pytest.raises(MalformedRequest):
        client.predict(b"")
    with pytest.raises(UserError, match="broken or cut short"):
        next(client.attack_stream(png()[:100]))


def test_bad_arguments_never_leave_the_machine() -> None:
    with pytest.raises(BadRequest, match="url"):
        Client("ftp://example.org")
    with pytest.raises(BadRequest, match="image"):
        Client("http://127.0.0.1:9").predict(np.zeros((8, 8, 3), np.float32))


def test_silence_and_strangers_are_unreachable(stranger: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2)
        assert not nobody.ready()
        with pytest.raises(Unreachable):
            nobody.models()
    with pytest.raises(Unreachable, match="is this dra-serve"):
        Client(stranger).models()
    assert not Client(stranger).ready()
