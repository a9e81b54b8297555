"""Every error as application/problem+json (RFC 9457), in the words of `errors.py`."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dra_serve.errors import BadRequest, DraServeError, MalformedRequest, Overloaded, UserError

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """An error: what kind, which field, what was given and what is allowed."""

    type: str = Field(description="A URN, the same for every problem of this kind.")
    title: str = Field(description="The kind of problem, in words.")
    status: int = Field(description="The HTTP status again.")
    detail: str = Field(description="What was given and what is allowed.")
    field: str | None = Field(description="The field at fault, or null.")


class SlowBody(UserError):
    """The client took too long to send its request."""

    status = 408
    title = "Request timeout"


class ClientGone(DraServeError):
    """Nobody is left to read the answer; seen in the log and the metrics alone."""

    status = 499
    title = "Client closed the connection"


def to_problem(error: DraServeError) -> Problem:
    """Return the problem as the client may see it: of our own faults only that they are ours."""
    ours = error.status == 500
    return Problem(
        type=_urn(error.title),
        title=error.title,
        status=error.status,
        detail=_OURS if ours else _sendable(error.detail),
        field=None if ours or error.field is None else _sendable(error.field),
    )


_V2 = "/v2"


def error_response(error: DraServeError, path: str) -> JSONResponse:
    """Return the response to `error` on this path: problem+json, or under /v2 what its protocol has."""
    if not is_v2(path):
        return problem_response(error)
    retry = {"Retry-After": str(error.retry_after)} if isinstance(error, Overloaded) else None
    return JSONResponse({"error": to_problem(error).detail}, error.status, headers=retry)


def is_v2(path: str) -> bool:
    """Return whether the path belongs to the Open Inference Protocol."""
    return path == _V2 or path.startswith(f"{_V2}/")


def problem_response(error: DraServeError) -> JSONResponse:
    """Return the response to `error`."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Overloaded) else None
    return _response(to_problem(error), headers)


def http_problem_response(error: HTTPException, path: str) -> JSONResponse:
    """Return the response to an error of the framework on this path, its headers (`Allow`) kept."""
    title, detail = _FRAMEWORK.get(error.status_code, (_phrase(error.status_code), str(error.detail)))
    problem = Problem(
        type=_urn(title),
        title=title,
        status=error.status_code,
        detail=detail.format(**_headers(error)),
        field=None,
    )
    if is_v2(path):
        return JSONResponse({"error": problem.detail}, problem.status, headers=error.headers)
    return _response(problem, error.headers)


def unexpected_response(path: str) -> JSONResponse:
    """Return the response to an exception nobody expected: nothing of it leaves the process."""
    return error_response(DraServeError(_OURS), path)


def from_validation(error: ValidationError, model: type[BaseModel]) -> UserError:
    """Return the first complaint of pydantic in our words: field, value given, values allowed."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        allowed = f"no field of that name; the fields are image, {', '.join(model.model_fields)}"
        return BadRequest(name, given=first["input"], allowed=allowed)
    schema = model.model_json_schema()["properties"][name]
    return BadRequest(name, given=first["input"], allowed=_in_words(schema))


def broken_body(what: str) -> MalformedRequest:
    """Return the error for a body that cannot be taken apart."""
    return MalformedRequest(f"body: {what}", field="body")


_OURS = "the fault is ours; the request id in the X-Request-Id header finds it in our log"
_FRAMEWORK = {
    404: ("Not found", "there is nothing here; GET /openapi.json lists what there is"),
    405: ("Method not allowed", "allowed here: {allow}"),
}


def _sendable(text: str) -> str:
    """Return text that UTF-8 can carry: a name in JSON may hold half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def _headers(error: HTTPException) -> dict[str, str]:
    return {"allow": (error.headers or {}).get("Allow", "")}


def _urn(title: str) -> str:
    return f"urn:dra-serve:{title.lower().replace(' ', '-')}"


def _in_words(schema: dict[str, Any]) -> str:
    """Return what a field's JSON schema allows, in words."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    kind = kinds[0]
    if "enum" in schema | kind:
        return " or ".join((schema | kind)["enum"])
    if kind.get("type") == "integer":
        return f"an integer from {kind['minimum']:,} to {kind['maximum']:,}"
    if kind.get("type") == "array":
        return f"1 to {kind['maxItems']} names, each {_in_words(kind['items'])}"
    if kind.get("type") == "boolean":
        return "true or false"
    return f"text of 1 to {kind.get('maxLength', 100):,} characters"


def _response(problem: Problem, headers: Any = None) -> JSONResponse:
    return JSONResponse(problem.model_dump(), problem.status, headers=headers, media_type=MEDIA_TYPE)
