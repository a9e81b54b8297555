"""Networks by the name that config.json carries."""

from typing import Any

from dra_serve.errors import BadRequest
from training.networks.preact_resnet import PreActResNet

NETWORKS = {"preact_resnet": PreActResNet}


def build_network(name: str, *, in_channels: int, classes: int, **arguments: Any) -> PreActResNet:
    """Return a freshly initialised network. Raises BadRequest for an unknown name or argument."""
    if name not in NETWORKS:
        raise BadRequest("network", given=name, allowed=", ".join(NETWORKS))
    try:
        return NETWORKS[name](in_channels=in_channels, classes=classes, **arguments)
    except TypeError as error:
        raise BadRequest("network", given=arguments, allowed=f"arguments of {name} ({error})") from error
