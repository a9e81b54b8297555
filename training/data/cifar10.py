"""CIFAR-10 from a local Parquet folder in the Hub's layout, or from the Hub by id."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, load_dataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dra_serve.cache import cache_folder
from dra_serve.errors import DataMissing
from training.data.image_data import ImageData
from training.tensor_file import write_tensors

HUB_ID = "uoft-cs/cifar10"
COLUMNS = {"train": 50_000, "test": 10_000}


def load_cifar10(source: str | None = None) -> ImageData:
    """Return CIFAR-10. source: a folder that holds `plain_text/*.parquet`, or a Hub id.

    Decoding 60,000 PNGs takes half a minute, so the pixels are kept as safetensors in the cache folder,
    by the content of a folder's files; a Hub id is taken to mean the same data for ever.
    Raises DataMissing where a folder was named and is not there or holds no Parquet.
    """
    source = source or os.environ.get("DRA_SERVE_CIFAR10") or HUB_ID
    files = _parquet_files(source)
    cached = cache_folder() / f"cifar10-{_fingerprint(files or [source])}.safetensors"
    arrays = _read(cached)
    if arrays is None:
        arrays = _decode(source, files)
        write_tensors(cached, arrays)
    return ImageData(
        "cifar10",
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        *(arrays[key] for key in ("train_x", "train_y", "test_x", "test_y")),
    )


def _parquet_files(source: str) -> list[Path]:
    """Return the Parquet files of a local folder, or none for a Hub id."""
    folder = Path(source)
    looks_local = folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1
    if not looks_local:
        return []
    files = sorted(folder.rglob("*.parquet")) if folder.is_dir() else []
    if not files:
        raise DataMissing(
            f"data: {source} holds no Parquet file. Get CIFAR-10 with "
            f"`hf download {HUB_ID} --repo-type dataset --local-dir cifar10` and pass `--data cifar10`, "
            f"or pass `--data {HUB_ID}` to let `datasets` download it",
            field="data",
        )
    return files


def _read(cached: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(cached)
    except (FileNotFoundError, SafetensorError):  # the second: cut short by whatever
        return None


def _decode(source: str, files: list[Path]) -> dict[str, Tensor]:
    try:
        if files:
            by_split = {s: [str(f) for f in files if f.name.startswith(s)] for s in COLUMNS}
            splits = load_dataset("parquet", data_files=by_split, cache_dir=str(cache_folder() / "datasets"))
        else:
            splits = load_dataset(source)
        assert isinstance(splits, DatasetDict)
        pairs = {split: _tensors(splits[split]) for split in COLUMNS}
    except (OSError, KeyError, ValueError) as error:
        raise DataMissing(
            f"data: {source} could not be read as CIFAR-10 ({type(error).__name__}); "
            f"a local copy works offline: `hf download {HUB_ID} --repo-type dataset --local-dir cifar10`",
            field="data",
        ) from error
    arrays: dict[str, Tensor] = {}
    for split, count in COLUMNS.items():
        arrays[f"{split}_x"], arrays[f"{split}_y"] = pairs[split]
        if len(pairs[split][1]) != count:
            raise DataMissing(
                f"data: {source} has {len(pairs[split][1])} {split} images, not {count}", field="data"
            )
    return arrays


def _tensors(split: Dataset) -> tuple[Tensor, Tensor]:
    """Return pixels uint8 (N, 3, 32, 32) and labels int64 (N,) of one split."""
    pixels = np.stack([np.asarray(row["img"].convert("RGB")) for row in split.select_columns(["img"])])
    labels = torch.tensor(split["label"][:], dtype=torch.int64)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


def _fingerprint(parts: list[Path] | list[str]) -> str:
    """Return a short hash of file names and contents, or of the Hub id. CIFAR-10's files take 0.1 s."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                digest.update(f"{part.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
        else:
            digest.update(part.encode())
    return digest.hexdigest()[:16]
