"""The bar on a terminal: which attack, images left, robust accuracy so far with its interval, time left."""

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

from dra_serve.evaluation.bar import figures
from dra_serve.evaluation.outcomes import Standing
from dra_serve.evaluation.statistics import wilson


def standing(done: int = 0, robust: int = 0, seconds_left: float | None = None) -> Standing:
    return Standing(
        done=done, total=500, robust=robust, attack="apgd-t", share=0.5, seconds_left=seconds_left
    )


def test_figures_are_said_once_they_are_known() -> None:
    assert figures(standing()) == ""
    low, high = (f"{bound:.1%}" for bound in wilson(47, 128))
    so_far = f"robust 36.7% ({low} to {high})"
    assert figures(standing(128, 47)) == so_far
    assert figures(standing(128, 47, 8.4)) == f"{so_far}, 8 s left"
    assert figures(standing(128, 47, 605)).endswith(", 10 min 05 s left")
    assert figures(standing(128, 47, 7260)).endswith(", 2 h 01 min left")


def test_a_terminal_shows_how_far_it_is(folder, data) -> None:
    command = [sys.executable, "-m", "dra_serve.cli", "evaluate", folder, "--data", data, "--suite", "fast"]
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [*command, "--eps", "0.002", "--batch", "8"],
        stderr=terminal,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(master, 2**16):
            shown += part
    os.close(master)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "apgd-ce: 40 images left" in lines
    assert "apgd-t: 0 images left" in lines
    robust = re.search(r"robust  (\S+)%", out)
    assert robust is not None
    assert f"robust {float(robust[1]):.1f}% (" in lines
    assert re.search(r"\d+ s left", lines)
