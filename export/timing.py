"""ONNX Runtime against torch, alternating in one run, one thread each."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dra_serve.onnx_classifier import OnnxClassifier
from export.parity import images

BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Timing:
    """One thing done by both. ratio: torch's time over ours, above 1 is ours faster; median and quartiles."""

    what: str
    n: int
    milliseconds: float
    ratio: float
    low: float
    high: float


def time_both(network: nn.Module, model: OnnxClassifier, *, rounds: int = 15) -> list[Timing]:
    """Return times of `logits` and of the gradient of ce at n = 1, 8 and 32.

    torch is given its best: weights frozen, nothing but the gradient at x computed, and the faster of
    its two memory layouts.
    """
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    layouts = [network, copy.deepcopy(network).to(memory_format=torch.channels_last)]  # type: ignore[call-overload]
    timings = []
    with _one_torch_thread():
        for n in BATCHES:
            x = images(n, model.input_shape)
            y = np.zeros(n, np.int64)
            forward = [_torch_logits(layout, x) for layout in layouts]
            timings.append(_against("logits", n, partial(model.logits, x), forward, rounds))
            gradient = [_torch_gradient(layout, x, y) for layout in layouts]
            timings.append(_against("gradient", n, partial(model.loss_and_grad, x, y), gradient, rounds))
    return timings


def _torch_logits(network: nn.Module, x: np.ndarray) -> Callable[[], object]:
    inputs = torch.from_numpy(x)

    def run() -> object:
        with torch.inference_mode():
            return network(inputs)

    return run


def _torch_gradient(network: nn.Module, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    inputs, labels = torch.from_numpy(x).requires_grad_(True), torch.from_numpy(y)
    return lambda: torch.autograd.grad(cross_entropy(network(inputs), labels, reduction="sum"), inputs)


def _against(
    what: str, n: int, ours: Callable[[], object], theirs: list[Callable[[], object]], rounds: int
) -> Timing:
    """Warm all up, then time one after the other, round by round."""
    sides = [ours, *theirs]
    for side in sides:
        side()
    seconds = np.array([[_seconds(side) for side in sides] for _ in range(rounds)])
    fastest = 1 + int(np.median(seconds[:, 1:], axis=0).argmin())
    low, ratio, high = np.quantile(seconds[:, fastest] / seconds[:, 0], (0.25, 0.5, 0.75))
    return Timing(what, n, 1e3 * float(np.median(seconds[:, 0])), float(ratio), float(low), float(high))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
