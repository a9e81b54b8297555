"""The README is true: what it says to type is typed, and what it names is there.

Run as written, on another port than 3000: the requests against a server started by `dra-serve serve`,
the Python lines, the command lines of the package. Training, evaluation, export and push run as written
but for what makes them short (fewer epochs and images, a small teacher) and a Hub of the test's own;
training on CIFAR-10 alone is checked for its options only. `make run` from nothing is CI's (.ci/run).
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from docs.readme import Block, blocks
from tests.dra_serve.hub.hub_server import TOKEN, running_hub
from training.recipes.classifier import RECIPES
from training.recipes.options import override

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
STARTS_WITHIN = 300  # s; about 10 on a quiet machine, 60 were seen on a busy one

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = re.compile(r"`((?:dra_serve|training|export|app|benchmarks|docs|tests)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]*))?\)")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server started as the README says, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    log = tmp_path_factory.mktemp("readme") / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [BIN / "dra-serve", "serve", "--port", str(number)], cwd=ROOT, stdout=out, stderr=out
        )
    try:
        _await_ready(number, server, log)
        yield number
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def _await_ready(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the server ended:\n{log.read_text()}"
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/readyz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"not ready after {STARTS_WITHIN} s:\n{log.read_text()}")


def commands(needs: str, *, port: int = 3000) -> list[str]:
    found = [block for block in blocks(needs) if block.language == "console"]
    return [command for block in found for command in block.commands(port=port)]


def shell(command: str) -> str:
    """Return stdout of a README line; `.venv/bin` is the environment that runs the tests."""
    here = command.replace(".venv/bin/", f"{BIN}/")
    done = subprocess.run(["bash", "-c", here], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("command", commands("served"))
def test_request_is_answered(command: str, port: int) -> None:
    strict = command.replace("localhost:3000", f"localhost:{port}").replace(
        "curl ", "curl --fail-with-body ", 1
    )
    assert shell(strict).startswith("{")


@pytest.mark.parametrize("command", commands("installed"))
def test_command_line_of_the_package_runs(command: str) -> None:
    assert shell(command).strip()


@pytest.mark.parametrize("block", [b for b in blocks("installed") if b.language == "python"])
def test_python_lines_run(block: Block) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "->" in done.stdout


FROM_THE_CHECKOUT = [
    command
    for block in blocks()
    if block.language == "console" and block.needs in (None, "checkout")
    for command in block.commands()
    if command.startswith(".venv/bin/")
]


def test_from_training_to_the_hub_line_by_line(tmp_path: Path) -> None:
    for room in ("training", "export", "dra_serve"):
        (tmp_path / room).symlink_to(ROOT / room)
    write_test_images(tmp_path / "images")
    shorter = {
        "train.py digits-dra": "train.py digits-dra --epochs 6",
        "-n 500": "-n 4",
        "../shared/data/cifar10": "images",
        "check_onnx.py": "check_onnx.py --rounds 1",
    }
    lines = [line for line in FROM_THE_CHECKOUT if "cifar10-tiny" not in line]
    assert len(lines) >= 7
    with running_hub() as hub:
        run = partial(typed, cwd=tmp_path, hub=hub.url)
        run(".venv/bin/python training/train_teacher.py digits-teacher --images 6400")
        for line in lines:
            for words, fewer in shorter.items():
                line = line.replace(words, fewer)
            serve_until_ready(line, cwd=tmp_path, hub=hub.url) if " serve " in line else run(line)
    assert (tmp_path / "runs" / "digits-dra-s0" / "model" / "model.gradient.onnx").is_file()
    assert {"model.onnx", "README.md"} <= hub.repos["org/name"].files("main").keys()


def write_test_images(folder: Path) -> None:
    """Write the bundled examples as CIFAR-10's test set lies on the Hub."""
    classes = json.loads((ROOT / "dra_serve/bundled/dra/config.json").read_text(encoding="utf-8"))["classes"]
    files = sorted((ROOT / "dra_serve/bundled/examples").glob("*.png"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [classes.index(file.stem.rpartition("-")[2]) for file in files]
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"img": images, "label": labels}), folder / "test.parquet")


def environment(cwd: Path, hub: str) -> dict[str, str]:
    own = {"HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "HF_HOME": str(cwd / "hf"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def typed(command: str, *, cwd: Path, hub: str) -> None:
    here = command.replace(".venv/bin/", f"{BIN}/")
    done = subprocess.run(
        ["bash", "-c", here], cwd=cwd, env=environment(cwd, hub), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def serve_until_ready(command: str, *, cwd: Path, hub: str) -> None:
    """Start what the line says, on a free port, and stop it once it says that it serves."""
    words = [*shlex.split(command.replace(".venv/bin/", f"{BIN}/")), "--port", "0", "--no-ui"]
    log = cwd / "serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(words, cwd=cwd, env=environment(cwd, hub), stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + STARTS_WITHIN
        while "dra-serve serves" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


@cache
def help_of(program: str, script: str) -> str:
    told = subprocess.run(
        [BIN / program, script, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.mark.parametrize("command", FROM_THE_CHECKOUT)
def test_command_exists_and_knows_its_options(command: str) -> None:
    program, script, *words = shlex.split(command.removeprefix(".venv/bin/"))
    listed = help_of(program, script)
    options = [word for word in words if word.startswith("-")]
    fields = [option for option in options if option not in listed]
    for field in fields:  # a recipe's fields are options too: parsed as the script parses them
        assert script in ("training/train.py", "training/sweep.py"), f"{script} --help does not list {field}"
        value = words[words.index(field) + 1]
        assert override(RECIPES[words[0]], [field, value]) != RECIPES[words[0]]


def test_make_commands_exist() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:`|\$ )make ([a-z]+)", page.read_text(encoding="utf-8"))
    }
    assert {"run", "test", "check"} <= named
    assert named <= {line.split()[1] for line in listed.splitlines()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_and_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [path for path in OURS.findall(text) if not (ROOT / path).exists()]
    missing += [f"{link}#{anchor}" for link, anchor in LINK.findall(text) if not _leads(page, link, anchor)]
    assert not missing, f"{page.relative_to(ROOT)} names what is not there: {missing}"


def _leads(page: Path, link: str, anchor: str) -> bool:
    target = (page.parent / link).resolve() if link else page
    if not target.exists():
        return False
    if not anchor:
        return True
    titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
