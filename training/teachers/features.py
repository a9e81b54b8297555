"""The teacher's view of an image: one fixed noise level, the chosen blocks, pooled, centred and scaled.

    z = (pool(U_block(x + sigma n; sigma)) - mean) / std,      n ~ N(0, I)

Nothing behind the last chosen block runs. The statistics come from the training images: pooled
activations share a large common vector, and uncentred even a constant would score a high cosine.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from dra_serve.errors import BadRequest
from training.data.image_data import as_float
from training.teachers.denoiser import Denoiser
from training.teachers.folder import teacher_sha256
from training.tensor_file import write_tensors

console = Console(stderr=True)


@dataclass(frozen=True, kw_only=True)
class FeatureChoice:
    """Which features: the answer of `training/probe_teacher.py`.

    blocks: module paths inside the U-Net, in the order they run; several are concatenated.
    grid: 1 is the global average, 2 or 4 keep that many cells a side.
    draws: noise draws averaged; the noise is keyed by image and draw, so a cache equals a fresh pass.
    """

    blocks: tuple[str, ...] = ("up_blocks.1",)
    sigma: float = 0.15
    grid: int = 1
    draws: int = 2


class _Reached(Exception):
    """Raised by the hook of the last chosen block: the rest of the network need not run."""


@contextmanager
def _taps(unet: UNet2DModel, blocks: Sequence[str], *, truncate: bool) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of `blocks` while a forward pass runs; `truncate` ends it at the last of them."""
    tapped: dict[str, Tensor] = {}

    def tap(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tapped[name] = (
                output[0] if isinstance(output, tuple) else output
            ).clone()  # later blocks add in place
            if truncate and len(tapped) == len(blocks):
                raise _Reached

        return hook

    handles = [_block(unet, name).register_forward_hook(tap(name)) for name in blocks]
    try:
        yield tapped
    finally:
        for handle in handles:
            handle.remove()


def _block(unet: UNet2DModel, name: str) -> nn.Module:
    try:
        return unet.get_submodule(name)
    except AttributeError:
        raise BadRequest("blocks", given=name, allowed=", ".join(block_names(unet))) from None


def block_names(unet: UNet2DModel) -> tuple[str, ...]:
    """Return the blocks of a U-Net in the order they run."""
    down = [f"down_blocks.{i}" for i in range(len(unet.down_blocks))]
    up = [f"up_blocks.{i}" for i in range(len(unet.up_blocks))]
    return (*down, "mid_block", *up)


@torch.no_grad()
def activations(
    denoiser: Denoiser,
    x: Tensor,
    noise: Tensor,
    *,
    sigma: float,
    blocks: Sequence[str],
    truncate: bool = True,
) -> dict[str, Tensor]:
    """Return each block's output (N, D, h, w) float32 for clean images x (N, C, H, W) in [0, 1].

    noise: (N, C, H, W) standard normal. truncate=False runs the whole network, for comparison.
    """
    level = torch.full((len(x),), sigma)
    with _taps(denoiser.unet, blocks, truncate=truncate) as tapped, suppress(_Reached):
        denoiser.network(x * 2 - 1 + sigma * noise, level)
    return {name: tapped[name].float() for name in blocks}


def keyed_noise(ids: Tensor, shape: Sequence[int], *, draw: int) -> Tensor:
    """Return standard normal noise (N, *shape) that depends on each image's id and the draw alone."""
    rows = []
    for image in ids.tolist():
        rng = torch.Generator().manual_seed(image * 1009 + draw)
        rows.append(torch.randn(tuple(shape), generator=rng))
    return torch.stack(rows)


def pooled(denoiser: Denoiser, x: Tensor, ids: Tensor, choice: FeatureChoice) -> Tensor:
    """Return the unscaled features (N, D) of images x (N, C, H, W) in [0, 1] with ids (N,)."""
    total = torch.zeros(())
    for draw in range(choice.draws):
        noise = keyed_noise(ids, x.shape[1:], draw=draw)
        found = activations(denoiser, x, noise, sigma=choice.sigma, blocks=choice.blocks)
        cells = [adaptive_avg_pool2d(found[name], choice.grid).flatten(1) for name in choice.blocks]
        total = total + torch.cat(cells, 1)
    return total / choice.draws


@dataclass(frozen=True)
class CachedFeatures:
    """Standardised features of every training image: z float16 (2, N, D), unmirrored and mirrored.

    Random crops are ignored: the target of a shifted image is that of the whole one, a declared
    approximation that makes the teacher free during training.
    """

    z: Tensor
    mean: Tensor  # (D,)
    std: Tensor  # (D,)

    @property
    def width(self) -> int:
        return self.z.shape[2]

    def targets(self, index: Tensor, mirrored: Tensor) -> Tensor:
        """Return z (N, D) float32 of images `index` (N,), mirrored or not (N,) bool."""
        return self.z[mirrored.long(), index].float()


def cache_features(
    denoiser: Denoiser,
    x: Tensor,
    choice: FeatureChoice,
    *,
    path: Path,
    data_sha256: str,
    batch: int = 256,
    on_batch: Callable[[int, int], None] | None = None,
) -> CachedFeatures:
    """Return the features of all images x uint8 (N, C, H, W), from `path` if it holds exactly these.

    The file is bound to the teacher (weights, configuration and preconditioning), the choice and the data;
    anything else, and a file cut short, is computed anew, on_batch being called with the images done and
    to do.
    """
    bound = {
        "teacher": teacher_sha256(denoiser),
        "choice": asdict(choice),
        "data": data_sha256,
        "images": len(x),
    }
    key = json.dumps(bound, sort_keys=True)
    if (kept := _read_cache(path, key)) is not None:
        return kept
    ids = torch.arange(len(x))
    parts: list[Tensor] = []
    for images in (x, x.flip(3)):
        for part in ids.split(batch):
            parts.append(pooled(denoiser, as_float(images[part]), part, choice))
            if on_batch is not None:
                on_batch(sum(map(len, parts)), 2 * len(x))
    raw = torch.cat(parts).unflatten(0, (2, len(x)))
    mean, std = raw.flatten(0, 1).mean(0), raw.flatten(0, 1).std(0).clamp_min(1e-6)
    cached = CachedFeatures(((raw - mean) / std).half(), mean, std)
    write_tensors(path, {"z": cached.z, "mean": mean, "std": std}, metadata={"key": key})
    return cached


def _read_cache(path: Path, key: str) -> CachedFeatures | None:
    """Return the features in `path`, or None where it is not there, of something else, or broken."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            return CachedFeatures(*(file.get_tensor(name) for name in ("z", "mean", "std")))
    except (SafetensorError, OSError) as error:
        console.print(f"teacher features: {path} is broken ({error}); computing them again", highlight=False)
        return None
