"""A Hub of this test's own, and the real client in a process of its own that knows no other.

huggingface_hub reads its address, cache and token from the environment when it is imported: only a fresh
process is a user's.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dra_serve.hub.hub_server import TOKEN, Hub, running_hub

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    """Return run(*words, **environment): a command that sees this Hub alone, a token and empty caches."""
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DRA_SERVE_CACHE": str(tmp_path / "cache"),
    }
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))
    }

    def run(*words: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(word) for word in words],
            env=inherited | own | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def cli(run: Run) -> Run:
    """Return cli(*words, **environment): `dra-serve` as installed."""
    return lambda *words, **environment: run(
        Path(sys.executable).with_name("dra-serve"), *words, **environment
    )
