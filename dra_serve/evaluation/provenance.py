"""Where a figure came from: versions, commit, hardware."""

import hashlib
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dra_serve.evaluation.threads import cores

_PACKAGE = Path(__file__).parents[1]
_ROOT = _PACKAGE.parent
_DECIDES_NOTHING = ("service", "cli.py", "client.py")
_ENGINES = ("onnxruntime", "torch")


@cache
def code() -> str:
    """Return what decides an outcome beside model, images and attacks, in words: our sources, the engines.

    The sources' hash, rather than version or commit, sees edits nobody has committed, and not those to
    the service or the documents. Engines as installed: which of them are loaded may change by chance.
    """
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        where = file.relative_to(_PACKAGE)
        if where.parts[0] not in _DECIDES_NOTHING:
            digest.update(f"{where.as_posix()}\0".encode() + file.read_bytes())
    parts = [f"dra-serve {version('dra-serve')} (sources {digest.hexdigest()[:12]})"]
    for name in ("numpy", *_ENGINES):
        with suppress(PackageNotFoundError):
            parts.append(f"{name} {version(name)}")
    return ", ".join(parts)


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
    return f"{_cpu()}, {platform.machine()}, {cores()} cores"


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
