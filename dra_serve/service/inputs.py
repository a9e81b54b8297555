"""Reading a request: its images and its fields, whichever way a client chose to send them.

Either the body is the image and the fields are in the query, or both come as multipart/form-data. The
two endpoints read alike, and one strict pydantic model an endpoint says what a field may be.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dra_serve.errors import BadRequest, MalformedRequest, UnsupportedFormat
from dra_serve.images import decode, fit
from dra_serve.service.problems import broken_body, from_validation

MAX_IMAGES = 32
_MAX_FIELDS = 100
_MAX_FIELD_BYTES = 16 * 1024
_MAX_NAME = 60
_UTF_8 = (b"utf-8", b"utf8")
_HOW = (
    "send multipart/form-data with an image part, or the image itself as image/png, image/jpeg or image/webp"
)

F = TypeVar("F", bound=BaseModel)


@dataclass(frozen=True)
class Inputs:
    """images: files as they came. fields: name -> every value given, in order."""

    images: list[bytes]
    fields: dict[str, list[str]]

    def require_one_image(self) -> None:
        """Raise BadRequest if there are several."""
        if len(self.images) > 1:
            raise BadRequest("image", given=f"{len(self.images)} images", allowed="one image at a time")

    def pixels(self, input_shape: tuple[int, int, int], *, resize: bool) -> list[np.ndarray]:
        """Return the images decoded, uint8 (H, W, C) each, in the model's own size; see `images.fit`."""
        return [fit(decode(image), input_shape, resize=resize) for image in self.images]

    def parse(self, model: type[F]) -> F:
        """Return the fields as `model`; an error naming the first that is unknown, doubled or wrong."""
        values: dict[str, Any] = {}
        for name, given in self.fields.items():
            is_list = name in model.model_fields and "list" in str(model.model_fields[name].annotation)
            if len(given) > 1 and not is_list:
                raise BadRequest(name, given=" and ".join(given), allowed="one value")
            values[name] = given if is_list else given[0]
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise from_validation(error, model) from error


async def read_inputs(request: Request) -> Inputs:
    """Return what the request carries, with at least one image.

    Raises MalformedRequest (400) for a body that is empty or cannot be taken apart, UnsupportedFormat
    (415) for a media type that is neither an image nor multipart, BadRequest for too many images.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        images, pairs = await _read_form(request)
    elif kind.startswith("image/") or kind in ("", "application/octet-stream"):
        images, pairs = [await request.body()], []
    else:
        raise UnsupportedFormat(f"Content-Type: got {kind[:60]!r}; {_HOW}", field="Content-Type")
    if not images or images == [b""]:
        raise MalformedRequest(f"image: there is none; {_HOW}", field="image")
    if len(images) > MAX_IMAGES:
        raise BadRequest("image", given=f"{len(images)} images", allowed=f"1 to {MAX_IMAGES}")
    return Inputs(images, _group([*request.query_params.multi_items(), *pairs]))


async def _read_form(request: Request) -> tuple[list[bytes], list[tuple[str, str]]]:
    _, options = parse_options_header(request.headers["content-type"])
    if options.get(b"charset", b"utf-8").lower() not in _UTF_8:  # others make text that no answer can hold
        raise broken_body("the names and the values of its fields must be UTF-8")
    try:
        form = await request.form(
            max_files=2 * MAX_IMAGES, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
        )
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise broken_body(error.detail) from error
    images: list[bytes] = []
    pairs: list[tuple[str, str]] = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, str):
                pairs.append((name, value))
            else:
                images.append(await value.read())
            if isinstance(value, str) == (name == "image"):
                what = "a file part with a filename" if name == "image" else "text; only image is a file"
                raise MalformedRequest(f"{name[:_MAX_NAME]}: must be {what}", field=name[:_MAX_NAME])
    finally:
        await form.close()
    return images, pairs


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name[:_MAX_NAME], []).append(value)  # no longer name is known, nor echoed
    return grouped
