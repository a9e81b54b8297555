"""What Square tries next: where the window lies, how large it is, and what goes into it."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, device

from dra_serve.attacks.inputs import example_rng
from dra_serve.attacks.norms import clip
from dra_serve.classifier import Array

FIRST_SHARE = 0.8  # of the image's pixels, that the first windows cover: p_init
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_BLOCK = 100  # queries whose numbers are drawn at once: a generator costs 20 us, a draw 0.1
_TINY = 1e-12


def window_share(tried: int) -> float:
    """Return the share of the pixels in a window, after so many windows; the same for any budget.

    >>> [window_share(tried) for tried in (0, 10, 11, 51, 4999)]
    [0.8, 0.8, 0.4, 0.2, 0.00625]
    """
    return FIRST_SHARE * 0.5 ** sum(tried > after for after in _HALVED_AFTER)


class Draws:
    """Uniform numbers in [0, 1) for each of n images: of the seed, its id and the query, never the batch."""

    def __init__(self, seed: int, ids: list[int], width: int) -> None:
        self._seed, self._ids, self._width, self._drawn = seed, ids, width, 0
        self._block = np.empty((len(ids), 0, width), np.float32)

    def next(self) -> np.ndarray:
        """Return the next `width` numbers of each image, float32 (n, width)."""
        block, row = divmod(self._drawn, _BLOCK)
        if row == 0:
            draws = (example_rng(self._seed, i, 1, block) for i in self._ids)
            self._block = np.stack([rng.random((_BLOCK, self._width), dtype=np.float32) for rng in draws])
        self._drawn += 1
        numbers: np.ndarray = self._block[:, row]
        return numbers

    def select(self, kept: np.ndarray) -> None:
        """Go on for these images only, kept (n,) bool."""
        self._ids = [i for i, stays in zip(self._ids, kept, strict=True) if stays]
        self._block = self._block[kept]


class Windows(Protocol):
    """How one norm's search begins and what it tries, on images of one shape in a ball of radius eps."""

    width: int
    """How many numbers one proposal takes."""

    def start(self, x: Array, seed: int, ids: list[int]) -> Array:
        """Return the first iterate of each image of x (n, C, H, W)."""
        ...

    def propose(self, x: Array, best: Array, tried: int, draws: np.ndarray) -> Array:
        """Return best (n, C, H, W) changed in a window of each image; draws (n, width) in [0, 1)."""
        ...


class LinfWindows:
    """Corners of the ball: a window takes +eps or -eps in each channel (Algorithm 2)."""

    def __init__(self, shape: tuple[int, int, int], eps: float) -> None:
        self._shape, self._eps = shape, eps
        self.width = 2 + shape[0]

    def start(self, x: Array, seed: int, ids: list[int]) -> Array:
        channels, _, width = self._shape
        signs = [_signs(example_rng(seed, i, 0).random((channels, 1, width), dtype=np.float32)) for i in ids]
        xp = array_namespace(x)
        stripes = xp.asarray(np.stack(signs), device=device(x))
        return clip(x + self._eps * stripes, 0.0, 1.0)

    def propose(self, x: Array, best: Array, tried: int, draws: np.ndarray) -> Array:
        xp = array_namespace(x)
        _, height, width = self._shape
        side = min(max(round(math.sqrt(window_share(tried) * height * width)), 1), height, width)
        at = _pixels(self._shape, side, draws[:, 0], draws[:, 1])
        signs = xp.asarray(self._eps * _signs(draws[:, 2:, None]), device=device(x))
        new = xp.asarray(best, copy=True)
        at = xp.asarray(at, device=device(x))
        inside = clip(xp.reshape(x, (-1,))[at] + signs, 0.0, 1.0)
        xp.reshape(new, (-1,))[at] = inside
        return new


class L2Windows:
    """Pyramids: one window takes the budget of another, so that the size stays eps (Algorithm 3)."""

    def __init__(self, shape: tuple[int, int, int], eps: float) -> None:
        self._shape, self._eps = shape, eps
        self.width = 5 + shape[0]

    def start(self, x: Array, seed: int, ids: list[int]) -> Array:
        xp = array_namespace(x)
        tiles = [self._tiles(example_rng(seed, i, 0)) for i in ids]
        return self._on_the_sphere(x, xp.asarray(np.stack(tiles), device=device(x)))

    def propose(self, x: Array, best: Array, tried: int, draws: np.ndarray) -> Array:
        xp = array_namespace(x)
        channels, height, width = self._shape
        side = max(round(math.sqrt(window_share(tried) * height * width)), 3)
        side = min(side + (side % 2 == 0), height, width)
        to, source = (
            xp.asarray(_pixels(self._shape, side, draws[:, i], draws[:, i + 1]), device=device(x))
            for i in (0, 2)
        )
        pyramids = _signs(draws[:, 5:, None]) * _pyramids(side)[(draws[:, 4] < 0.5).astype(int)][:, None]
        delta = best - x
        pixels = xp.reshape(delta, (-1,))
        unused = xp.maximum(self._eps**2 - xp.sum(delta * delta, axis=(1, 2, 3)), 0.0)
        old = pixels[to]
        freed = _squares(old)
        pixels[to] = 0.0
        freed = freed + _squares(pixels[source])
        pixels[source] = 0.0
        new = xp.asarray(pyramids, device=device(x)) + old / (_TINY + xp.sqrt(_squares(old)))
        budget = xp.sqrt(unused[:, None, None] / channels + freed)
        pixels[to] = new * (budget / (_TINY + xp.sqrt(_squares(new))))
        return self._on_the_sphere(x, delta)

    def _on_the_sphere(self, x: Array, delta: Array) -> Array:
        xp = array_namespace(x)
        size = xp.sqrt(xp.sum(delta * delta, axis=(1, 2, 3), keepdims=True))
        return clip(x + delta * (self._eps / xp.maximum(size, _TINY)), 0.0, 1.0)

    def _tiles(self, rng: np.random.Generator) -> np.ndarray:
        channels, height, width = self._shape
        side = max(height // 5, 1) if height <= width else max(width // 5, 1)
        down, across = height // side, width // side
        top, left = (height - down * side) // 2, (width - across * side) // 2
        draws = rng.random((down, across, 1 + channels), dtype=np.float32)
        turned = (draws[..., 0] < 0.5).astype(int)
        tiles = _pyramids(side).reshape(2, side, side)[turned]  # (down, across, side, side)
        signed = np.moveaxis(_signs(draws[..., 1:]), -1, 0)[..., None, None] * tiles
        delta = np.zeros(self._shape, np.float32)
        mosaic = np.swapaxes(signed, 2, 3).reshape(channels, down * side, across * side)
        delta[:, top : top + down * side, left : left + across * side] = mosaic
        return delta


WINDOWS: dict[str, Callable[[tuple[int, int, int], float], Windows]] = {"linf": LinfWindows, "l2": L2Windows}


def _pixels(shape: tuple[int, int, int], side: int, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return where the windows lie in a flattened (n, C, H, W): (n, C, side * side).

    down, across (n,) in [0, 1): any place inside the image is as likely as any other, the last row and
    column too, which AutoAttack's code leaves out.
    """
    channels, height, width = shape
    top = (down * (height - side + 1)).astype(np.int64)
    left = (across * (width - side + 1)).astype(np.int64)
    images = np.arange(len(down)) * (channels * height * width)
    corner = images + top * width + left
    pixels: np.ndarray = corner[:, None, None] + _offsets(shape, side)
    return pixels


@lru_cache(maxsize=64)
def _offsets(shape: tuple[int, int, int], side: int) -> np.ndarray:
    channels, height, width = shape
    square = (np.arange(side)[:, None] * width + np.arange(side)).reshape(-1)
    return np.arange(channels)[:, None] * (height * width) + square


@lru_cache(maxsize=64)
def _pyramids(side: int) -> np.ndarray:
    """Return two heaps of opposite sign, of size 1 together, on top and side by side: (2, side * side)."""
    upper = _heap(side // 2, side) if side > 1 else np.empty((0, side))
    eta = np.concatenate([upper, -_heap(side - side // 2, side)])
    eta = (eta / np.linalg.norm(eta)).astype(np.float32)
    return np.stack([eta.reshape(-1), eta.T.reshape(-1)])


def _heap(height: int, width: int) -> np.ndarray:
    """Return a heap of size 1 (height, width): at distance m from its middle, the sum over k > m of 1/k^2."""
    down = np.abs(np.arange(height) - height // 2)[:, None]
    across = np.abs(np.arange(width) - width // 2)
    distance = np.maximum(down, across)
    layers = 1 / np.arange(1, max(height, width) // 2 + 2) ** 2
    beyond = np.cumsum(layers[::-1])[::-1]
    heap = beyond[distance]
    unit: np.ndarray = heap / np.linalg.norm(heap)
    return unit


def _squares(pixels: Array) -> Array:
    """Return the sum of squares over the last axis, kept."""
    return array_namespace(pixels).sum(pixels * pixels, axis=-1, keepdims=True)


def _signs(draws: np.ndarray) -> np.ndarray:
    return np.where(draws < 0.5, np.float32(-1), np.float32(1))
