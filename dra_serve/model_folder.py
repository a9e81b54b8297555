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

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from dra_serve.errors import ModelFolderError, UserError
from dra_serve.model_config import ModelConfig
from dra_serve.onnx_classifier import OnnxClassifier
from dra_serve.receipts import upgraded
from dra_serve.sums import text_of, verify

CONFIG = "config.json"
RESULTS = "results.json"
FORWARD = "model.onnx"
GRADIENT = "model.gradient.onnx"


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
    verify(folder)
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
        value = json.loads(text_of(path), parse_constant=_not_finite, parse_float=_finite)
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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
