"""Tensors on disk, whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file in one move: a kill or a second writer leaves the old one or a new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
