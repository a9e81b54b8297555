"""Pre-activation residual networks (He et al. 2016, identity mappings) of any depth and width."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_unshuffle

from dra_serve.errors import BadRequest

Stem = Literal["plain", "space_to_depth"]
Activation = Literal["relu", "silu"]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
STEMS: dict[str, int] = {"plain": 1, "space_to_depth": 2}


class PreActBlock(nn.Module):
    """norm, activation, 3x3, norm, activation, 3x3, added to a shortcut that is 1x1 where shapes change."""

    def __init__(
        self, width_in: int, width: int, *, stride: int, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.norm1, self.act1 = nn.BatchNorm2d(width_in), activation()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm2, self.act2 = nn.BatchNorm2d(width), activation()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changed = stride != 1 or width_in != width
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        a = self.act1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(a)
        return self.conv2(self.act2(self.norm2(self.conv1(a)))) + shortcut


class PreActResNet(nn.Module):
    """Stages of `blocks` residual blocks, widths `width`, 2 `width`, 4 `width`..., halving the resolution.

    (2, 2, 2, 2) with width 64 and a plain stem is PreActResNet-18. The space-to-depth stem folds 2 x 2
    pixels into channels: at equal arithmetic twice the width and four times the parameters.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        classes: int,
        width: int = 32,
        blocks: Sequence[int] = (1, 1, 1),
        stem: Stem = "space_to_depth",
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise BadRequest("stem", given=stem, allowed=", ".join(STEMS))
        if activation not in ACTIVATIONS:
            raise BadRequest("activation", given=activation, allowed=", ".join(ACTIVATIONS))
        if width < 1 or not blocks or min(blocks) < 1:
            raise BadRequest(
                "blocks", given=(width, tuple(blocks)), allowed="width and every stage at least 1"
            )
        self.fold = STEMS[stem]
        act = ACTIVATIONS[activation]
        self.stem = nn.Conv2d(in_channels * self.fold**2, width, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        here = width
        for stage, count in enumerate(blocks):
            for index in range(count):
                stride = 2 if stage and not index else 1
                layers.append(PreActBlock(here, width << stage, stride=stride, activation=act))
                here = width << stage
        self.body = nn.Sequential(*layers)
        self.norm, self.act = nn.BatchNorm2d(here), act()
        self.head = nn.Linear(here, classes)
        self.feature_width = here
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and the pooled features h (N, D) behind them; x (N, C, H, W) normalised."""
        h = self.act(self.norm(self.body(self.embed(x)))).mean((2, 3))
        return self.head(h), h

    def embed(self, x: Tensor) -> Tensor:
        """Return what the stem makes of x.

        Exported, folding and 3x3 convolution are one 6x6 convolution of stride 2, the same sums without
        moving pixels, which ONNX Runtime does faster.
        """
        if self.fold == 1:
            return self.stem(x)
        if not torch.compiler.is_exporting():
            return self.stem(pixel_unshuffle(x, self.fold))
        fold, (width, folded, kernel, _) = self.fold, self.stem.weight.shape
        channels = folded // fold**2
        weight = self.stem.weight.reshape(width, channels, fold, fold, kernel, kernel)
        weight = weight.permute(0, 1, 4, 2, 5, 3).reshape(width, channels, kernel * fold, kernel * fold)
        return conv2d(x, weight, stride=fold, padding=fold)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[0]
