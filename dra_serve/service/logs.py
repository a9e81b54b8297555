"""One JSON object a line on stderr, one line a request."""

import json
import sys
from datetime import UTC, datetime
from typing import Any


def log(event: str, **fields: Any) -> None:
    """Write one line: the time (UTC), the event and its fields. Never the content of an image."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "event": event, **fields}, default=str)
    sys.stderr.write(line + "\n")  # one write, so that lines of several threads do not mix
    sys.stderr.flush()
