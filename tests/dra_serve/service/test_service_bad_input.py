"""Whatever is wrong, the answer comes within a second and says in one sentence which field and why."""

import json
import re
import socket
import struct
import time
import zlib
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from .conftest import Server, png

LEAKS = re.compile(
    r"Traceback|File \"|\.py\b|/work|/tmp|/usr|/home|onnxruntime|starlette|fastapi|\d+\.\d+\.\d+"
)
PNG = {"Content-Type": "image/png"}


def _bomb() -> bytes:
    """A PNG of 13,000 x 13,000 black pixels, 169 million, in 20 kB (one bit a pixel)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = 13_000
    header = struct.pack(">IIBBBBB", size, size, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + size // 8) * size), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _animation() -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


IMAGES = {
    "undecodable bytes": (b"\x00\xff" * 500, 415),
    "a text file named .png": (b"hello, I am a picture\n" * 20, 415),
    "a png of 169 megapixels in 20 kB": (_bomb(), 413),
    "an animated image": (_animation(), 415),
    "a file cut short": (png()[:100], 422),
    "a wrong size": (png(9, 8), 422),
    "more than 8 MiB": (bytes(9 * 2**20), 413),
    "an empty file": (b"", 400),
}


def test_the_bomb_is_the_one_of_the_issue() -> None:
    assert len(_bomb()) < 30_000


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/attack", "/v1/attack/stream"])
def test_a_bad_image_is_refused_by_name(http: httpx.Client, path: str, name: str) -> None:
    content, status = IMAGES[name]
    problem = _problem(http, status, path, files={"image": ("picture.png", content, "image/png")})
    assert problem["field"] == "image"


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/attack"])
def test_a_wrong_size_names_both(http: httpx.Client, path: str) -> None:
    problem = _problem(http, 422, path, content=png(9, 7), headers=PNG)
    assert "7 x 9" in problem["detail"]
    assert "8 x 8" in problem["detail"]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("eps", "-1", ">= 0"),
        ("eps", "nan", "finite"),
        ("eps", "inf", "finite"),
        ("eps", "8", "0 <= eps <= 1"),
        ("eps", "1/0", "8/255"),
        ("eps", "", "8/255"),
        ("alpha", "0", "alpha"),
        ("steps", "1000000000", "from 1 to 200"),
        ("steps", "9" * 5000, "from 1 to 200"),
        ("steps", "0", "from 1 to 200"),
        ("steps", "2.5", "from 1 to 200"),
        ("restarts", "11", "from 1 to 10"),
        ("seed", "-1", "from 0"),
        ("top_k", "0", "from 1"),
        ("resize", "perhaps", "true or false"),
        ("norm", "l7", "linf or l2"),
        ("attack", "magic", "fgsm, pgd"),
        ("label", "unicorn", "cat, dog, ship, truck"),
        ("target", "unicorn", "cat, dog, ship, truck"),
        ("target", "\x00", "cat, dog, ship, truck"),
        ("colour", "red", "the fields are image, models, attack"),
    ],
)
def test_a_bad_field_is_refused_with_what_is_allowed(
    http: httpx.Client, field: str, value: str, allowed: str
) -> None:
    problem = _problem(http, 422, "/v1/attack", data={field: value}, files=_files())
    assert problem["field"] == field
    assert allowed in problem["detail"]
    assert len(problem["detail"]) < 400


@pytest.mark.parametrize("where", ["query", "form"])
def test_an_unknown_model_lists_the_known(http: httpx.Client, where: str) -> None:
    sent: dict[str, Any] = {"params" if where == "query" else "data": {"model": "gpt"}}
    problem = _problem(http, 404, "/v1/predict", files=_files(), **sent)
    assert problem["field"] == "model"
    assert "tiny-dra, tiny-at, slow" in problem["detail"]
    assert _problem(http, 404, "/v1/attack", data={"models": "gpt"}, files=_files())["field"] == "models"


def test_a_field_given_twice_is_refused(http: httpx.Client) -> None:
    problem = _problem(http, 422, "/v1/attack?eps=0.1", data={"eps": "0.2"}, files=_files())
    assert problem["field"] == "eps"


def test_models_of_different_input_cannot_be_attacked_together(http: httpx.Client) -> None:
    data = {"models": ["tiny-dra", "slow"]}
    assert _problem(http, 422, "/v1/attack", data=data, files=_files())["field"] == "models"


def test_more_steps_in_all_than_allowed_are_refused(http: httpx.Client) -> None:
    data = {"steps": "200", "restarts": "10"}
    problem = _problem(http, 422, "/v1/attack", data=data, files=_files())
    assert "2,000 steps, restarts included, x 2 models; allowed: at most 2,000" in problem["detail"]


def test_an_option_the_attack_does_not_have_is_refused(http: httpx.Client) -> None:
    data = {"attack": "fgsm", "steps": "5"}
    assert _problem(http, 422, "/v1/attack", data=data, files=_files())["field"] == "steps"


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/attack"])
@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "", 400),
        (b"", "image/png", 400),
        (b"", "multipart/form-data; boundary=b", 400),
        (b"garbage", "multipart/form-data; boundary=b", 400),
        (b"garbage", "multipart/form-data", 400),
        (
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            400,
        ),
        (b"image=1", "application/x-www-form-urlencoded", 415),
        (b'{"image": "http://127.0.0.1/x.png"}', "application/json", 415),
    ],
)
def test_a_body_that_cannot_be_taken_apart(
    http: httpx.Client, path: str, content: bytes, kind: str, status: int
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    assert _problem(http, status, path, content=content, headers=headers)["field"]


def test_image_must_be_a_file_and_nothing_else_may(http: httpx.Client) -> None:
    assert _problem(http, 400, "/v1/predict", files={"image": (None, "text")})["field"] == "image"
    files = {**_files(), "model": ("m.txt", b"tiny-dra")}
    assert _problem(http, 400, "/v1/predict", files=files)["field"] == "model"


def test_too_many_images_are_refused(http: httpx.Client) -> None:
    many = [("image", ("a.png", png(), "image/png"))]
    assert _problem(http, 422, "/v1/predict", files=many * 33)["field"] == "image"
    assert _problem(http, 422, "/v1/attack", files=many * 2)["field"] == "image"
    assert _problem(http, 400, "/v1/predict", files=many * 100)["field"] == "body"


def test_a_body_over_the_limit_is_refused_declared_or_not(server: Server) -> None:
    for chunked in (False, True):
        status, problem = _send_too_much(server, chunked)
        assert (status, problem["status"]) == (413, 413)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/predict", 405, "POST"),
        ("TRACE", "/v1/attack", 405, "POST"),
        ("POST", "/livez", 405, "GET"),
        ("DELETE", "/v1/models", 405, "GET"),
        ("GET", "/nothing", 404, None),
        ("GET", "/v1/", 404, None),
        ("GET", "/docs.json", 404, None),
        ("GET", "/healthz", 404, None),  # BentoML's own
        ("GET", "/schema.json", 404, None),
        ("GET", "/static_content/index.html", 404, None),
        ("GET", "/%00/../../etc/passwd", 404, None),
        ("POST", "/v1/models/x", 404, None),
    ],
)
def test_wrong_paths_and_methods_are_problems_too(
    http: httpx.Client, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = http.request(method, path)
    _check_problem(answer, status)
    assert answer.headers.get("Allow") == allow


def test_the_connection_outlives_an_error(http: httpx.Client) -> None:
    http.post("/v1/attack", data={"eps": "-1"}, files=_files())
    first = http.get("/livez").extensions["network_stream"].get_extra_info("client_addr")
    _problem(http, 422, "/v1/attack", data={"eps": "-1"}, files=_files())
    assert http.get("/livez").extensions["network_stream"].get_extra_info("client_addr") == first


def test_nothing_was_logged_as_unexpected(server: Server, http: httpx.Client) -> None:
    _problem(http, 415, "/v1/predict", content=b"\x00" * 99, headers=PNG)
    assert [line for line in server.lines[3:] if not line.startswith("{")] == []  # 3 say where it listens
    assert all("trace" not in entry and entry["status"] < 500 for entry in server.log())


def _files() -> dict[str, Any]:
    return {"image": ("a.png", png(), "image/png")}


def _problem(http: httpx.Client, status: int, path: str, **sent: Any) -> dict[str, Any]:
    start = time.monotonic()
    answer = http.post(path, **sent)
    assert time.monotonic() - start < 1
    return _check_problem(answer, status)


def _check_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "field"}
    assert problem["status"] == status
    assert not LEAKS.search(answer.text), answer.text
    assert "Server" not in answer.headers
    return problem


def _send_too_much(server: Server, chunked: bool) -> tuple[int, dict[str, Any]]:
    """Send 40 MiB until the server has answered, as curl does; return its status and problem."""
    address = urlsplit(server.url)
    size, block = 40 * 2**20, bytes(2**20)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n{length}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(head.encode())
        try:
            for _ in range(40):
                connection.sendall(b"100000\r\n" + block + b"\r\n" if chunked else block)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has stopped reading: the answer is on its way or here
        answer = b""
        while b"}" not in answer:
            received = connection.recv(65536)
            assert received, answer
            answer += received
    start, _, body = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(body)
