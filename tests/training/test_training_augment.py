"""Crops and flips: every image a shifted, perhaps mirrored window of its zero-padded self."""

import pytest
import torch
from torch.nn.functional import pad

from training.data.augment import crop_and_flip


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    """Images whose pixels are all different from one another and from the border."""
    return torch.arange(1, 40 * 3 * 8 * 6 + 1).view(40, 3, 8, 6)


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_each_image_is_a_window_of_itself(x, padding, flip):
    out, flipped = crop_and_flip(x, padding=padding, flip=flip, rng=rng())
    shifts = set()
    for image, was, mirrored in zip(out, pad(x, (padding,) * 4), flipped, strict=True):
        target = image.flip(2) if mirrored else image
        windows = {
            (r, c): was[:, r : r + 8, c : c + 6]
            for r in range(2 * padding + 1)
            for c in range(2 * padding + 1)
        }
        found = [shift for shift, window in windows.items() if torch.equal(window, target)]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > padding * 4 or padding == 0
    assert flipped.any() == flip


def test_flip_alone_is_an_exact_mirror(x):
    out, flipped = crop_and_flip(x, padding=0, flip=True, rng=rng())
    assert torch.equal(out[flipped], x[flipped].flip(3))
    assert torch.equal(out[~flipped], x[~flipped])
    assert 5 < flipped.sum() < 35


def test_same_generator_same_answer_and_x_untouched(x):
    before = x.clone()
    first, again, other = (crop_and_flip(x, padding=2, flip=True, rng=rng(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, before)


def test_bytes_stay_bytes_and_no_images_are_fine():
    out, flipped = crop_and_flip(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), padding=1, flip=True, rng=rng())
    assert out.shape == (0, 3, 8, 8)
    assert out.dtype == torch.uint8
    assert flipped.shape == (0,)
