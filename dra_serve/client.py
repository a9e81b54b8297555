"""A client of the HTTP service, on the standard library alone."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import numpy as np

from dra_serve.classifier import Prediction
from dra_serve.client_answers import (
    AttackResponse,
    AttackStep,
    ServedModel,
    attack_response,
    attack_step,
    prediction,
    served_model,
)
from dra_serve.errors import BadRequest, DraServeError, Overloaded
from dra_serve.images import encode_png

Image = str | Path | bytes | np.ndarray
"""A file's path, its bytes, or pixels: uint8 (H, W, 3) or (H, W, 1)."""


class Unreachable(DraServeError):
    """Nothing that speaks our protocol answered in time."""

    status = 503
    title = "Service unreachable"


class Client:
    """Asks the service at `url`; an error it answers is raised as the class it has there, with its field.

    timeout: seconds without a byte until Unreachable; an attack may take longer than its 20 s if it has
    to wait for others, so be generous.

    >>> Client("http://127.0.0.1:3000").predict("cat.png").label  # doctest: +SKIP
    'cat'
    """

    def __init__(self, url: str, timeout: float = 30) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise BadRequest("url", given=url, allowed="http://HOST:PORT or https://HOST")
        self._url, self._timeout = url.rstrip("/"), timeout

    def predict(
        self, image: Image, *, model: str | None = None, top_k: int | None = None, resize: bool = False
    ) -> Prediction:
        """Return the answer to one image."""
        answer = self._post("/v1/predict", image, {"model": model, "top_k": top_k, "resize": resize})
        return prediction(answer["predictions"][0])

    def attack(self, image: Image, **fields: Any) -> AttackResponse:
        """Return the attack on one image.

        fields: those of POST /v1/attack, models (a sequence of names), attack, norm, eps, alpha, steps,
        restarts, seed, label, target, top_k, resize; left out, they take the service's defaults.
        """
        return attack_response(self._post("/v1/attack", image, fields))

    def attack_stream(self, image: Image, **fields: Any) -> Iterator[AttackStep | AttackResponse]:
        """Yield an AttackStep after each step, then the AttackResponse. Leaving early stops the attack.

        fields: those of `attack`, and every=k for the image at each k-th step.
        """
        request = self._request("/v1/attack/stream", image, fields)
        with self._open(request) as response:
            for event, data in _events(response):
                if event == "step":
                    yield attack_step(data)
                elif event == "error":
                    raise _error(data, {})
                else:
                    yield attack_response(data)
                    return
        raise Unreachable(f"{self._url}: the stream ended without a result")

    def models(self) -> list[ServedModel]:
        """Return every model that is served, the default first."""
        with self._open(Request(f"{self._url}/v1/models")) as response:  # noqa: S310 - checked above
            return [served_model(model) for model in _json(response)["models"]]

    def ready(self) -> bool:
        """Return whether the service is up and its models answer rightly."""
        try:
            with self._open(Request(f"{self._url}/readyz")):  # noqa: S310 - checked above
                return True
        except DraServeError:
            return False

    def _post(self, path: str, image: Image, fields: Mapping[str, Any]) -> Any:
        with self._open(self._request(path, image, fields)) as response:
            return _json(response)

    def _request(self, path: str, image: Image, fields: Mapping[str, Any]) -> Request:
        chosen = {name: _text(value) for name, value in fields.items() if value is not None}
        url = f"{self._url}{path}?{urlencode(chosen, doseq=True)}"
        headers = {"Content-Type": "application/octet-stream"}
        return Request(url, data=_bytes(image), headers=headers, method="POST")  # noqa: S310 - checked above

    @contextmanager
    def _open(self, request: Request) -> Iterator[HTTPResponse]:
        try:
            with urlopen(request, timeout=self._timeout) as response:  # noqa: S310 - checked above
                yield response
        except HTTPError as error:
            with error:
                raise _error(_problem(error), error.headers) from None
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{self._url}: {error}") from error


def _bytes(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise BadRequest("image", given=f"{image.dtype} {image.shape}", allowed="uint8 (H, W, 3 or 1)")
        return encode_png(image)
    return Path(image).read_bytes()


def _text(value: Any) -> Any:
    """Return a field as the query carries it; a sequence becomes one pair a value."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) or not isinstance(value, Sequence) else list(map(str, value))


def _json(response: HTTPResponse) -> Any:
    try:
        return json.load(response)
    except ValueError as error:
        raise Unreachable("the answer is no JSON: is this dra-serve?") from error


def _events(response: HTTPResponse) -> Iterator[tuple[str, Any]]:
    """Yield (event, data) of a server-sent stream; comments, which keep it alive, are passed over."""
    event = ""
    for raw in response:
        name, _, value = raw.decode().rstrip("\r\n").partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def _problem(error: HTTPError) -> dict[str, Any]:
    try:
        problem = json.load(error)
        return {"title": problem["title"], "detail": problem["detail"], "field": problem["field"]}
    except (ValueError, LookupError, TypeError):
        return {"title": "", "detail": f"HTTP status {error.code}, and no problem+json: is this dra-serve?"}


def _error(problem: Mapping[str, Any], headers: Any) -> DraServeError:
    """Return the error a problem describes, of the class with its title."""
    kind = next((kind for kind in _family(DraServeError) if kind.title == problem["title"]), DraServeError)
    error = kind.__new__(kind)  # the constructors make the sentence; here it is already made
    DraServeError.__init__(error, problem["detail"], field=problem.get("field"))
    if isinstance(error, BadRequest):
        match = re.fullmatch(r".*?: got (.*); allowed: (.*)", error.detail, re.DOTALL)
        error.given, error.allowed = match.groups() if match else ("", "")
    if isinstance(error, Overloaded):
        error.retry_after = int(headers.get("Retry-After", 1))
    return error


def _family(kind: type[DraServeError]) -> Iterator[type[DraServeError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)
