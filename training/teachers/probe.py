"""How much a teacher's features know of the classes: a linear probe of every block and noise level."""

from dataclasses import dataclass

import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from training.data import ImageData
from training.data.image_data import as_float
from training.teachers.denoiser import Denoiser
from training.teachers.features import activations, block_names, keyed_noise

RIDGE = 100.0  # penalty on standardised features; 10 to 1000 move a probe by less than half a point


@dataclass(frozen=True)
class ProbeData:
    """A seeded draw of training images, split into two: a choice made by test images would leak."""

    fit_x: Tensor  # uint8
    fit_y: Tensor
    score_x: Tensor
    score_y: Tensor

    @classmethod
    def draw(cls, data: ImageData, *, fit: int, score: int, seed: int = 0) -> "ProbeData":
        order = torch.randperm(len(data.train_y), generator=torch.Generator().manual_seed(seed))
        a, b = order[:fit], order[fit : fit + score]
        return cls(data.train_x[a], data.train_y[a], data.train_x[b], data.train_y[b])


def probe(
    denoiser: Denoiser,
    data: ProbeData,
    *,
    sigmas: tuple[float, ...],
    grids: tuple[int, ...] = (1,),
    batch: int = 256,
) -> list[dict[str, object]]:
    """Return a row {block, sigma, grid, width, accuracy} for every block, noise level and grid.

    One noise draw an image; ridge regression to one-hot labels on standardised features. Accuracy is a
    fraction of the images kept for scoring.
    """
    blocks = block_names(denoiser.unet)
    rows: list[dict[str, object]] = []
    for sigma in sigmas:
        fit = _features(denoiser, data.fit_x, blocks, sigma, grids, batch)
        score = _features(denoiser, data.score_x, blocks, sigma, grids, batch)
        for (block, grid), z in fit.items():
            scaler = StandardScaler().fit(z.numpy())
            model = RidgeClassifier(alpha=RIDGE).fit(scaler.transform(z.numpy()), data.fit_y.numpy())
            accuracy = model.score(scaler.transform(score[block, grid].numpy()), data.score_y.numpy())
            rows.append(
                {
                    "block": block,
                    "sigma": sigma,
                    "grid": grid,
                    "width": z.shape[1],
                    "accuracy": round(accuracy, 4),
                }
            )
    return rows


def _features(
    denoiser: Denoiser, x: Tensor, blocks: tuple[str, ...], sigma: float, grids: tuple[int, ...], batch: int
) -> dict[tuple[str, int], Tensor]:
    parts: dict[tuple[str, int], list[Tensor]] = {(b, g): [] for b in blocks for g in grids}
    for ids in torch.arange(len(x)).split(batch):
        images = as_float(x[ids])
        noise = keyed_noise(ids, images.shape[1:], draw=0)
        for block, found in activations(denoiser, images, noise, sigma=sigma, blocks=blocks).items():
            for grid in grids:
                parts[block, grid].append(adaptive_avg_pool2d(found, grid).flatten(1))
    return {key: torch.cat(values) for key, values in parts.items()}
