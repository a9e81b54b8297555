"""A real server in a process of its own, on a free port, with three small models: a pair and a slow one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image

from dra_serve.gradient_graph import differentiate
from dra_serve.model_config import ModelConfig
from dra_serve.model_folder import write_config, write_receipts
from dra_serve.sums import write_sums

CLASSES = ("cat", "dog", "ship", "truck")
START_SECONDS = 60


@dataclass
class Server:
    """A running `dra-serve`; `lines` is what it has written to stderr so far."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)

    def log(self) -> list[dict[str, Any]]:
        """Return its structured lines."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def client(self, timeout: float = 30) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


@contextmanager
def running(command: Sequence[str], **environ: str) -> Iterator[Server]:
    """Yield the server that `command` starts, once it has printed where it listens."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environ}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    server = Server(process)
    reader = threading.Thread(target=_read, args=(process, server.lines), daemon=True)
    reader.start()
    try:
        server.url = _wait_for_url(server)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join(timeout=5)


def serve_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "dra_serve.cli", "serve", *map(str, arguments), "--port", "0", "--no-ui"]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return when the condition holds; fail after that many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Callable[..., onnx.ModelProto]) -> list[Path]:
    """Two model folders that name each other as twin, and have been measured."""
    base = tmp_path_factory.mktemp("pair")
    names = ("tiny-dra", "tiny-at")
    return [
        _folder(base / name, tiny_onnx(len(CLASSES), (3, 8, 8), seed), (3, 8, 8), twin=twin)
        for seed, (name, twin) in enumerate(zip(names, reversed(names), strict=True))
    ]


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory, slow_onnx: Callable[..., onnx.ModelProto]) -> Path:
    """A model folder whose attacks take long."""
    shape = (3, 64, 64)
    forward = slow_onnx(shape, classes=len(CLASSES), width=48)
    return _folder(tmp_path_factory.mktemp("slow") / "slow", forward, shape)


@pytest.fixture(scope="session")
def server(pair: list[Path], slow: Path) -> Iterator[Server]:
    """One attack at once, one more in the queue, 2 s an attack; the log must stay free of surprises."""
    limits = {"DRA_SERVE_QUEUE": "1", "DRA_SERVE_ATTACK_SECONDS": "2"}
    with running(serve_command(*pair, slow, "--threads", "1"), **limits) as server:
        yield server
        assert server.stop() == 0
    assert [entry for entry in server.log() if entry["event"] != "request" or "trace" in entry] == []


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def png(height: int = 8, width: int = 8, seed: int = 0) -> bytes:
    """Return a PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line.rstrip("\n"))


def _wait_for_url(server: Server) -> str:
    def url() -> str | None:
        found = re.search(r"API\s+(http://\S+)/v1", "\n".join(server.lines))
        assert server.process.poll() is None or found, f"it ended: {server.lines}"
        return found and found[1]

    wait_until(lambda: url() is not None, START_SECONDS)
    return url() or ""


def _folder(
    folder: Path, forward: onnx.ModelProto, input_shape: tuple[int, int, int], twin: str | None = None
) -> Path:
    folder.mkdir()
    onnx.save(forward, folder / "model.onnx")
    onnx.save(differentiate(forward), folder / "model.gradient.onnx")
    config = ModelConfig.model_validate(
        {
            "name": folder.name,
            "classes": CLASSES,
            "input_shape": input_shape,
            "normalisation": {"mean": [0.5] * 3, "std": [0.25] * 3},
            "network": {"name": "small", "arguments": {}},
            "data": {"name": "noise", "sha256": "0" * 64, "images": 1},
            "threat": {"norm": "linf", "eps": "8/255"},
            "twin": twin,
        }
    )
    receipt = {
        "suite": None,
        "attacks": [{"name": "pgd", "arguments": {"steps": 20, "restarts": 5, "eps": "8/255"}}],
        "norm": "linf",
        "eps": "8/255",
        "n": 1000,
        "clean_accuracy": 0.75,
        "robust_accuracy": 0.5,
        "robust_accuracy_8bit": 0.51,
        "wilson_95": [0.469, 0.531],
    }
    write_config(folder, config)
    write_receipts(folder, [receipt])
    write_sums(folder)
    return folder
