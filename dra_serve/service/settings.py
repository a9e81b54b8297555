"""What an operator may choose. The command line writes it to the environment, each worker reads it there."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from dra_serve.checks import check_integer
from dra_serve.errors import BadRequest
from dra_serve.service.registry import BUNDLED_PAIR


def default_threads() -> int:
    """Return how many attacks may run at once: every core but the one that answers predictions."""
    return max(1, (os.cpu_count() or 1) - 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One process of the service, complete and checked.

    models: sources as `dra_serve.load` takes them; ui: mount the demo, if gradio is there;
    threads: attacks at once; queue: attacks that may wait, one more is answered 429;
    attack_seconds: budget of one attack, then the best so far; drain_seconds: how long running
    requests may take after SIGTERM.

    In the environment: DRA_SERVE_MODELS (quoted like shell words), DRA_SERVE_UI (1 or 0),
    DRA_SERVE_WORKERS, DRA_SERVE_THREADS, DRA_SERVE_QUEUE, DRA_SERVE_ATTACK_SECONDS,
    DRA_SERVE_DRAIN_SECONDS.
    """

    models: tuple[str, ...] = BUNDLED_PAIR
    ui: bool = True
    workers: int = 1
    threads: int = field(default_factory=default_threads)
    queue: int = 8
    attack_seconds: int = 20
    drain_seconds: int = 30

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            check_integer(getattr(self, name), low, high, field=name)
        if not self.models:
            raise BadRequest("models", given="none", allowed="at least one model")

    @property
    def shows_ui(self) -> bool:
        """Whether the demo is mounted: its queue lives in one process, so never beside more workers."""
        return self.ui and self.workers == 1

    def to_environ(self) -> dict[str, str]:
        """Return the variables from which `from_environ` makes the same settings."""
        numbers = {_variable(name): str(getattr(self, name)) for name, _, _ in _RANGES}
        return {"DRA_SERVE_MODELS": shlex.join(self.models), "DRA_SERVE_UI": str(int(self.ui)), **numbers}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Return the settings the environment asks for; BadRequest naming the variable at fault."""
        default = cls()
        numbers = {
            name: _integer(environ, _variable(name), getattr(default, name), low, high)
            for name, low, high in _RANGES
        }
        models = tuple(shlex.split(environ.get("DRA_SERVE_MODELS", ""))) or default.models
        return cls(models=models, ui=_integer(environ, "DRA_SERVE_UI", 1, 0, 1) == 1, **numbers)


_RANGES = (
    ("workers", 1, 64),
    ("threads", 1, 256),
    ("queue", 0, 10_000),
    ("attack_seconds", 1, 3600),
    ("drain_seconds", 0, 3600),
)


def _variable(name: str) -> str:
    return f"DRA_SERVE_{name.upper()}"


def _integer(environ: Mapping[str, str], variable: str, default: int, low: int, high: int) -> int:
    text = environ.get(variable)
    if text is None:
        return default
    number = int(text) if text.isdecimal() and len(text) < 10 else text
    return check_integer(number, low, high, field=variable)
