"""Where a figure came from: versions, commit, hardware."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_ENGINES = ("onnxruntime", "torch")


def packages() -> dict[str, str]:
    """Return the version of Python, of this package, of NumPy, and of each engine that is loaded."""
    names = ["dra-serve", "numpy", *(engine for engine in _ENGINES if engine in sys.modules)]
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def commit() -> str | None:
    """Return the commit of the checkout this package runs from, a plus behind it if files have changed.

    None for an installed wheel: a repository it happens to lie in is somebody else's.
    """
    git = shutil.which("git")
    if git is None or not (_ROOT / ".git").exists():
        return None
    head = _output(git, "rev-parse", "HEAD")
    changed = _output(git, "status", "--porcelain", "--untracked-files=no")
    return (head + ("+" if changed else "")) or None


def hardware() -> str:
    """Return the processor's name, its architecture and how many cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_cpu()}, {platform.machine()}, {cores} cores"


def _cpu() -> str:
    """Return the name as Linux knows it; `platform` knows only the architecture there."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _output(*words: str) -> str:
    try:
        done = subprocess.run(words, cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
