"""Robust image classifiers, served and attacked live on ONNX Runtime alone.

>>> import dra_serve
>>> model = dra_serve.load("bundled:dra")  # doctest: +SKIP
>>> result = dra_serve.attack(model, x, y, "pgd", eps="8/255")  # doctest: +SKIP

Everything is imported when first used: `import dra_serve` itself takes a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dra_serve.attacks import attack
    from dra_serve.client import Client
    from dra_serve.evaluation import evaluate
    from dra_serve.loading import load

    __version__: str

__all__ = ["Client", "__version__", "attack", "evaluate", "load"]

_HOMES = {
    "Client": "dra_serve.client",
    "attack": "dra_serve.attacks",
    "evaluate": "dra_serve.evaluation",
    "load": "dra_serve.loading",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dra-serve")
    if name not in _HOMES:
        raise AttributeError(f"module 'dra_serve' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
