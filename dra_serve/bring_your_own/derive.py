"""Both graphs of someone else's file, derived once and kept in the cache, and what is to be said of them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from dra_serve.bring_your_own.declaration import Declaration
from dra_serve.cache import cache_folder
from dra_serve.errors import MissingExtra, ModelFolderError, UserError

if TYPE_CHECKING:
    import onnx

_FORWARD, _GRADIENT, _FACTS = "model.onnx", "model.gradient.onnx", "facts.json"
_SOURCE = [Path(__file__).parent, Path(__file__).parents[1] / "gradient_graph"]


class Facts(BaseModel):
    """What deriving found out. wrapped: the forward graph is not the file itself. without_gradient: why
    there is none. slope: a phrase on the finite differences, once they were taken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wrapped: bool
    layout: str
    input_shape: tuple[int, int, int]
    classes: int
    notes: tuple[str, ...]
    without_gradient: str | None = None
    slope: str | None = None


@dataclass(frozen=True)
class Derived:
    """forward, gradient: paths or whole files; gradient None where an operator has no rule."""

    forward: Path | bytes
    gradient: Path | bytes | None
    facts: Facts
    cached: bool
    folder: Path


def derive(path: Path, declared: Declaration) -> Derived:
    """Return both graphs of the file, on x in [0, 1], from the cache if they were derived before.

    Cached by what is in the file, what is declared of it and the code that derives. Raises MissingExtra
    without the onnx package, ModelFolderError for a file that is no model, BadRequest for a form of another
    kind.
    """
    folder = cache_folder() / "gradients" / _key(path, declared)
    if (known := _read(path, folder)) is not None:
        return known
    return _derive(path, declared, folder)


def keep(derived: Derived, slope: str) -> None:
    """Keep what the finite differences said, so that they are taken once."""
    facts = derived.facts.model_copy(update={"slope": slope})
    with suppress(OSError):
        _write(derived.folder / _FACTS, facts.model_dump_json().encode())


def _key(path: Path, declared: Declaration) -> str:
    """Return our version and a hash of the file, of the weights it keeps in others, of the declaration and
    of our own source: a rule that changed within a version must not be answered from the cache."""
    from dra_serve import __version__

    content = path.read_bytes()
    hashed = hashlib.sha256(content)
    if b"location" in content:  # the word that names a file of weights
        for other in _weight_files(path):
            with suppress(OSError), other.open("rb") as file:
                hashed.update(hashlib.file_digest(file, "sha256").digest())
    hashed.update(declared.model_dump_json(exclude={"classes"}).encode())
    hashed.update(_source())
    return f"{__version__}-{hashed.hexdigest()}"


@cache
def _source() -> bytes:
    """Return a hash of the code that wraps and differentiates."""
    hashed = hashlib.sha256()
    for folder in _SOURCE:
        for file in sorted(folder.rglob("*.py")):
            hashed.update(file.read_bytes())
    return hashed.digest()


def _weight_files(path: Path) -> list[Path]:
    onnx = _onnx()
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # whatever protobuf throws: no model, which is said when it is read
        return []
    names = {
        entry.value
        for tensor in _tensors(model.graph)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / name for name in sorted(names)]


def _tensors(graph: "onnx.GraphProto") -> "Iterator[onnx.TensorProto]":
    """Yield every tensor a graph holds, those of Constant nodes and of graphs inside it too."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _read(path: Path, folder: Path) -> Derived | None:
    try:
        facts = Facts.model_validate_json((folder / _FACTS).read_bytes())
    except (OSError, ValidationError):
        return None
    forward = folder / _FORWARD if facts.wrapped else path
    gradient = folder / _GRADIENT if facts.without_gradient is None else None
    if not all(file is None or file.is_file() for file in (forward, gradient)):
        return None
    return Derived(forward, gradient, facts, cached=True, folder=folder)


def _derive(path: Path, declared: Declaration, folder: Path) -> Derived:
    onnx = _onnx()
    from dra_serve.bring_your_own.wrap import wrap
    from dra_serve.gradient_graph import differentiate

    try:
        model = onnx.load(path)  # with its external data, which onnx keeps inside the file's folder
    except Exception as error:  # protobuf's, onnx's and OSError, all for a file that is no model
        raise ModelFolderError("not a readable ONNX model", file=path.name) from error
    wrapped = wrap(model, declared)
    reason, gradient, notes = None, None, wrapped.notes
    try:
        derivative = differentiate(wrapped.model)
        gradient, notes = derivative.SerializeToString(deterministic=True), (*notes, *_stopped(derivative))
    except UserError as error:  # an operator without a rule, or an opset nothing converts
        reason = error.detail
    facts = Facts(
        wrapped=wrapped.changed,
        layout=wrapped.layout,
        input_shape=wrapped.input_shape,
        classes=wrapped.classes,
        notes=notes,
        without_gradient=reason,
    )
    forward = wrapped.model.SerializeToString(deterministic=True) if wrapped.changed else path
    derived = Derived(forward, gradient, facts, cached=False, folder=folder)
    with suppress(OSError):  # a read-only home or a full disk: then it is derived again next time
        if isinstance(forward, bytes):
            _write(folder / _FORWARD, forward)
        if gradient is not None:
            _write(folder / _GRADIENT, gradient)
        _write(folder / _FACTS, facts.model_dump_json().encode())
    return derived


def _stopped(gradient: "onnx.ModelProto") -> list[str]:
    """Return what is to be said of operators at which a gradient ends."""
    said = {entry.key: entry.value for entry in gradient.metadata_props}
    names = said.get("dra_serve.stopped", "").replace(",", ", ")
    return [f"{names} passes no gradient: its derivative is zero, other ways remain"] if names else []


def _onnx() -> ModuleType:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "onnx") from error
    return onnx


def _write(path: Path, content: bytes) -> None:
    """Write a file that another process sees whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)
