"""Model folders: what is bundled, pushed, pulled, served and evaluated. Read, verified and written here.

    config.json          what the model is (`ModelConfig`)
    model.onnx           x -> logits
    model.gradient.onnx  (x, y, loss, target) -> (logits, value, grad); optional
    model.safetensors    the weights for torch; optional, never read here
    results.json         {"receipts": [...]}; optional
    README.md            the card; optional
    .eval_results/       the receipts as the Hub reads them; optional, written by a push
    SHA256SUMS           one line a file, as `sha256sum` writes it

A folder comes from strangers. Every sum is checked before anything is parsed; only data is read, never
code: pickles, links and files without a sum are refused. Weights kept outside an .onnx file are opened
by ONNX Runtime, which refuses absolute paths and `..` (a test holds it to that).
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from dra_serve.attacks.norms import get_norm, parse_radius
from dra_serve.errors import ModelFolderError, UserError
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.receipts import upgraded

SUMS = "SHA256SUMS"
CONFIG = "config.json"
RESULTS = "results.json"
FORWARD = "model.onnx"
GRADIENT = "model.gradient.onnx"

_UNSUMMED = {SUMS, ".gitattributes", ".cache"}  # the last two are huggingface_hub's own and never read
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin"}
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch's zip, and pickle protocol 2 on
_MAX_JSON = 32 * 2**20
_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def _norm_name(value: str) -> str:
    get_norm(value)
    return value


def _radius_text(value: str) -> str:
    parse_radius(value)
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Normalisation(_Strict):
    """(x - mean) / std a channel, done inside the network; here for the record."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class Network(_Strict):
    """Which network of `training.networks`, built with which arguments."""

    name: str
    arguments: dict[str, Any]


class Data(_Strict):
    """What the model was trained on."""

    name: str
    sha256: str
    images: PositiveInt


class Threat(_Strict):
    """The perturbations the model was trained to withstand; eps as written, "8/255"."""

    norm: Annotated[str, AfterValidator(_norm_name)]
    eps: Annotated[str, AfterValidator(_radius_text)]

    @property
    def radius(self) -> float:
        """eps as a number, in units of x."""
        return parse_radius(self.eps)


class ModelConfig(_Strict):
    """config.json. Unknown keys are errors; so is a schema version of another release."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
    classes: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=2)]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    normalisation: Normalisation
    network: Network
    data: Data
    threat: Threat
    recipe: dict[str, Any] = {}
    twin: str | None = None
    training: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> "ModelConfig":
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: each name once")
        channels = self.input_shape[0]
        if not len(self.normalisation.mean) == len(self.normalisation.std) == channels:
            raise ValueError(f"normalisation: one mean and one std for each of {channels} channels")
        return self


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose sums were right when it was read. receipts: the objects of results.json,
    those of version 1 in the form of version 2."""

    path: Path
    config: ModelConfig
    receipts: list[dict[str, Any]]

    def classifier(self, *, threads: int = 1) -> OnnxClassifier:
        """Return the model ready to use; without a gradient graph in the folder, without gradients."""
        gradient = self.path / GRADIENT
        return OnnxClassifier(
            self.path / FORWARD,
            gradient if gradient.exists() else None,
            classes=self.config.classes,
            input_shape=self.config.input_shape,
            threads=threads,
            name=self.config.name,
            config=self.config,
            receipts=self.receipts,
        )


def read_folder(path: Path | str) -> ModelFolder:
    """Return the model folder at `path`, every file's sum verified before any file is parsed.

    Raises ModelFolderError naming the file that is missing, altered, unsafe, without a sum, unreadable
    or of an unknown schema version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelFolderError("no such folder", file=str(path))
    _verify(folder)
    for required in (CONFIG, FORWARD):
        if not (folder / required).exists():
            raise ModelFolderError("missing", file=required)
    config = _read_config(folder / CONFIG)
    receipts = _read_receipts(folder / RESULTS) if (folder / RESULTS).exists() else []
    return ModelFolder(folder, config, receipts)


def write_config(path: Path | str, config: ModelConfig) -> None:
    """Write config.json into the folder at `path`; the same config gives the same bytes."""
    _write_json(Path(path) / CONFIG, config.model_dump(mode="json"))


def write_receipts(path: Path | str, receipts: list[dict[str, Any]]) -> None:
    """Write results.json into the folder at `path`; the same receipts give the same bytes."""
    _write_json(Path(path) / RESULTS, {"receipts": receipts})


def write_sums(path: Path | str) -> None:
    """Write SHA256SUMS for every file in the folder at `path`: the last act of writing one.

    Raises ModelFolderError for what `read_folder` would refuse.
    """
    folder = Path(path)
    names = sorted(_files(folder))
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(folder: Path) -> None:
    expected = _read_sums(folder)
    present = set(_files(folder))
    for name in sorted(expected.keys() - present):
        raise ModelFolderError(f"listed in {SUMS} but missing", file=name)
    for name in sorted(present - expected.keys()):
        raise ModelFolderError(f"not listed in {SUMS}", file=name)
    for name, digest in expected.items():
        if sha256(folder / name) != digest:
            raise ModelFolderError(f"altered or cut short: its sum is not the one in {SUMS}", file=name)


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if path.is_symlink() or not path.is_file():
        raise ModelFolderError("missing", file=SUMS)
    sums = {}
    for line in _text(path).splitlines():
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise ModelFolderError(f"line {line[:40]!r} is not 'sha256  name'", file=SUMS)
        sums[match[2]] = match[1]
    return sums


def _files(folder: Path) -> Iterator[str]:
    """Yield the relative name of each file that needs a sum; refuse links and pickles."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] in _UNSUMMED:
            continue
        name = relative.as_posix()
        if path.is_symlink():
            raise ModelFolderError("a symbolic link; a model folder holds plain files", file=name)
        if path.is_dir():
            continue
        if path.suffix in _PICKLES and _looks_pickled(path):
            raise ModelFolderError("a pickle, which can run code; weights are safetensors", file=name)
        yield name


def _looks_pickled(path: Path) -> bool:
    """Return whether it may be one: .bin is also a common name for raw weights."""
    if path.suffix != ".bin":
        return True
    with path.open("rb") as file:
        return file.read(4).startswith(_PICKLE_STARTS)


def _read_config(path: Path) -> ModelConfig:
    raw = _read_json(path)
    version = raw.get("schema_version")
    if version != 1 or isinstance(version, bool):
        raise ModelFolderError(f"schema_version {version!r:.20}; this release reads 1", file=CONFIG)
    try:
        return ModelConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")  # ours name their field themselves
        raise ModelFolderError(f"{where}: {message}" if where else message, file=CONFIG) from error
    except UserError as error:
        raise ModelFolderError(f"threat: {error.detail}", file=CONFIG) from error


def _read_receipts(path: Path) -> list[dict[str, Any]]:
    receipts = _read_json(path).get("receipts")
    if not isinstance(receipts, list) or not all(isinstance(receipt, dict) for receipt in receipts):
        raise ModelFolderError('expected {"receipts": [objects]}', file=RESULTS)
    return [upgraded(receipt) for receipt in receipts]


def _read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; NaN and infinities, which JSON does not have, are refused."""
    try:
        value = json.loads(_text(path), parse_constant=_not_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"no valid JSON: {error}", file=path.name) from error
    if not isinstance(value, dict):
        raise ModelFolderError("expected a JSON object", file=path.name)
    return value


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_JSON:
        raise ModelFolderError(f"larger than {_MAX_JSON:,} bytes", file=path.name)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelFolderError("not UTF-8 text", file=path.name) from error


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
