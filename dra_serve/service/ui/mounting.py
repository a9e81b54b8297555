"""Where the page stands: its path in the application, its style and icon, its folder for uploads."""

import atexit
import os
import shutil
import tempfile
from importlib.resources import files

import gradio as gr
from fastapi import FastAPI, Response

from dra_serve.images import MAX_BYTES

_HEAD = '<meta name="color-scheme" content="light dark">'


def mount_page(app: FastAPI, page: gr.Blocks, *, path: str) -> FastAPI:
    """Return app with the page at `path`, and an icon where browsers look for one."""

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(_read("icon.svg"), media_type="image/svg+xml")

    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path=path,
        show_error=False,
        footer_links=[],
        max_file_size=MAX_BYTES,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        # Not `css=`: Gradio would put a prefix before each selector, and `.dark` would match nothing.
        head=f"{_HEAD}<style>{_read('style.css')}</style>",
    )
    return mounted


def use_own_temporary_folder() -> None:
    """Give Gradio's cache a folder that ends with this process, unless the operator chose one."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="dra-serve-ui-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
