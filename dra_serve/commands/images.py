"""Image files as a command's arguments."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dra_serve.errors import BadRequest, UserError

if TYPE_CHECKING:
    from dra_serve.onnx_classifier import OnnxClassifier

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="bundled:dra, a model folder, an .onnx file, or a Hub id.")
]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG or WebP files.")]
Resize = Annotated[bool, typer.Option("--resize", help="Scale images to the model's input size.")]


def read_image(path: Path, model: "OnnxClassifier", resize: bool) -> Any:
    """Return the pixels of the file as the model takes them; errors name the file."""
    from dra_serve.images import decode, fit

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or 'cannot be read'}", field="image") from error
    try:
        return fit(decode(data, field=path.name), model.input_shape, resize=resize, field=path.name)
    except BadRequest as error:
        raise UserError(error.detail.replace("resize=true", "--resize"), field="image") from error
