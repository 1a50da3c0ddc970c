"""Who is visiting: told by the cookie that ui/login_pages.py gives, or by an identity provider through Streamlit."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamlit as st

from dpo_core.errors import LoginNeededError
from dpo_core.team import has_provider, login_needed
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.hashing import text_hash
from store.invites import find_email
from store.logins import end_login, find_login, is_stale, see_login
from store.models import Annotator, Role
from ui.model_text import message_markdown

ADDRESS_VARIABLE = "PAIRLOOP_ADDRESS"  # where the app listens


@dataclass(frozen=True)
class Visitor:
    """Somebody on the other side. `annotator_id` None: whoever sits at this machine, where nobody logs in."""

    annotator_id: int | None
    name: str
    researcher: bool


AT_THIS_MACHINE = Visitor(None, "", researcher=True)


def cookie_name(folder: Path) -> str:
    """The login's cookie. Browsers keep one jar for all ports of a host: each workspace needs a name of its own."""
    return f"pairloop_{text_hash(str(folder))[:8]}"


def login_token(folder: Path) -> str:
    """What the browser's cookie says; empty without one."""
    return str(st.context.cookies.get(cookie_name(folder)) or "")


def visitor_of(workspace: Workspace) -> Visitor:
    """Who is here, asked of the database now. Raises LoginNeededError where that must be known and is not."""
    # Without ui/serve.py it may be listening anywhere.
    address = os.environ.get(ADDRESS_VARIABLE) or st.get_option("server.address") or ""
    if not login_needed(workspace, address):
        return AT_THIS_MACHINE
    found = _by_cookie(workspace) or _by_provider(workspace)
    assert found.id is not None
    return Visitor(found.id, found.name, researcher=found.role == Role.RESEARCHER)


def _by_cookie(workspace: Workspace) -> Annotator | None:
    token = login_token(workspace.folder)
    if not token:
        return None
    with reading(workspace.engine) as session:
        found = find_login(session=session, token=token)
    if found is None:
        return None
    login, annotator = found
    if is_stale(login):
        with writing(workspace.engine) as session:
            assert login.id is not None
            see_login(session=session, login_id=login.id)
    return annotator


def _by_provider(workspace: Workspace) -> Annotator:
    said: dict[str, Any] = dict(st.user) if has_provider(workspace.folder) else {}
    if not said.get("is_logged_in"):
        raise LoginNeededError("Log in first.")
    email = str(said.get("email") or "")
    if not email or str(said.get("email_verified")).lower() != "true":  # some providers send it as a text
        raise LoginNeededError("Your identity provider does not vouch for your e-mail address, so it lets nobody in.")
    issued = said.get("iat")
    moment = datetime.fromtimestamp(issued, UTC) if isinstance(issued, int | float) else None
    with reading(workspace.engine) as session:
        found = find_email(session=session, email=email, issued_at=moment)
    if found is None:
        raise LoginNeededError(f"{email} was not invited, or was logged out. Ask a researcher of your team.")
    return found


def log_out(workspace: Workspace) -> None:
    """End this browser's login; what its cookie says is good for nothing from now on."""
    with writing(workspace.engine) as session:
        end_login(session=session, token=login_token(workspace.folder))
    st.session_state.clear()  # nothing of theirs is left for whoever logs in next at this browser
    if has_provider(workspace.folder) and st.user.get("is_logged_in"):
        st.logout()


def log_in_page(workspace: Workspace, why: str) -> None:
    """All that somebody sees who is not logged in."""
    if not has_provider(workspace.folder):
        st.html(
            '<p><a href="/login">Log in</a></p><script>window.location.replace("/login")</script>',
            unsafe_allow_javascript=True,
        )
        return
    st.title("Log in", anchor=False)
    if st.user.get("is_logged_in"):
        st.error(message_markdown(why), icon=":material/error:")
        st.button("Log in as somebody else", on_click=st.logout)
    else:
        st.button("Log in with your organisation", type="primary", on_click=st.login)
    st.html('<p class="pl-quiet"><a href="/login">With a passcode</a></p>')
