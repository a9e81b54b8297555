"""The images of an evaluation: arrays, an .npz, or Parquet in the Hub's layout."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dra_serve.errors import BadRequest, DataMissing
from dra_serve.evaluation.parquet import CHUNK, GET, content_sha256, decoded


@dataclass(frozen=True)
class Rows:
    """Some rows of an array, in an order of their own, read when they are sliced."""

    array: np.ndarray
    indices: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.indices), *self.array.shape[1:])

    def __getitem__(self, part: Any) -> np.ndarray:
        rows: np.ndarray = self.array[self.indices[part]]
        return rows


@dataclass(frozen=True)
class LabelledImages:
    """x: uint8 (N, C, H, W); y: int64 (N,); indices: (N,) positions in the data set; total: its size.

    x that is not on the 8-bit grid stays float32 in [0, 1] (`as_float` reads either).
    sha256: of every pixel of the whole data set, then every label (int64): the same for the same images,
    however they are stored. classes: the labels' names, if the data set says them.
    """

    name: str
    sha256: str
    x: np.ndarray | Rows
    y: np.ndarray
    indices: np.ndarray
    total: int
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: Any,
        *,
        name: str = "images",
        n: int | None = None,
        seed: int = 0,
        classes: tuple[str, ...] | None = None,
        sha256: str | None = None,
    ) -> "LabelledImages":
        """Return the images x, (N, C, H, W), labelled y, (N,) integers; or a random choice of n.

        x: uint8, or float32 in [0, 1], which is kept as uint8 if every value is a k/255.
        Raises BadRequest for other arrays, values outside [0, 1] or not finite, and unless 1 <= n <= N.
        """
        x, y = np.asanyarray(x), np.asarray(y)  # asanyarray: a map of a file stays one
        fits = x.dtype in (np.uint8, np.float32) and x.ndim == 4 and y.shape == x.shape[:1]
        if not fits or (len(y) and y.dtype.kind not in "iu"):
            given = f"x {x.dtype} {x.shape}, y {y.dtype} {y.shape}"
            allowed = "x uint8, or float32 in [0, 1], (N, C, H, W) and y integers (N,)"
            raise BadRequest("data", given=given, allowed=allowed)
        total, y = len(y), y.astype(np.int64)
        if total == 0:
            raise BadRequest("data", given=f"{name} with no images", allowed="at least one image")
        if x.dtype == np.float32:
            x = _on_the_grid(x)
        digest = sha256 or content_sha256(x, y)
        if n is None or n == total:
            return cls(name, digest, x, y, np.arange(total), total, classes)
        if not 1 <= n <= total:
            raise BadRequest("n", given=n, allowed=f"1 to {total:,}")
        chosen = np.random.default_rng(seed).permutation(total)[:n]
        return cls(name, digest, Rows(x, chosen), y[chosen], chosen, total, classes)


def as_float(x: np.ndarray) -> np.ndarray:
    """Return images as float32 in [0, 1]; uint8 k becomes k/255."""
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x


def read_images(source: Path, *, n: int | None = None, seed: int = 0) -> LabelledImages:
    """Return the test images of `source`, all of them or a seeded random choice of n.

    source: a folder with `test*.parquet` at any depth (encoded images of one size and integer labels, as
    the Hub keeps CIFAR-10), or an .npz file with x (N, C, H, W) and y (N,). A prefix would not do:
    files are sorted by name, and CIFAR-10's names by search word.
    Raises DataMissing where nothing is there, BadRequest for other contents or n out of range,
    MissingExtra for Parquet without pyarrow.
    """
    if source.suffix == ".npz":
        x, y = _read_npz(source)
        return LabelledImages.of(x, y, name=source.stem, n=n, seed=seed)
    files = sorted(source.rglob("test*.parquet")) if source.is_dir() else []
    if not files:
        raise DataMissing(f"data: {source} holds no test*.parquet; {GET}", field="data")
    folder = decoded(files)
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return LabelledImages.of(
        np.load(folder / "x.npy", mmap_mode="r"),
        np.load(folder / "y.npy"),
        name=_name(source),
        n=n,
        seed=seed,
        classes=facts["classes"] and tuple(facts["classes"]),
        sha256=facts["sha256"],
    )


def _on_the_grid(x: np.ndarray) -> np.ndarray:
    """Return float32 images as uint8 if each value is a k/255, else as they are."""
    levels = np.empty(x.shape, np.uint8)
    exact = True
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        low, high = part.min(), part.max()
        if not (low >= 0 and high <= 1):  # a nan makes both comparisons false
            given = f"values from {low:g} to {high:g}"
            raise BadRequest("data", given=given, allowed="finite values in [0, 1]")
        levels[start : start + CHUNK] = np.rint(part * 255)
        exact = exact and np.array_equal(as_float(levels[start : start + CHUNK]), part)
    return levels if exact else x


def _name(folder: Path) -> str:
    full = folder.resolve()
    return full.parent.name if full.name == "plain_text" else full.name


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.is_file():
        raise DataMissing(f"data: no file {path}", field="data")
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file["y"]
    except Exception as error:  # zipfile's, zlib's, NumPy's and KeyError: not what was promised
        raise BadRequest("data", given=path.name, allowed="an .npz file with arrays x and y") from error
