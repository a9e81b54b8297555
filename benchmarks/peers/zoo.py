"""Public image classifiers with random weights: the builders of torchvision and timm."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 10
SIZES = (64, 96, 128, 224, 240, 256)  # of the image, the least that a network takes is used
BATCHES, ROWS = 4, 8  # by which BatchNorm's statistics are set


@dataclass(frozen=True)
class Entry:
    """A network by name. build: (size) -> module, whatever it raises where it does not take that size."""

    name: str
    build: Callable[[int], nn.Module]
    sizes: tuple[int, ...] = SIZES


def libraries() -> dict[str, str]:
    """Return name and version of those of torchvision and timm that are installed."""
    found = {}
    for name in ("torchvision", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def torchvision_entries() -> Iterator[Entry]:
    """Yield every classifier of torchvision.models."""
    from torchvision import models  # type: ignore[import-not-found, unused-ignore]

    def builder(name: str) -> Callable[[int], nn.Module]:
        def build(size: int) -> nn.Module:
            options: dict[str, Any] = {"num_classes": CLASSES}
            if name.startswith("vit"):
                options["image_size"] = size
            elif name.startswith("maxvit"):
                options["input_size"] = (size, size)
            if name in ("googlenet", "inception_v3"):
                options |= {"aux_logits": False, "init_weights": False}
            return models.get_model(name, weights=None, **options)

        return build

    for name in models.list_models(module=models):
        # AlexNet and VGG pool to a fixed 7x7 (6x6), which the old exporter writes for multiples only
        sizes = (224,) if name.startswith(("alexnet", "vgg")) else SIZES
        yield Entry(f"torchvision/{name}", builder(name), sizes)


def timm_entries() -> Iterator[Entry]:
    """Yield every classifier of timm that comes with a name."""
    import timm  # type: ignore[import-not-found, unused-ignore]

    def builder(name: str) -> Callable[[int], nn.Module]:
        def build(size: int) -> nn.Module:
            options: dict[str, Any] = {"pretrained": False, "num_classes": CLASSES}
            try:
                return timm.create_model(name, img_size=size, **options)  # type: ignore[no-any-return, unused-ignore]
            except TypeError:  # takes images of any size, or of its own
                return timm.create_model(name, **options)  # type: ignore[no-any-return, unused-ignore]

        return build

    for name in timm.list_models():
        yield Entry(f"timm/{name}", builder(name))


def built(entry: Entry) -> tuple[nn.Module, int]:
    """Return the network in evaluation mode, weights shaken, and the size of its images."""
    reason: Exception | None = None
    for size in entry.sizes:
        try:
            torch.manual_seed(0)
            network = entry.build(size).eval().requires_grad_(False)
            with torch.no_grad():
                logits = network(torch.rand(2, 3, size, size))
        except Exception as error:  # a size too small: every network has its own words for it
            reason = error
            continue
        if not isinstance(logits, Tensor) or logits.shape != (2, CLASSES):
            raise TypeError(f"no classifier: {type(logits).__name__} {getattr(logits, 'shape', '')}")
        shake(network, size)
        return network, size
    raise RuntimeError(f"takes no image of {entry.sizes}: {reason}")


def shake(network: nn.Module, size: int) -> None:
    """Give weights that are equal at the start (zeros, ones, 1e-6) values that matter, and BatchNorm the
    statistics of random images: at initialisation whole branches are switched off, and would test nothing."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if (
            parameter.is_floating_point()
            and parameter.numel() > 1
            and bool((parameter == parameter.flatten()[0]).all())
        ):
            base = 0.0 if abs(float(parameter.flatten()[0])) < 1e-2 else parameter.flatten()[0]
            parameter.copy_(base + 0.1 * torch.randn(parameter.shape, generator=generator))
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(BATCHES if norms else 0):
            network(torch.rand((ROWS, 3, size, size), generator=generator))
    network.eval()
