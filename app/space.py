"""The demo as a Hugging Face Space: the bundled pair, the page at /ui/ (where / leads), the API beside it.

In the Space's README.md: `sdk: gradio`, `app_file: app/space.py`; in its requirements.txt:
`dra-serve[serve,ui]`. DRA_SERVE_MODELS chooses other models, PORT another port than the one Spaces expect.
"""

import os
import sys

from dra_serve.errors import DraServeError
from dra_serve.service.server import serve
from dra_serve.service.settings import Settings


def main() -> int:
    """Serve until the platform says stop; return the exit code."""
    try:
        serve(
            Settings.from_environ(),
            host="0.0.0.0",  # noqa: S104 - a Space is a container that is asked from outside
            port=int(os.environ.get("PORT", "7860")),
        )
    except DraServeError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
