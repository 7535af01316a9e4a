"""The server of the page: its socket, what it refuses, and its end."""

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from ita.errors import UserError
from ita.predictor import Predictor
from ita.web.examples import draw_examples
from ita.web.guard import Guard
from ita.web.limits import Limits
from ita.web.page import STATIC, SYSTEM_FONTS, SYSTEM_MONO_FONTS, build_page

# Variable by which Gradio finds its folder of uploads and other files that it serves.
FOLDER_VARIABLE = "GRADIO_TEMP_DIR"
# Seconds that open connections get at the end.
PATIENCE = 1


def serve(
    model: Predictor,
    limits: Limits,
    host: str,
    port: int,
    announce: Callable[[str], None],
    note: str = "",
) -> None:
    """Serve the page until the process is interrupted.

    Uploads and results are in a temporary folder, which is removed at the end.

    Args:
        model: the model.
        limits: limits of images and classes.
        host: address or name to listen on.
        port: port; 0 selects a free one.
        announce: is called with the page's address when it can be opened.
        note: a sentence below the page's title.

    Raises:
        UserError: the host or the port cannot be used.
    """
    with _listen(host, port) as listener, tempfile.TemporaryDirectory(prefix="ita_web_") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        app = build_app(model, limits, Path(folder), note)
        server = _Server(app, lambda: announce(_address(listener)))
        server.run(sockets=[listener])


def build_app(model: Predictor, limits: Limits, folder: Path, note: str = "") -> FastAPI:
    """Build the application, which serves the page at "/".

    Args:
        model: the model.
        limits: limits of images and classes.
        folder: Gradio's folder of files.
        note: a sentence below the page's title.
    """
    page = build_page(model, limits, draw_examples(folder), folder, note)
    # Gradio takes files only from its own folder once this is set, which only its launch() does.
    page.has_launched = True
    theme = gr.themes.Default(font=SYSTEM_FONTS, font_mono=SYSTEM_MONO_FONTS)
    theme.set(block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300")
    app = FastAPI(openapi_url=None)
    app.add_middleware(Guard)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=limits.upload_bytes,
        theme=theme,
        css_paths=STATIC / "page.css",
    )


class _Server(uvicorn.Server):
    """A server that announces when it answers."""

    def __init__(self, app: FastAPI, announce: Callable[[], None]) -> None:
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=PATIENCE)
        super().__init__(config)
        self.announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announce()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(address[0]), port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot serve on {host}, port {port}: {str(reason).rstrip('.')}; choose another --port"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
