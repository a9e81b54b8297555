"""`dra_serve.load`: a model from wherever it is."""

import re
from pathlib import Path
from typing import Unpack

from dra_serve.bring_your_own.declaration import (
    Declaration,
    Declared,
    beside,
    declare,
    read_declaration,
    write_declaration,
)
from dra_serve.bring_your_own.derive import derive, keep
from dra_serve.bring_your_own.slope import measure_slope
from dra_serve.errors import BadRequest
from dra_serve.model_folder import read_folder
from dra_serve.onnx_classifier import OnnxClassifier

_BUNDLED = Path(__file__).parent / "bundled"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_ALLOWED = "bundled:NAME, a model folder, an .onnx file or a Hub id (org/name)"


def load(source: str | Path, revision: str | None = None, **declared: Unpack[Declared]) -> OnnxClassifier:
    """Return the classifier at `source`, ready to predict and to be attacked.

    source: "bundled:dra"; a model folder; any .onnx image classifier, whose gradient graph is derived
    (`onnx` extra) and cached by the file's sha256; or a Hub id "org/name", at `revision` (branch, tag or
    commit; the Hub alone has any). An existing path wins over a Hub id.

    declared: what an .onnx file takes where that is not RGB in [0, 1], see
    `dra_serve.bring_your_own.declaration`; kept beside the file and read from there next time. A file
    with an operator without a derivative rule has `has_gradient` False. `notes` of the result say what
    was assumed and done.

    Raises BadRequest for a source of no such kind, ModelFolderError naming the file for a broken model,
    MissingExtra without the onnx package, HubError.

    >>> import dra_serve
    >>> dra_serve.load("bundled:dra").classes[:2]  # doctest: +SKIP
    ('airplane', 'automobile')
    """
    text, path = str(source), Path(source)
    is_hub_id = not path.exists() and _HUB_ID.fullmatch(text) is not None and path.suffix != ".onnx"
    if revision is not None and not is_hub_id:
        raise BadRequest("revision", given=revision, allowed="nothing: only a Hub id has revisions")
    is_onnx = path.suffix == ".onnx" and path.is_file()
    if declared and not is_onnx:
        raise BadRequest(
            next(iter(declared)).replace("_", "-"), given=text, allowed="with an .onnx file alone"
        )
    if text.startswith("bundled:"):
        return _load_bundled(text.removeprefix("bundled:"))
    if path.is_dir():
        return read_folder(path).classifier()
    if is_onnx:
        return _load_onnx(path, declared)
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


def _load_onnx(path: Path, given: Declared) -> OnnxClassifier:
    """Return someone else's file as a classifier; what is declared now is kept beside it if it works.

    Its classes are "0" to "K-1" unless its declaration names them.
    """
    known = read_declaration(path)
    declared = declare(known, given)
    derived = derive(path, declared)
    facts = derived.facts
    model = OnnxClassifier(
        derived.forward,
        derived.gradient,
        classes=declared.classes or [str(k) for k in range(facts.classes)],
        input_shape=facts.input_shape,
        name=path.stem,
    )
    notes = [f"takes {declared.words(facts.layout)} ({_whence(path, known, declared)})", *facts.notes]
    if facts.without_gradient is not None:
        notes.append(
            f"no gradient: {facts.without_gradient}; white-box attacks cannot run, Square instead: it asks "
            "for logits alone, so what it finds is an upper bound of the robustness, a looser one"
        )
    elif model.straight_through:
        notes.append(
            f"gradient {'from the cache' if derived.cached else 'derived'}, an estimate: "
            f"{', '.join(model.straight_through)} is passed straight through, because rounding has no useful "
            "derivative; add a black-box attack before you believe a figure"
        )
    else:
        slope = facts.slope
        if slope is None:
            slope = measure_slope(model).words()
            keep(derived, slope)
        notes.append(f"gradient {'from the cache' if derived.cached else 'derived'}; {slope}")
    model.notes = tuple(notes)
    return model


def _whence(path: Path, known: Declaration | None, declared: Declaration) -> str:
    """Return where the declaration comes from, and keep it if it is new."""
    file = beside(path).name
    if declared == known:
        return f"declared in {file}"
    if declared == Declaration():
        return "assumed: --layout, --channels, --range, --mean and --std say otherwise"
    try:
        write_declaration(path, declared)
    except OSError as error:
        return f"declared, not kept: {file}: {error.strerror}"
    return f"declared, kept in {file}"
