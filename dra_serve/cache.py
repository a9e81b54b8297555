"""Where this package keeps what it can make again: gradient graphs, pulled models, decoded images."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `DRA_SERVE_CACHE`, else `dra-serve` in the user's cache folder. It need not exist yet."""
    if chosen := os.environ.get("DRA_SERVE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dra-serve"
