"""`dra_serve.load`: a model from wherever it is."""

import os
import re
from contextlib import suppress
from pathlib import Path

from dra_serve.cache import cache_folder
from dra_serve.errors import BadRequest, MissingExtra, ModelFolderError
from dra_serve.model_folder import read_folder, sha256
from dra_serve.onnx_classifier import OnnxClassifier, plain_signature

_BUNDLED = Path(__file__).parent / "bundled"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_ALLOWED = "bundled:NAME, a model folder, an .onnx file or a Hub id (org/name)"


def load(source: str | Path, revision: str | None = None) -> OnnxClassifier:
    """Return the classifier at `source`, ready to predict and to be attacked.

    source: "bundled:dra"; a model folder; an .onnx file, x (N, C, H, W) in [0, 1] -> logits, whose
    gradient graph is derived (`onnx` extra) and cached by the file's sha256; or a Hub id "org/name",
    at `revision` (branch, tag or commit; the Hub alone has any). An existing path wins over a Hub id.

    Raises BadRequest for a source of no such kind, ModelFolderError naming the file for a broken model,
    NoDerivative for an operator without a rule, MissingExtra without the onnx package, HubError.

    >>> import dra_serve
    >>> dra_serve.load("bundled:dra").classes[:2]  # doctest: +SKIP
    ('airplane', 'automobile')
    """
    text, path = str(source), Path(source)
    is_hub_id = not path.exists() and _HUB_ID.fullmatch(text) is not None and path.suffix != ".onnx"
    if revision is not None and not is_hub_id:
        raise BadRequest("revision", given=revision, allowed="nothing: only a Hub id has revisions")
    if text.startswith("bundled:"):
        return _load_bundled(text.removeprefix("bundled:"))
    if path.is_dir():
        return read_folder(path).classifier()
    if path.is_file() and path.suffix == ".onnx":
        return _load_onnx(path)
    if is_hub_id:
        from dra_serve.hub import pull

        return read_folder(pull(text, revision=revision)).classifier()
    raise BadRequest("source", given=text, allowed=_ALLOWED + ("" if path.exists() else "; no such path"))


def bundled_names() -> list[str]:
    """Return the names that `load("bundled:NAME")` knows."""
    return sorted(path.parent.name for path in _BUNDLED.glob("*/config.json"))


def _load_bundled(name: str) -> OnnxClassifier:
    names = bundled_names()
    if name not in names:
        allowed = ", ".join(f"bundled:{known}" for known in names) or "none: nothing is bundled here"
        raise BadRequest("source", given=f"bundled:{name}", allowed=allowed)
    return read_folder(_BUNDLED / name).classifier()


def _load_onnx(path: Path) -> OnnxClassifier:
    """Return a plain file's classifier. Its classes have no names: "0" to "K-1"."""
    classes, input_shape = plain_signature(path)
    names = [str(k) for k in range(classes)]
    return OnnxClassifier(path, _derived_gradient(path), classes=names, input_shape=input_shape)


def _derived_gradient(path: Path) -> Path | bytes:
    """Return the gradient graph of a forward file, from the cache if it was derived before."""
    from dra_serve import __version__

    cached = cache_folder() / "gradients" / __version__ / f"{sha256(path)}.onnx"
    if cached.exists():
        return cached
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "onnx") from error
    from dra_serve.gradient_graph import differentiate

    try:
        model = onnx.load(path)  # with its external data, which onnx keeps inside the file's folder
    except Exception as error:  # protobuf's, onnx's and OSError, all for a file that is no model
        raise ModelFolderError("not a readable ONNX model", file=path.name) from error
    gradient: bytes = differentiate(model).SerializeToString()
    with suppress(OSError):  # a read-only home or a full disk: then it is derived again next time
        _write_whole(cached, gradient)
    return gradient


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that another process sees whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)
