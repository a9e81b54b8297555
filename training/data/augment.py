"""Random crop and horizontal flip, each image on its own, without a Python loop."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad


def crop_and_flip(x: Tensor, *, padding: int, flip: bool, rng: Generator) -> tuple[Tensor, Tensor]:
    """Return images (N, C, H, W) shifted by up to `padding` pixels, and which were mirrored (N,) bool.

    Any dtype; the border is zero. The flips come back because cached teacher features are kept per image
    and flip.
    """
    n, _, height, width = x.shape
    flipped = torch.rand(n, generator=rng) < 0.5 if flip else torch.zeros(n, dtype=torch.bool)
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(flipped[:, None], width - 1 - columns, columns)
    rows = torch.arange(height).expand(n, height)
    if padding:
        x = pad(x, (padding,) * 4)
        shift = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=rng)
        rows, columns = rows + shift[0], columns + shift[1]
    # One gather by (image, row, column); advanced indices first, so the channel axis ends up last.
    cut = x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2), flipped
