"""What a browser session knows: the workspace and who is comparing; and errors put in words.

Nothing that matters is kept here: a verdict goes to the database in the callback that receives it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import streamlit as st

from dpo_core.config import FILE_NAME
from dpo_core.errors import CoreError, LoginNeededError, SettingsError, WorkspaceError
from dpo_core.loop import LoopState, read_loop
from dpo_core.workspace import Workspace, open_workspace
from store.annotators import get_or_add_annotator
from store.database import reading, writing
from store.errors import NotAllowedError, StoreError
from store.models import Worker
from store.workers import live_workers
from ui.model_text import message_markdown
from ui.visitors import Visitor, visitor_of

WORKSPACE_VARIABLE = "PAIRLOOP_WORKSPACE"
DEFAULT_NAME = "me"
NAME_PARAMETER = "as"
HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class _Served:
    """The workspace with the last settings that could be used, by what their file was told, and what ails it since."""

    workspace: Workspace
    stamp: tuple[int, ...]
    trouble: str = ""


_served: dict[str, _Served] = {}
_one_reader = threading.Lock()


def _served_in(folder: str) -> _Served:
    # Asked several times for each page drawn, by every session: one engine for all of them, and the file is read only
    # where it has changed.
    stamp = _stamp(Path(folder) / FILE_NAME)
    with _one_reader:
        found = _served.get(folder)
        if found is None:
            found = _Served(open_workspace(Path(folder)), stamp)
            assert found.workspace.engine is not None  # opens the database now, so that what ails it is said here
        elif found.stamp != stamp:
            found = _read_anew(found, stamp)
        _served[folder] = found
    return found


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells a file that was changed from the one before; `()` while there is none."""
    try:
        seen = path.stat()
    except OSError:
        return ()
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


def _read_anew(served: _Served, stamp: tuple[int, ...]) -> _Served:
    try:
        return _Served(served.workspace.read_anew(), stamp)
    except SettingsError as error:  # somebody may be in the middle of writing it
        return _Served(served.workspace, stamp, f"{error}\n\nUntil then the settings from before hold.")


def served_workspace() -> Workspace:
    """The workspace this app serves, as its owner has it, with the settings that its file has by now.

    Raises WorkspaceError, and SettingsError and DatabaseError where it could never be opened.
    """
    return _served_now().workspace


def show_settings_trouble() -> None:
    """Say why what pairloop.toml says by now does not hold, where it does not."""
    trouble = _served_now().trouble
    if trouble:
        st.warning(message_markdown(trouble), icon=":material/warning:")


def _served_now() -> _Served:
    folder = os.environ.get(WORKSPACE_VARIABLE, "")
    if not folder:
        raise WorkspaceError(
            "This app was started without a workspace. Start it with `pairloop up` in one, or with `pairloop demo`."
        )
    return _served_in(folder)


_loops_seen: dict[Path, tuple[float, LoopState, list[Worker]]] = {}


def loop_seen(workspace: Workspace, *, within: float) -> tuple[LoopState, list[Worker]]:
    """Where the loop stands, and the workers: as of so many seconds ago at most.

    A whole team that waits asks the database once, not everybody on their own.
    """
    found = _loops_seen.get(workspace.folder)
    if found is None or time.monotonic() - found[0] > within:
        with reading(workspace.engine) as session:
            found = time.monotonic(), read_loop(session=session), live_workers(session=session)
        _loops_seen[workspace.folder] = found
    return found[1], found[2]


def current_workspace() -> Workspace:
    """The workspace in the visitor's hands: the store refuses what they may not do. Raises LoginNeededError as well."""
    workspace, number = served_workspace(), visitor().annotator_id
    return workspace if number is None else workspace.acting_as(number)


def research_workspace() -> Workspace:
    """The workspace, for a page that is for researchers alone: for anybody else the page ends here, with why.

    Asked again by what is drawn anew by itself: a login may end meanwhile.
    """
    try:
        visitor(anew=True)
        workspace = current_workspace()
        if not visitor().researcher:
            raise NotAllowedError("This page is for researchers. What there is to compare is on the Label page.")
    except (LoginNeededError, NotAllowedError) as error:
        st.error(str(error), icon=":material/lock:")
        st.stop()
    return workspace


def visitor(*, anew: bool = False) -> Visitor:
    """Who is here, as of when the page was drawn or a press arrived (`anew`). Raises LoginNeededError."""
    if anew or "visitor" not in st.session_state:
        st.session_state.pop("visitor", None)
        st.session_state["visitor"] = visitor_of(served_workspace())
    return cast(Visitor, st.session_state["visitor"])


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Show what the store or the core says is wrong, instead of a traceback."""
    try:
        yield
    except (StoreError, CoreError) as error:
        st.error(message_markdown(str(error)), icon=":material/error:")


def veiled(pair_id: int) -> str:
    """A name for a pair within this session: its number would tell gold pairs and repeats from the rest."""
    secret = st.session_state.setdefault("veil", secrets.token_bytes(16))
    return hashlib.blake2b(str(pair_id).encode(), key=secret, digest_size=6).hexdigest()


def act(function: Callable[..., Any], *args: Any, said: str = "", **kwargs: Any) -> None:
    """Call a store or loop function from a widget's callback; what goes wrong is said on the next page drawn.

    A workspace among `args` is taken as it is by now: the page may be older than its settings.
    """
    try:
        visitor(anew=True)  # a login may have ended since the page was drawn
        st.session_state["visitor_asked"] = True  # the page that is drawn next need not ask once more
        function(*(current_workspace() if isinstance(each, Workspace) else each for each in args), **kwargs)
    except (StoreError, CoreError) as error:
        st.session_state["problem"] = str(error)
    else:
        st.session_state["notice"] = said or st.session_state.get("notice", "")


def show_messages() -> None:
    """What the last action led to, once."""
    problem = st.session_state.pop("problem", "")
    if problem:
        st.error(message_markdown(problem), icon=":material/error:")
    notice = st.session_state.pop("notice", "")
    if notice:
        st.toast(message_markdown(notice))


def my_name() -> str:
    """Who is comparing: whoever is logged in. Where nobody needs to, the name in the address, kept there through every
    page and reload; empty: not said yet."""
    if visitor().annotator_id is not None:
        return visitor().name
    if "name" not in st.session_state:
        st.session_state["name"] = st.query_params.get(NAME_PARAMETER, "").strip() or _name_of_newcomer()
    name = str(st.session_state["name"])
    if name not in ("", DEFAULT_NAME) and st.query_params.get(NAME_PARAMETER) != name:
        st.query_params[NAME_PARAMETER] = name
    return name


def _name_of_newcomer() -> str:
    # Somebody at this very machine starts at once. Visitors from others say who they are: two people who both
    # go by the same name would be taken for one, and be shown the same pairs.
    host = urlsplit(f"//{st.context.headers.get('Host', 'localhost')}").hostname
    return DEFAULT_NAME if host in HERE else ""


def change_name(widget: str) -> None:
    """Go by the name typed into this widget."""
    name = " ".join(str(st.session_state[widget]).split())
    if name and visitor().annotator_id is None:
        st.session_state["name"] = name
        for known in ("annotator", "looked_at", "skipping", "recalled", "practised"):  # another person's
            st.session_state.pop(known, None)
        st.query_params.pop(NAME_PARAMETER, None)


def my_annotator_id(workspace: Workspace) -> int:
    """The row of whoever is comparing. Raises StoreError on a name that is none."""
    logged_in = visitor().annotator_id
    if logged_in is not None:
        return logged_in
    name = my_name()
    known = st.session_state.get("annotator")
    if known is not None and known[0] == (name, str(workspace.folder)):
        return int(known[1])
    with writing(workspace.engine) as session:
        annotator = get_or_add_annotator(session=session, name=name)
    assert annotator.id is not None
    st.session_state["annotator"] = ((name, str(workspace.folder)), annotator.id)
    return annotator.id


def log_tail(folder: Path, lines: int = 80) -> str:
    """The end of a run's log; empty where it has none yet."""
    path = folder / "log.txt"
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 65_536))
        return "\n".join(stream.read().decode("utf-8", "replace").splitlines()[-lines:])
