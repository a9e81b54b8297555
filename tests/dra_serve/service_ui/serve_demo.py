"""Serve models with a folder of examples: `serve_demo.py EXAMPLES MODEL...`; prints its port, then serves."""

import socket
import sys
from pathlib import Path

import uvicorn

from dra_serve.service import ui
from dra_serve.service.api import create_app
from dra_serve.service.registry import Registry
from dra_serve.service.settings import Settings

examples, *models = sys.argv[1:]
registry = Registry.load(models)
app = create_app(registry, Settings(models=tuple(models), ui=False, threads=1))
app = ui.mount(app, app.state.service, examples=Path(examples), attack_seconds=150)  # pauses grow with it
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
