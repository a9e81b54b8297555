"""The images of an evaluation: a CIFAR-10-like Parquet folder, or an .npz with x and y."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dra_serve.errors import BadRequest, DataMissing, MissingExtra


@dataclass(frozen=True)
class LabelledImages:
    """x: uint8 (N, C, H, W); y: int64 (N,); indices: (N,) positions in the data set; total: its size."""

    name: str
    sha256: str
    x: np.ndarray
    y: np.ndarray
    indices: np.ndarray
    total: int


def read_images(source: Path, *, n: int | None = None, seed: int = 0) -> LabelledImages:
    """Return the test images of `source`, all of them or a seeded random choice of n.

    source: a folder with `test*.parquet` (columns of an encoded image and an integer label, as the Hub
    keeps CIFAR-10), or an .npz file with x uint8 (N, C, H, W) and y (N,). A prefix would not do: files
    are sorted by name, and CIFAR-10's names by search word.
    Raises DataMissing where nothing is there, BadRequest for other contents or n out of range.
    """
    name, x, y = _read_npz(source) if source.suffix == ".npz" else _read_parquet(source)
    digest = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    total = len(y)
    if total == 0:
        raise BadRequest("data", given=f"{source} with no images", allowed="at least one image")
    if n is not None and not 1 <= n <= total:
        raise BadRequest("n", given=n, allowed=f"1 to {total:,}")
    chosen = (
        np.arange(total) if n is None or n == total else np.random.default_rng(seed).permutation(total)[:n]
    )
    return LabelledImages(name, digest, x[chosen], y[chosen], chosen, total)


def _read_npz(path: Path) -> tuple[str, np.ndarray, np.ndarray]:
    if not path.is_file():
        raise DataMissing(f"data: no file {path}", field="data")
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except (KeyError, ValueError, OSError) as error:
        raise BadRequest("data", given=path.name, allowed="an .npz file with arrays x and y") from error
    if x.dtype != np.uint8 or x.ndim != 4 or y.shape != x.shape[:1] or y.dtype.kind not in "iu":
        given = f"x {x.dtype} {x.shape}, y {y.dtype} {y.shape}"
        raise BadRequest("data", given=given, allowed="x uint8 (N, C, H, W) and y integers (N,)")
    return path.stem, x, y.astype(np.int64)


def _read_parquet(folder: Path) -> tuple[str, np.ndarray, np.ndarray]:
    files = sorted(folder.rglob("test*.parquet")) if folder.is_dir() else []
    if not files:
        raise DataMissing(
            f"data: {folder} holds no test*.parquet; get CIFAR-10 with "
            "`hf download uoft-cs/cifar10 --repo-type dataset --local-dir cifar10`",
            field="data",
        )
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "eval") from error
    rows: list[dict[str, Any]] = [row for file in files for row in pq.read_table(file).to_pylist()]
    try:
        y = np.array([row["label"] for row in rows], dtype=np.int64)
        x = np.stack([np.asarray(Image.open(io.BytesIO(_encoded(row))).convert("RGB")) for row in rows])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise BadRequest(
            "data", given=str(folder), allowed="columns img (encoded) and label (integer)"
        ) from error
    name = folder.name if folder.name != "plain_text" else folder.parent.name
    return name, np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y


def _encoded(row: dict[str, Any]) -> bytes:
    encoded: bytes = (row.get("img") or row["image"])["bytes"]
    return encoded
