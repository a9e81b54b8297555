"""Every error a user can meet, in one tree.

Each class carries its HTTP status, its exit code (1: our fault, 2: yours) and a fixed title; each
instance names the field, what was given and what is allowed, so that the command line, the HTTP
service and Python callers say the same sentence.
"""

from typing import Any, ClassVar

_LONGEST_ECHO = 80


def _short(value: Any) -> str:
    """Return `value` as it goes into a message: one line, at most 80 characters."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:  # JSON nested as deep as its reader goes
        text = f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else "?" for c in text[: _LONGEST_ECHO + 1])
    return text if len(text) <= _LONGEST_ECHO else text[: _LONGEST_ECHO - 3] + "..."


class DraServeError(Exception):
    """Any error raised on purpose by this package.

    detail: one sentence for the user. field: the input at fault, or None.
    """

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field


class UserError(DraServeError):
    """Something about the input; the caller can put it right."""

    status = 422
    exit_code = 2
    title = "Invalid input"


class BadRequest(UserError):
    """A value outside what its field allows: field, value given, values allowed.

    >>> raise BadRequest("eps", given=8, allowed="0 <= eps <= 1, in units of x (8/255, not 8)")
    Traceback (most recent call last):
    dra_serve.errors.BadRequest: eps: got 8; allowed: 0 <= eps <= 1, in units of x (8/255, not 8)
    """

    title = "Invalid value"

    def __init__(self, field: str, *, given: Any, allowed: str) -> None:
        super().__init__(f"{field}: got {_short(given)}; allowed: {allowed}", field=field)
        self.given = _short(given)
        self.allowed = allowed


class MalformedRequest(UserError):
    """The request cannot be read at all: no body, broken multipart, broken JSON."""

    status = 400
    title = "Malformed request"


class UnknownModel(BadRequest):
    """No model of that name is loaded."""

    status = 404
    title = "Unknown model"


class TooLarge(UserError):
    """More bytes or pixels than the limit."""

    status = 413
    title = "Too large"


class UnsupportedFormat(UserError):
    """The bytes are no image we decode: PNG, JPEG or WebP, one frame."""

    status = 415
    title = "Unsupported format"


class ModelFolderError(UserError):
    """A model folder that is incomplete, altered, too new or unsafe. `file` names the culprit."""

    title = "Unusable model folder"

    def __init__(self, detail: str, *, file: str) -> None:
        super().__init__(f"{file}: {detail}", field=file)
        self.file = file


class NoGradient(UserError):
    """A gradient was asked of a classifier that has none (`has_gradient` is False)."""

    title = "No gradient"


class NoDerivative(UserError):
    """An ONNX operator without a differentiation rule, named: never a silent zero."""

    title = "Operator without a derivative rule"

    def __init__(self, operator: str, node: str, detail: str = "no derivative rule") -> None:
        super().__init__(f"operator {operator} (node {node or 'unnamed'}): {detail}", field="model")
        self.operator = operator
        self.node = node


class DataMissing(UserError):
    """A data folder that is not there. The message says how to get the data."""

    title = "Data missing"


class MissingExtra(UserError):
    """An optional dependency is not installed. The message gives the pip command."""

    title = "Missing optional dependency"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; pip install 'dra-serve[{extra}]'", field=package)


class PortTaken(UserError):
    """The port is in use."""

    title = "Port taken"


class HubError(UserError):
    """The Hugging Face Hub refused, has no such repository or revision, or cannot be reached."""

    title = "Hub error"


class Overloaded(DraServeError):
    """Too much work queued; `retry_after` seconds from now is a better time."""

    status = 429
    title = "Too many requests"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class ShuttingDown(Overloaded):
    """The service is draining; another instance, or a later moment, will answer."""

    status = 503
    title = "Shutting down"
