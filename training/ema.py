"""Exponential moving average of a network's weights and buffers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(network: nn.Module, *, decay: float) -> AveragedModel:
    """Return the average of `network`, updated by `.update_parameters(network)` after every step.

    The decay warms up as min(decay, (1 + n) / (10 + n)), so that a short run is not dominated by the
    first weights; batch-norm statistics are averaged too, counters copied.
    """

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], n: Tensor | int) -> None:
        count = int(n)
        weight = 1 - min(decay, (1 + count) / (10 + count))
        if average[0].is_floating_point():
            torch._foreach_lerp_(list(average), list(current), weight)
        else:
            torch._foreach_copy_(list(average), list(current))

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)
