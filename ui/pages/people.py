"""People: who there is, what they may do, and the links that let others in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from dpo_core.team import app_url, invite_link
from dpo_core.workspace import Workspace
from store.access_tables import Invite
from store.annotators import (
    change_role,
    count_by_annotator,
    deactivate_annotator,
    list_annotators,
    log_out_annotator,
    reactivate_annotator,
    retract_annotator,
    tidy,
)
from store.database import reading, writing
from store.hashing import text_hash
from store.invites import PEOPLE, accounts, add_invite, open_invites, revoke_invite
from store.logins import last_seen
from store.models import Annotator, Role
from ui import components as show
from ui.state import act, my_name, research_workspace, show_messages, visitor
from ui.touching import touched_sentence, touched_serving_sentence

HEAD = ("Name", "Role", "Status", "Comparisons", "Last seen (UTC)", "E-mail")


def main() -> None:
    """Everybody; what can be done about one of them; and invites."""
    workspace = research_workspace()
    show.page_head("People")
    show_messages()
    with reading(workspace.engine) as session:
        people, seen, mail = list_annotators(session=session), last_seen(session=session), accounts(session=session)
        said, invites = count_by_annotator(session=session), open_invites(session=session)
    if visitor().annotator_id is None:
        st.info(
            "Nobody logs in so far: the app is for this machine alone. Once somebody has joined, everybody logs in, "
            "you included, so let the first link be your own, as a researcher.",
            icon=":material/key:",
        )
    inviting(workspace, invites)
    if people:
        st.subheader("Who there is", anchor=False)
        columns = len(HEAD) if any(mail.values()) else len(HEAD) - 1  # a phone has no room for what is empty
        show.table(HEAD[:columns], [row(who, said, seen, mail)[:columns] for who in people])
        about_one(workspace, [who for who in people if who.role != Role.SIMULATED])


def row(who: Annotator, said: dict[int, int], seen: dict[int, datetime], mail: dict[int, str]) -> tuple[object, ...]:
    """Somebody as a line of the table."""
    number = who.id or 0
    status = "retracted" if who.retracted_at else "active" if who.active else "inactive"
    here = f"{seen[number]:%Y-%m-%d %H:%M}" if number in seen else "–"
    return who.name, who.role, status, f"{said.get(number, 0):,}", here, mail.get(number) or "–"


def inviting(workspace: Workspace, invites: list[Invite]) -> None:
    """Make a link; those that were not used yet."""
    with st.form("invite"):
        name, role, days = st.columns([3, 2, 2], vertical_alignment="bottom")
        alone = visitor().annotator_id is None  # then the first link is one's own, and keeps what one compared so far
        mine = my_name() if alone and not invites else ""
        name.text_input("Name (or let them choose)", value=mine, key="invited", max_chars=80)
        role.selectbox(
            "Role", PEOPLE, index=PEOPLE.index(Role.RESEARCHER if alone else Role.ANNOTATOR), key="invited_role"
        )
        days.number_input("Days it holds", 1, 90, 7, key="invited_days")
        st.form_submit_button("Make a link", type="primary", on_click=act, args=(make_link, workspace, my_name()))
    link = st.session_state.get("link", "")
    if text_hash(link.partition("#")[2]) in [invite.token_hash for invite in invites]:
        st.code(link, language=None)
        st.caption("Send it to that one person. It is shown only here and now; what is kept cannot be turned into it.")
    for invite in invites:
        open_invite(workspace, invite)


def open_invite(workspace: Workspace, invite: Invite) -> None:
    """A link that was not used yet, and the button that takes it back."""
    with st.container(horizontal=True, vertical_alignment="center"):
        whom = f"{invite.name or 'somebody'} as {invite.role or 'what they are'}"
        show.paragraph(f"A link for {whom}, until {invite.expires_at:%Y-%m-%d %H:%M} UTC.")
        given = {"invite_id": invite.id}
        press = {"on_click": act, "args": (written, workspace, revoke_invite), "kwargs": given}
        st.button("Take back", key=f"revoke-{invite.id}", type="tertiary", **press)


def make_link(workspace: Workspace, by: str) -> None:
    """An invite as the form has it, and its link on the page that is drawn next."""
    name, role = tidy(st.session_state["invited"]), Role(st.session_state["invited_role"])
    lasts = timedelta(days=int(st.session_state["invited_days"]))
    with writing(workspace.engine) as session:
        known = accounts(session=session)
        again = name in [who.name for who in list_annotators(session=session) if who.id in known]
        # A second link is for a passcode forgotten: whoever has an account keeps the role that they have.
        token, _ = add_invite(session=session, role=None if again else role, name=name, by=by, lasts=lasts)
    st.session_state["link"] = invite_link(own_address(workspace), token)


def own_address(workspace: Workspace) -> str:
    """Where the app is reached: as pairloop.toml says, otherwise as this browser reached it."""
    here = urlsplit(st.context.url or "")
    known = workspace.settings.team.url or not here.netloc
    return app_url(workspace) if known else f"{here.scheme}://{here.netloc}"


def about_one(workspace: Workspace, people: list[Annotator]) -> None:
    """What can be done about one of them."""
    by_name = {who.name: who for who in people}
    if not by_name:
        return
    who = by_name[st.selectbox("About one of them", list(by_name), key="who")]
    if who.id == visitor().annotator_id:
        st.caption("That is you.")
        return
    with st.container(horizontal=True):
        for label, function, more in actions(who):
            given = {"name": who.name, "said": f"{label}: {who.name}."} | more
            key = f"{label}-{who.id}"
            st.button(label, key=key, on_click=act, args=(written, workspace, function), kwargs=given)
        if who.retracted_at is None:
            retraction(workspace, who)
    if who.retracted_at is not None:
        show.paragraph(touched_sentence(workspace, who.name))


def actions(who: Annotator) -> list[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """The buttons for somebody: label, store function, and what else it is given."""
    if who.role not in PEOPLE or who.retracted_at is not None:
        return []
    if not who.active:
        return [("Reactivate", reactivate_annotator, {})]
    other = Role.ANNOTATOR if who.role == Role.RESEARCHER else Role.RESEARCHER
    return [
        (f"Make {other}", change_role, {"role": other}),
        ("Log out everywhere", log_out_annotator, {}),
        ("Deactivate", deactivate_annotator, {}),
    ]


def retraction(workspace: Workspace, who: Annotator) -> None:
    """Leave somebody out, asked twice."""
    with st.popover("Retract"):
        st.caption(
            "What they said is left out of every snapshot from now on, and asked of others again. Nothing is deleted, "
            "snapshots and checkpoints made before stay as they are (the Lineage page shows which), and there is no "
            "way back."
        )
        serving = touched_serving_sentence(workspace, who.name)
        if serving:
            show.paragraph(serving)
        press = {"on_click": act, "args": (retract, workspace, who.name)}
        st.button("Retract for good", key=f"retract-{who.id}", type="primary", **press)


def retract(workspace: Workspace, name: str) -> None:
    """Leave somebody out, and say what they are in all the same."""
    written(workspace, retract_annotator, name=name)
    st.session_state["notice"] = touched_sentence(workspace, name)


def written(workspace: Workspace, function: Callable[..., Any], **given: Any) -> None:
    """Call a store function that writes."""
    with writing(workspace.engine) as session:
        function(session=session, **given)


if __name__ == "__main__":
    main()
