"""The images of an evaluation: arrays, an .npz, or Parquet in the Hub's layout.

Parquet is decoded once, into arrays in the cache that later runs map into memory: any image can then be
read in any order, and memory does not grow with the number of images.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from dra_serve.cache import cache_folder
from dra_serve.errors import BadRequest, DataMissing, MissingExtra
from dra_serve.images import decode

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_CHUNK = 1024  # images at a time
_GET = "get CIFAR-10 with `hf download uoft-cs/cifar10 --repo-type dataset --local-dir cifar10`"


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
        digest = sha256 or _content_sha256(x, y)
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
        raise DataMissing(f"data: {source} holds no test*.parquet; {_GET}", field="data")
    folder = _decoded(files)
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
    for start in range(0, len(x), _CHUNK):
        part = x[start : start + _CHUNK]
        low, high = part.min(), part.max()
        if not (low >= 0 and high <= 1):  # a nan makes both comparisons false
            given = f"values from {low:g} to {high:g}"
            raise BadRequest("data", given=given, allowed="finite values in [0, 1]")
        levels[start : start + _CHUNK] = np.rint(part * 255)
        exact = exact and np.array_equal(as_float(levels[start : start + _CHUNK]), part)
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


def _decoded(files: list[Path]) -> Path:
    """Return the cache folder with these files' x.npy, y.npy and facts.json, made if it is not there."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    folder = cache_folder() / "images" / digest.hexdigest()
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as temporary:
            stage = Path(temporary) / "decoded"
            stage.mkdir()
            _decode(files, stage)
            try:
                stage.rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was quicker, with the same images
                    raise
    return folder


def _decode(files: list[Path], folder: Path) -> None:
    """Write the decoded images into `folder`, a chunk of them in memory at a time."""
    opened = [_open(file) for file in files]
    image, label, classes = _columns(opened[0], files[0].name)
    total = sum(file.metadata.num_rows for file in opened)
    x, y = None, np.empty(total, np.int64)
    for row, (cell, y[row]) in enumerate(_rows(opened, image, label)):
        pixels = decode(cell["bytes"] or b"", field=f"data, image {row}").transpose(2, 0, 1)
        if x is None:
            shape = (total, *pixels.shape)
            x = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.uint8, shape=shape)
        if pixels.shape != x.shape[1:]:
            sizes = f"{pixels.shape[1:]} pixels after {x.shape[2:]}"
            raise BadRequest("data", given=f"image {row} of {sizes}", allowed="images of one size")
        x[row] = pixels
    if x is None:
        raise DataMissing(f"data: {files[0].name} holds no rows; {_GET}", field="data")
    x.flush()
    np.save(folder / "y.npy", y)
    facts = {"classes": classes, "sha256": _content_sha256(x, y)}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _open(file: Path) -> "ParquetFile":
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("pyarrow", "eval") from error
    try:
        return ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise BadRequest("data", given=file.name, allowed="a readable Parquet file") from error


def _columns(parquet: "ParquetFile", file: str) -> tuple[str, str, list[str] | None]:
    """Return the names of the image and the label column, and the class names if the file says them."""
    schema = parquet.schema_arrow
    image = next((name for name in ("img", "image") if name in schema.names), None)
    label = next((name for name in ("label", "fine_label") if name in schema.names), None)
    encoded = image is not None and hasattr(schema.field(image).type, "get_field_index")
    if image is None or label is None or not encoded or schema.field(image).type.get_field_index("bytes") < 0:
        columns = f"{file} with columns {', '.join(schema.names)}"
        raise BadRequest("data", given=columns, allowed="columns img (encoded) and label (integer)")
    said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return image, label, said.get("info", {}).get("features", {}).get(label, {}).get("names")


def _rows(files: list["ParquetFile"], image: str, label: str) -> Iterator[tuple[dict[str, Any], int]]:
    for file in files:
        for batch in file.iter_batches(batch_size=_CHUNK, columns=[image, label]):
            yield from zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True)


def _content_sha256(x: np.ndarray, y: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(x), _CHUNK):
        digest.update(x[start : start + _CHUNK].tobytes())
    digest.update(y.astype("<i8").tobytes())
    return digest.hexdigest()
