"""What a file takes and gives where it does not say so itself, kept beside it as `<file>.config.json`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dra_serve.errors import BadRequest, ModelFolderError

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Size = Annotated[int, Field(ge=1, le=16_384)]


class Declared(TypedDict, total=False):
    """The fields of a Declaration as keywords of `load`."""

    layout: Literal["nchw", "nhwc"] | None
    channels: Literal["rgb", "bgr"]
    range: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input_size: tuple[int, int] | None


class Declaration(BaseModel):
    """How an image x, RGB in [0, 1], becomes the file's input: (x range - mean) / std, then its layout.

    range: what white is, 1 or 255 as a rule. mean, std: in units of that range and in the file's own
    order of channels, one number for each or one for all. channels: that order. layout: None is read off
    the file's shape. input_size: (H, W), for a file that leaves them open. classes: names, if known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    schema_version: Literal[1] = 1
    layout: Literal["nchw", "nhwc"] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    range: _Positive = 1.0
    mean: tuple[_Finite, ...] | None = Field(default=None, min_length=1, max_length=4)
    std: tuple[_Positive, ...] | None = Field(default=None, min_length=1, max_length=4)
    input_size: tuple[_Size, _Size] | None = None
    classes: tuple[str, ...] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, 3, 4):
                raise ValueError(f"{name} has {len(values)} numbers, not one a channel or one for all")
        return self

    def words(self, layout: str) -> str:
        """Return what the file takes, in one phrase; `layout` is the one in force."""
        order = {"rgb": "RGB", "bgr": "BGR"}[self.channels]
        numbers = ", ".join(
            f"{name} {' '.join(f'{v:g}' for v in values)}"
            for name, values in (("mean", self.mean), ("std", self.std))
            if values is not None
        )
        return f"{layout.upper()}, {order} in [0, {self.range:g}], {numbers or 'no mean and std'}"


def beside(path: Path) -> Path:
    """Return where the declaration of a file lies."""
    return path.with_name(path.name + ".config.json")


def read_declaration(path: Path) -> Declaration | None:
    """Return what was declared of the file at `path` before, if anything. Raises ModelFolderError."""
    file = beside(path)
    try:
        return Declaration.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelFolderError(error.strerror or "cannot be read", file=file.name) from error
    except ValidationError as error:
        field, reason = _first(error)
        raise ModelFolderError(f"{field}: {reason}" if field else reason, file=file.name) from error


def declare(known: Declaration | None, given: Declared) -> Declaration:
    """Return `known` with what is `given` in its place. Raises BadRequest naming the option."""
    fields: dict[str, Any] = (known or Declaration()).model_dump()
    try:
        return Declaration.model_validate({**fields, **given})
    except ValidationError as error:
        field, reason = _first(error)
        shown = given.get(field, given)
        raise BadRequest(field.replace("_", "-") or "declaration", given=shown, allowed=reason) from error


def write_declaration(path: Path, declaration: Declaration) -> None:
    """Keep what is declared of the file at `path` beside it. Raises OSError."""
    said = declaration.model_dump(mode="json", exclude_none=True)
    beside(path).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _first(error: ValidationError) -> tuple[str, str]:
    first = error.errors(include_url=False)[0]
    return str(first["loc"][0]) if first["loc"] else "", first["msg"].removeprefix("Value error, ")
