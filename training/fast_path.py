"""The quickest precision and memory layout for a step on this machine, by a short measurement."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn


@dataclass(frozen=True)
class FastPath:
    """How the forward and backward passes run. Weights stay float32 in either precision."""

    bf16: bool = False
    channels_last: bool = False

    def place(self, network: nn.Module) -> None:
        """Bring the network's weights into this memory layout."""
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=self.memory_format)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Return a context manager in which convolutions and matrix products take bfloat16 if `bf16`."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)

    def __str__(self) -> str:
        return f"{'bf16' if self.bf16 else 'fp32'} {'channels_last' if self.channels_last else 'nchw'}"


def measure(step: Callable[[FastPath], None], *, rounds: int = 4) -> tuple[FastPath, dict[str, float]]:
    """Return the path whose step takes the least CPU time, and the seconds a step of each.

    `step` runs one whole step without an optimiser update. Paths alternate, so that a busy neighbour
    slows all of them alike.
    """
    paths = [FastPath(bf16, last) for bf16 in (False, True) for last in (False, True)]
    seconds: dict[FastPath, list[float]] = {path: [] for path in paths}
    for turn in range(rounds + 1):
        for path in paths:
            start = time.process_time()
            step(path)
            if turn:  # the first turn warms up
                seconds[path].append(time.process_time() - start)
    middle = {path: median(times) for path, times in seconds.items()}
    best = min(middle, key=middle.__getitem__)
    return best, {str(path): round(t, 4) for path, t in middle.items()}
