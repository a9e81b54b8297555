"""`dra-serve serve`: models over HTTP. The one command that imports the server."""

from dataclasses import replace
from typing import Annotated, Any

import typer


def serve(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Default: bundled:dra bundled:at.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 3000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, default 1; more are without the demo.")
    ] = None,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Serve the API alone.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Attacks at once; default: all cores but one.")
    ] = None,
) -> None:
    """Serve models over HTTP: predictions, attacks, and the demo at /ui.

    What is not given here comes from the environment (DRA_SERVE_MODELS, DRA_SERVE_THREADS, ...).
    """
    from dra_serve.service.server import serve as run
    from dra_serve.service.settings import Settings

    given = {"models": tuple(models or ()), "workers": workers, "threads": threads}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value}
    settings = replace(Settings.from_environ(), **chosen)
    run(replace(settings, ui=False) if no_ui else settings, host=host, port=port)
