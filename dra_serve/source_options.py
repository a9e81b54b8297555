"""Where a command's model comes from: the options that declare what an .onnx file takes, once for all.

@app.command()
@takes_source
def doctor(model: str, source: Source, ...) -> None:
    classifier = source.load(model)
"""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_type_hints

import typer

from dra_serve.bring_your_own.declaration import Declared
from dra_serve.errors import BadRequest

if TYPE_CHECKING:
    from dra_serve.classifier import Model
    from dra_serve.onnx_classifier import OnnxClassifier

AnyModel = TypeVar("AnyModel", bound="Model")

_PANEL = "Your own .onnx file: declared once, kept beside it"


@dataclass(frozen=True)
class Source:
    """What the command line declares of the model it names."""

    declared: Declared = field(default_factory=lambda: Declared())

    def load(self, model: str) -> "OnnxClassifier":
        """Return the model, and say on stderr what was assumed of it. Raises BadRequest."""
        from dra_serve.bring_your_own.torch_module import is_function
        from dra_serve.loading import load

        if is_function(model):
            allowed = "an ONNX model; module:function is for evaluate and doctor"
            raise BadRequest("MODEL", given=model, allowed=allowed)
        return _said(load(model, **self.declared))

    def load_any(self, model: str) -> "Model":
        """Return the model, `module:function` too, and say on stderr what was assumed of it."""
        from dra_serve.bring_your_own.torch_module import is_function, load_function

        if not is_function(model):
            return self.load(model)
        if others := sorted({*self.declared} - {"input_size"}):
            allowed = "with an .onnx file alone: a torch module does this itself"
            raise BadRequest(others[0], given=model, allowed=allowed)
        return _said(load_function(model, self.declared.get("input_size")))


def _said(model: AnyModel) -> AnyModel:
    if model.notes:
        print(f"{model.name}: {'; '.join(model.notes)}", file=sys.stderr)
    return model


OPTIONS: dict[str, Any] = {
    "layout": Annotated[
        str | None, typer.Option(help="nchw or nhwc; read off the file's shape.", rich_help_panel=_PANEL)
    ],
    "channels": Annotated[str | None, typer.Option(help="rgb or bgr; default rgb.", rich_help_panel=_PANEL)],
    "range": Annotated[
        float | None,
        typer.Option("--range", help="What white is: 1 or 255; default 1.", rich_help_panel=_PANEL),
    ],
    "mean": Annotated[
        str | None,
        typer.Option(help="Subtracted, in units of the range; one number a channel.", rich_help_panel=_PANEL),
    ],
    "std": Annotated[
        str | None,
        typer.Option(help="Divided by, in units of the range.", rich_help_panel=_PANEL),
    ],
    "input_size": Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Where the file leaves it open.", rich_help_panel=_PANEL),
    ],
}


def takes_source(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with OPTIONS in place of its parameter `source`, which it gets as a Source."""

    @wraps(command)
    def with_options(**given: Any) -> None:
        said = {name: given.pop(name) for name in OPTIONS}
        command(**given, source=Source(parse(**said)))

    hints = get_type_hints(command, include_extras=True) | OPTIONS
    hints.pop("source")
    own = [p for name, p in inspect.signature(command).parameters.items() if name != "source"]
    ours = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in OPTIONS]
    parameters = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in [*own, *ours]]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
    with_options.__annotations__ = hints
    return with_options


def parse(
    *,
    layout: str | None = None,
    channels: str | None = None,
    range: float | None = None,
    mean: str | None = None,
    std: str | None = None,
    input_size: str | None = None,
) -> Declared:
    """Return what was typed as keywords of `load`; what was not typed is left out. Raises BadRequest."""
    values = {
        "layout": layout and layout.lower(),
        "channels": channels and channels.lower(),
        "range": range,
        "mean": mean and _numbers(mean, "mean"),
        "std": std and _numbers(std, "std"),
        "input_size": input_size and _size(input_size),
    }
    return cast(Declared, {name: value for name, value in values.items() if value is not None})


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise BadRequest(option, given=text, allowed="numbers with commas between") from error


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if match is None:
        raise BadRequest("input-size", given=text, allowed="HxW, such as 224x224")
    height, width = match.groups()
    return int(height), int(width or height)
