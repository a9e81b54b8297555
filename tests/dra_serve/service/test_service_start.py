"""Starting: a taken port, what it costs, workers, and BentoML's own command."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from .conftest import Server, png, running, serve_command, wait_until

ROOT = Path(__file__).parents[3]


def test_a_taken_port_is_said_at_once(pair: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        command = [sys.executable, "-m", "dra_serve.cli", "serve", str(pair[0]), "--port", port]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"dra-serve: port: {port} on 127.0.0.1 is in use; choose another with --port, or 0 for a free one"
    ]


def test_a_broken_model_is_one_sentence(pair: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in pair[0].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.onnx").write_bytes(b"altered")
    result = subprocess.run(serve_command(broken), capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "model.onnx" in result.stderr


def test_the_first_prediction_costs_little_processor_time(pair: list[Path]) -> None:
    with running(serve_command(*pair)) as server, server.client() as http:
        assert http.post("/v1/predict", files={"image": ("a.png", png(), "image/png")}).status_code == 200
        times = psutil.Process(server.process.pid).cpu_times()
        assert times.user + times.system < 15


def test_workers_answer_together(pair: list[Path], tmp_path: Path) -> None:
    with running(
        serve_command(*pair, "--workers", "2"), BENTOML_HOME=str(tmp_path / "bentoml"), TMPDIR=str(tmp_path)
    ) as server:
        _predict(server)
        with server.client() as http:
            assert http.get("/ui/").status_code == 404
            # /metrics adds up every worker, whichever answers.
            wait_until(lambda: 'route="/v1/predict",status="200"} 1.0' in http.get("/metrics").text)
        assert server.stop() == 0
        # The three lines of the greeting and log events, in whatever order the processes write them.
        assert len([line for line in server.lines if not line.startswith("{")]) == 3


def test_bentoml_serves_it_too(pair: list[Path], tmp_path: Path) -> None:
    port = _free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "app.service:Service", "--host", "127.0.0.1"]
    environ = {
        "DRA_SERVE_MODELS": " ".join(map(str, pair)),
        "DRA_SERVE_UI": "0",
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Server(process, f"http://127.0.0.1:{port}")
    try:
        wait_until(lambda: _ready(server), 60)
        _predict(server)
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("module", ["dra_serve.service.answers", "dra_serve.client"])
def test_answers_and_client_need_no_server(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{n.split('.')[0] for n in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(loaded.stdout.split()) & {"fastapi", "bentoml", "gradio", "torch", "onnx", "onnxruntime"}


def _predict(server: Server) -> None:
    with server.client() as http:
        answer = http.post("/v1/predict", files={"image": ("a.png", png(), "image/png")})
    assert answer.status_code == 200
    assert answer.json()["model"] == "tiny-dra"


def _ready(server: Server) -> bool:
    try:
        with server.client(timeout=5) as http:
            return http.get("/readyz").json() == {"status": "ready"}
    except (httpx.TransportError, ValueError):
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
