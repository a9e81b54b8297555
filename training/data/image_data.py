"""A labelled image data set in memory."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageData:
    """Training and test images, uint8 (N, C, H, W), with labels int64 (N,).

    uint8 keeps CIFAR-10 at 180 MB; a batch becomes float32 in [0, 1] where it is used (`as_float`).
    """

    name: str
    classes: tuple[str, ...]
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W)."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel over the training images, in units of x."""
        flat = as_float(self.train_x).transpose(0, 1).flatten(1).double()
        mean, std = flat.mean(1), flat.std(1, correction=0)
        return tuple(round(v, 6) for v in mean.tolist()), tuple(round(v, 6) for v in std.tolist())

    def sha256(self) -> str:
        """Return the hash of every pixel and label, training set first."""
        digest = hashlib.sha256()
        for part in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def hold_out(self, n: int, *, seed: int) -> tuple["ImageData", Tensor, Tensor]:
        """Return the data without `n` training images, and those images and labels.

        A seeded permutation picks them: CIFAR-10's file order is not representative.
        """
        order = torch.randperm(len(self.train_y), generator=torch.Generator().manual_seed(seed))
        held, kept = order[:n], order[n:].sort().values
        rest = replace(self, train_x=self.train_x[kept], train_y=self.train_y[kept])
        return rest, self.train_x[held], self.train_y[held]


def as_float(x: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]."""
    return x.float().div_(255)
