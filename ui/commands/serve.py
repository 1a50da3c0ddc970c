"""`pairloop up`, `demo`, `worker`: the processes that stay."""

from __future__ import annotations

import logging
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from dpo_core.carry_out import LOG_FORMAT
from dpo_core.demo import open_demo, start_first_round
from dpo_core.team import require_way_in
from dpo_core.worker import serve as carry_out_runs
from dpo_core.workspace import Workspace, open_workspace
from ui.commands.options import HERE, WorkspaceOption, this_person
from ui.commands.printing import say
from ui.commands.supervise import Child, free_port, sole, supervise

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Where to listen; 0.0.0.0 for every network (people log in: see `pairloop invite`).",
        show_default="pairloop.toml",
    ),
]
PortOption = Annotated[
    int | None, typer.Option("--port", min=0, max=65535, help="0: any free one.", show_default="pairloop.toml, 8501")
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open it in a browser.")]


def up(
    address: AddressOption = None,
    port: PortOption = None,
    open_it: OpenOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Start the app and a worker; Ctrl-C stops both.

    Either is started again if it dies. What they say is in the workspace's logs/ folder. One `pairloop up` for a
    workspace at a time; more workers are welcome (`pairloop worker`).

    \b
    Example:
      pairloop up --port 8600 --open
    """
    _up(open_workspace(workspace), address, port, open_it)


def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where the demo workspace is made, or lies already.", show_default="./pairloop-demo"),
    ] = None,
    address: AddressOption = None,
    port: PortOption = None,
    open_it: OpenOption = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Try pairloop: a small model, its prompts and the app, ready to compare.

    The first time it makes a workspace, brings in the prompts and starts round 1; later it goes on where you left off.

    \b
    Example:
      pairloop demo
      pairloop demo my-demo --port 0 --open
    """
    opened = open_demo(folder or (workspace if workspace != HERE else Path("pairloop-demo")))
    start_first_round(opened, by=this_person())
    _up(opened, address, port, open_it)


def _up(workspace: Workspace, address: str | None, port: int | None, open_it: bool) -> None:
    server = workspace.settings.server
    host = address or server.address
    require_way_in(workspace, host)
    logs = workspace.folder / "logs"
    logs.mkdir(exist_ok=True)
    with sole(logs / "up.lock") as tell:  # before the port: whoever starts it twice is told where it is
        number = free_port(host, server.port if port is None else port)
        url = _url(host, number)
        tell({"url": url, "address": host})
        children = _children(workspace, host, number, logs)
        workspace.engine.dispose()  # they open the database for themselves
        supervise(children, url=url, on_ready=lambda: _welcome(workspace, url, open_it))
    say("Stopped.")


def _children(workspace: Workspace, host: str, port: int, logs: Path) -> list[Child]:
    where = ["--workspace", str(workspace.folder)]
    worker = [sys.executable, "-m", "dpo_core.worker", *where]
    server = [sys.executable, "-m", "ui.serve", *where, "--address", host, "--port", str(port)]
    for name in ("worker", "server"):
        (logs / f"{name}.log").write_text("")
    # The worker first: it takes longest until there is something to see.
    return [Child("worker", worker, logs / "worker.log"), Child("app", server, logs / "server.log")]


def _url(host: str, port: int) -> str:
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{local}:{port}"


def _welcome(workspace: Workspace, url: str, open_it: bool) -> None:
    say(f"pairloop is up: {url}\nWorkspace: {workspace.folder}\nCtrl-C stops it; nothing is lost.")
    if open_it:
        webbrowser.open(url)


def worker(
    once: Annotated[
        bool, typer.Option("--once", help="Stop when the queue is empty; exit code 2 if a run failed.")
    ] = False,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Carry out runs, here or on another machine that shares the workspace.

    `pairloop up` starts one by itself. Start another where there are cores to spare, or with --once after putting runs
    in the queue with --detach. Workers on several machines need a shared folder and one PostgreSQL database
    (\\[store] url); SQLite must not be shared over a network.

    \b
    Example:
      pairloop worker --workspace /shared/helpful
      pairloop sample --detach && pairloop worker --once
    """
    opened = open_workspace(workspace)
    os.environ["PYTHONSAFEPATH"] = "1"  # its runs are processes too, and look for our packages
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING)
    logging.getLogger("pairloop").setLevel(logging.INFO)
    raise typer.Exit(carry_out_runs(opened, once=once))
