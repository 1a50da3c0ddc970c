"""The web server: `python -m ui.serve --workspace DIR --address A --port P`.

Prints one line when the app can be opened, and nothing else. SIGTERM and Ctrl-C end it in good order (exit 0).
Exit 2, with the reason in words, where the workspace or the port cannot be used. Never imports torch.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from streamlit.runtime.pages_manager import PagesManager
from streamlit.web import bootstrap

import ui.charts
import ui.components  # noqa: F401  imported now, with all they bring, so that the first visitor need not wait
from dpo_core.errors import CoreError
from dpo_core.team import SECRETS, require_way_in
from dpo_core.workspace import Workspace, open_workspace
from store.errors import StoreError
from ui import attention
from ui.login_pages import login_routes
from ui.state import WORKSPACE_VARIABLE
from ui.theme import STREAMLIT_OPTIONS
from ui.visitors import ADDRESS_VARIABLE

APP = Path(__file__).with_name("app.py")


class _Server(uvicorn.Server):
    """uvicorn that says when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def serve(*, workspace: Path, address: str, port: int) -> int:
    """Serve the app until a signal ends it. Returns the exit status."""
    try:
        opened = open_workspace(workspace)
        require_way_in(opened, address)
        listener = _listen(address, port)
    except (StoreError, CoreError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    os.environ |= {WORKSPACE_VARIABLE: str(opened.folder), ADDRESS_VARIABLE: address}
    url = _url(address, listener.getsockname()[1])
    server = _Server(_configuration(opened, address, listener), lambda: _announce(url))
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops in good order, then raises the signal again: by then there is nothing left to interrupt.
        signal.signal(number, lambda *_: None)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # each page drawn makes some thousand objects, and hardly any of them a cycle
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise CoreError(
            f"The app cannot listen on {address}, port {port}: {error.strerror or error}. "
            "Is pairloop running already? Another port can be given with --port, or --port 0 for any free one."
        ) from error
    return listener


def _configuration(workspace: Workspace, address: str, listener: socket.socket) -> uvicorn.Config:
    where = {"server.address": address, "server.port": listener.getsockname()[1]}
    bootstrap.load_config_options(STREAMLIT_OPTIONS | where | {"secrets.files": [str(workspace.folder / SECRETS)]})
    # Otherwise the first visitor to an address such as /loop gets pages/loop.py alone, without app.py around it.
    PagesManager.uses_pages_directory = False
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Config(
        st.App(APP, routes=[Route("/healthz", _healthz), attention.route, *login_routes(workspace)]),
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=2,
        ws="websockets-sansio",
        ws_max_size=200 * 1024 * 1024,
    )


async def _healthz(_request: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


def _url(address: str, port: int) -> str:
    host = {"0.0.0.0": "localhost", "::": "localhost"}.get(address, address)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _announce(url: str) -> None:
    sys.stdout.write(f"pairloop is ready: {url}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m ui.serve", description="Serve the pairloop app.")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8501)
    options: Any = parser.parse_args(arguments)
    return serve(workspace=options.workspace, address=options.address, port=options.port)


if __name__ == "__main__":
    sys.exit(main())
