"""CIFAR-10 from a local Parquet folder in the Hub's layout, or from the Hub by id."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict, load_dataset
from safetensors.torch import load_file, save_file
from torch import Tensor

from dra_serve.cache import cache_folder
from dra_serve.errors import DataMissing
from training.data.image_data import ImageData

HUB_ID = "uoft-cs/cifar10"
COLUMNS = {"train": 50_000, "test": 10_000}


def load_cifar10(source: str | None = None) -> ImageData:
    """Return CIFAR-10. source: a folder that holds `plain_text/*.parquet`, or a Hub id.

    Decoding 60,000 PNGs takes half a minute, so the pixels are kept as safetensors in the cache folder.
    Raises DataMissing where a folder was named and is not there or holds no Parquet.
    """
    source = source or os.environ.get("DRA_SERVE_CIFAR10") or HUB_ID
    files = _parquet_files(source)
    cached = cache_folder() / f"cifar10-{_fingerprint(files or [source])}.safetensors"
    if not cached.exists():
        _decode(source, files, cached)
    arrays = load_file(cached)
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


def _decode(source: str, files: list[Path], cached: Path) -> None:
    try:
        if files:
            by_split = {s: [str(f) for f in files if f.name.startswith(s)] for s in COLUMNS}
            splits = load_dataset("parquet", data_files=by_split, cache_dir=str(cached.parent / "datasets"))
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
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}.partial")
    save_file(arrays, partial)
    partial.replace(cached)


def _tensors(split: Dataset) -> tuple[Tensor, Tensor]:
    """Return pixels uint8 (N, 3, 32, 32) and labels int64 (N,) of one split."""
    pixels = np.stack([np.asarray(row["img"].convert("RGB")) for row in split.select_columns(["img"])])
    labels = torch.tensor(split["label"][:], dtype=torch.int64)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


def _fingerprint(parts: list[Path] | list[str]) -> str:
    """Return a short hash of file names and sizes, or of the Hub id: cheap, and changes with the files."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(
            f"{part.name}:{part.stat().st_size}".encode() if isinstance(part, Path) else part.encode()
        )
    return digest.hexdigest()[:16]
