"""The two views of a batch that an objective may ask for, each computed once and only if asked."""

from functools import cached_property

from torch import Tensor

from training.fast_path import FastPath
from training.networks import HubClassifier


class Views:
    """Logits (N, K) and features h (N, D) of the clean images x and of their adversarial versions x_adv."""

    def __init__(self, network: HubClassifier, x: Tensor, x_adv: Tensor, path: FastPath) -> None:
        self._network, self._x, self._x_adv, self._path = network, x, x_adv, path

    @cached_property
    def clean(self) -> tuple[Tensor, Tensor]:
        return self._forward(self._x)

    @cached_property
    def adv(self) -> tuple[Tensor, Tensor]:
        return self._forward(self._x_adv)

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with self._path.autocast():
            logits, h = self._network.features(x)
        return logits.float(), h.float()
