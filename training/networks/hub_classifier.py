"""A network with its normalisation inside, as it is trained, exported and loaded from the Hub."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from training.networks.registry import build_network


class HubClassifier(nn.Module, PyTorchModelHubMixin):
    """logits (N, K) of images x (N, C, H, W) float32 in [0, 1].

    `HubClassifier.from_pretrained("org/name")` builds it from a model folder's config.json, whose other
    keys it does not need. Mean and standard deviation are buffers kept out of the weights file, because
    config.json holds them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        network: Mapping[str, Any],
        normalisation: Mapping[str, Sequence[float]],
        classes: Sequence[str],
        input_shape: Sequence[int],
    ) -> None:
        super().__init__()
        self.network = build_network(
            network["name"], in_channels=input_shape[0], classes=len(classes), **network["arguments"]
        )
        mean, std = (torch.tensor(normalisation[key]).view(-1, 1, 1) for key in ("mean", "std"))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def feature_width(self) -> int:
        """Return D, the width of `features`' h."""
        return self.network.feature_width

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and penultimate features h (N, D)."""
        return self.network.features((x - self.mean) / self.std)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]

    @classmethod
    def _from_pretrained(cls, **arguments: Any) -> "HubClassifier":
        """Load as the mixin does, its remark on stderr: stdout belongs to results."""
        with redirect_stdout(sys.stderr):
            loaded: HubClassifier = super()._from_pretrained(**arguments)
        return loaded
