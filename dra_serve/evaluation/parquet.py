"""Parquet in the Hub's layout, decoded once into arrays in the cache that later runs map into memory.

Any image can then be read in any order, and memory does not grow with the number of images.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from dra_serve.cache import cache_folder
from dra_serve.errors import BadRequest, DataMissing, MissingExtra
from dra_serve.images import decode

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

CHUNK = 1024  # images at a time
GET = "get CIFAR-10 with `hf download uoft-cs/cifar10 --repo-type dataset --local-dir cifar10`"


def decoded(files: list[Path]) -> Path:
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
        raise DataMissing(f"data: {files[0].name} holds no rows; {GET}", field="data")
    x.flush()
    np.save(folder / "y.npy", y)
    facts = {"classes": classes, "sha256": content_sha256(x, y)}
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
        for batch in file.iter_batches(batch_size=CHUNK, columns=[image, label]):
            yield from zip(batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True)


def content_sha256(x: np.ndarray, y: np.ndarray) -> str:
    """Return the sha256 of every pixel of x, then every label as int64."""
    digest = hashlib.sha256()
    for start in range(0, len(x), CHUNK):
        digest.update(x[start : start + CHUNK].tobytes())
    digest.update(y.astype("<i8").tobytes())
    return digest.hexdigest()
