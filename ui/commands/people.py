"""`pairloop invite`, `annotators`: who may come in, and who compared."""

from __future__ import annotations

import sys
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer
from sqlmodel import Session

from dpo_core.team import app_url, has_provider, invite_link
from dpo_core.workspace import Workspace, open_workspace
from store.annotators import (
    deactivate_annotator,
    list_annotators,
    log_out_annotator,
    reactivate_annotator,
    retract_annotator,
)
from store.database import reading, writing
from store.decisions import serving_checkpoint
from store.invites import add_invite, admit_email
from store.logins import last_seen
from store.models import Annotator, Role
from store.teaching import touched_by
from ui.commands.options import HERE, JsonOption, WorkspaceOption, only_one, this_person
from ui.commands.printing import print_json, print_table, remark, say
from ui.lineage_words import touched_serving_words, touched_words


class InvitedRole(StrEnum):
    """What somebody who is invited may do."""

    ANNOTATOR = "annotator"
    RESEARCHER = "researcher"


def invite(
    role: Annotated[
        InvitedRole | None,
        typer.Option("--role", help="A researcher can do everything.", show_default="annotator, or what they are"),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Whom it is for; else they say so themselves.")
    ] = "",
    expires: Annotated[
        float, typer.Option("--expires", min=0.01, max=90, metavar="DAYS", help="How long it holds.")
    ] = 7,
    email: Annotated[
        str, typer.Option("--email", help="Let in whoever your identity provider says has this address; no link.")
    ] = "",
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Print a link that lets somebody in, once.

    Whoever opens it says their name, chooses a passcode and is logged in. For somebody who is there already it sets
    their passcode anew (forgotten, or none so far) and logs them out elsewhere. From the first account on everybody
    logs in, on this machine too. --email is for people of an identity provider, set up as the README says.

    \b
    Example:
      pairloop invite --role researcher
      pairloop invite --name "Lea" --expires 2
    """
    opened = open_workspace(workspace)
    wanted = None if role is None else Role(role)
    if email:
        _admit(opened, email, name, wanted, as_json)
        return
    with writing(opened.engine) as session:
        days = timedelta(days=expires)
        token, made = add_invite(session=session, role=wanted, name=name, by=this_person(), lasts=days)
    link = invite_link(app_url(opened), token)
    if as_json:
        print_json({"link": link, "role": made.role, "name": made.name, "expires_at": made.expires_at})
        return
    say(link)
    remark(f"It lets one person in, once, until {made.expires_at:%Y-%m-%d %H:%M} UTC. Send it to nobody else.")


def _admit(workspace: Workspace, email: str, name: str, role: Role | None, as_json: bool) -> None:
    with writing(workspace.engine) as session:
        known = admit_email(session=session, email=email, name=name or email.partition("@")[0], role=role)
    if as_json:
        print_json({"link": app_url(workspace), "role": known.role, "name": known.name, "email": email})
        return
    say(f"{known.name} ({known.role}) can log in at {app_url(workspace)} as {email}.")
    if not has_provider(workspace.folder):
        remark('No identity provider is set up yet: see "A team" in the README.')


def annotators(
    retract: Annotated[
        str | None, typer.Option("--retract", metavar="NAME", help="Leave this annotator out of all future snapshots.")
    ] = None,
    deactivate: Annotated[
        str | None, typer.Option("--deactivate", metavar="NAME", help="Let them come no more; what they said stays.")
    ] = None,
    reactivate: Annotated[str | None, typer.Option("--reactivate", metavar="NAME", help="Let them come again.")] = None,
    log_out: Annotated[
        str | None, typer.Option("--log-out", metavar="NAME", help="End their logins, in every browser.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Who compared and who may; leaving somebody out.

    Nothing is deleted: snapshots cut before stay as they are, later ones count what was left out and why. --retract
    says which checkpoints were trained on what they said; these stay as they are as well. If the one that serves now is
    among them it says so first, and in a terminal asks whether to go on.

    \b
    Example:
      pairloop annotators --retract "Test account"
      pairloop annotators --log-out Lea
    """
    only_one(**{"retract": retract, "deactivate": deactivate, "reactivate": reactivate, "log-out": log_out})
    opened = open_workspace(workspace)
    if retract is not None:
        _say_first(opened, retract, ask=not as_json and sys.stdin.isatty())
    with writing(opened.engine) as session:
        _change(session, retract, deactivate, reactivate, log_out)
    with reading(opened.engine) as session:
        found, seen = list_annotators(session=session), last_seen(session=session)
        touched = touched_by(session=session, folder=opened.folder, name=retract) if retract is not None else []
    if as_json:
        print_json({"annotators": found} | ({"touched": touched} if retract is not None else {}))
        return
    rows = [_annotator_row(annotator, seen.get(annotator.id or 0)) for annotator in found]
    print_table(("name", "role", "status", "since", "last seen"), rows)
    if retract is not None:
        say(touched_words(retract, touched))


def _say_first(workspace: Workspace, name: str, *, ask: bool) -> None:
    """Say before somebody is retracted what the checkpoint that serves now has of them, and ask a person whether to."""
    with reading(workspace.engine) as session:
        serving = serving_checkpoint(session=session).name
        found = touched_by(session=session, folder=workspace.folder, name=name)
    said = touched_serving_words(name, found, serving)
    if said:
        remark(said)
        if ask:
            typer.confirm(f"Retract {name}? There is no way back.", abort=True, err=True)


def _change(
    session: Session, retract: str | None, deactivate: str | None, reactivate: str | None, log_out: str | None
) -> None:
    if retract is not None:
        retract_annotator(session=session, name=retract)
    if deactivate is not None:
        deactivate_annotator(session=session, name=deactivate)
    if reactivate is not None:
        reactivate_annotator(session=session, name=reactivate)
    if log_out is not None:
        log_out_annotator(session=session, name=log_out)


def _annotator_row(annotator: Annotator, seen: Any) -> tuple[Any, ...]:
    status = "retracted" if annotator.retracted_at else "active" if annotator.active else "inactive"
    return annotator.name, annotator.role, status, annotator.created_at, seen
