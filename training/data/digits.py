"""scikit-learn's digits: 1,797 grey 8x8 images that come with the library, so nothing is downloaded."""

import torch
from sklearn.datasets import load_digits as load_sklearn_digits

from training.data.image_data import ImageData

TEST_IMAGES = 397


def load_digits(source: str | None = None) -> ImageData:
    """Return digits as RGB-free uint8 (N, 1, 8, 8): 1,400 training and 397 test images.

    The split is a fixed permutation, because the file is ordered by writer. `source` is not used.
    """
    bunch = load_sklearn_digits()
    x = torch.from_numpy(bunch.images / 16 * 255).round().to(torch.uint8).unsqueeze(1)
    y = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return ImageData("digits", tuple("0123456789"), x[train], y[train], x[test], y[test])
