"""Data sets as uint8 tensors, by name: `digits` needs no download, `cifar10` a Parquet folder or the Hub."""

from collections.abc import Callable

from dra_serve.errors import BadRequest
from training.data.cifar10 import load_cifar10
from training.data.digits import load_digits
from training.data.image_data import ImageData

DATA: dict[str, Callable[[str | None], ImageData]] = {"digits": load_digits, "cifar10": load_cifar10}


def load_data(name: str, source: str | None = None) -> ImageData:
    """Return the data set `name`. source: a local folder or a Hub id; None takes the data set's default.

    Raises BadRequest for an unknown name and DataMissing where the data is not there.
    """
    if name not in DATA:
        raise BadRequest("data", given=name, allowed=", ".join(sorted(DATA)))
    return DATA[name](source)


__all__ = ["DATA", "ImageData", "load_data"]
