"""Annotators: who compares, and whether they may."""

from __future__ import annotations

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from store.access_tables import Account, Invite
from store.errors import StateError, StoreError, UnknownRecordError
from store.holds import release_all
from store.logins import end_logins
from store.models import COUNTED, MEASURING, Annotator, Comparison, Pair, Role, Verdict, now
from store.pairs import recount_open_slots
from store.playground_pairs import fit_to_team
from store.roles import person_of, require_researcher


def get_or_add_annotator(*, session: Session, name: str, role: Role = Role.ANNOTATOR) -> Annotator:
    """The annotator of this name, made if new. Raises StoreError on an empty or overlong name."""
    name = tidy(name)
    if not name or len(name) > 80:
        raise StoreError("A name needs 1 to 80 characters.")
    found = session.exec(select(Annotator).where(Annotator.name == name)).first()
    if found is not None:
        return found
    annotator = Annotator(name=name, role=role)
    session.add(annotator)
    session.flush()
    return annotator


def tidy(name: str) -> str:
    """A name without needless spaces."""
    return " ".join(name.split())


def get_annotator(*, session: Session, name: str) -> Annotator:
    """The annotator of this name. Raises UnknownRecordError."""
    found = session.exec(select(Annotator).where(Annotator.name == tidy(name))).first()
    if found is None:
        raise UnknownRecordError(f"There is no annotator called {name!r}.")
    return found


def list_annotators(*, session: Session) -> list[Annotator]:
    """Everybody who ever compared, by name."""
    return list(session.exec(select(Annotator).order_by(Annotator.name)))


def count_by_annotator(*, session: Session) -> dict[int, int]:
    """Standing comparisons of everybody that they were asked for: no skips, practice, rewrites or decisions."""
    rows = session.exec(
        select(Comparison.annotator_id, func.count())
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .where(
            col(Comparison.superseded_at).is_(None),
            Comparison.verdict != Verdict.SKIP,
            ~col(Comparison.adjudicates),
            col(Pair.purpose).in_((*COUNTED, *MEASURING)),
        )
        .group_by(col(Comparison.annotator_id))
    )
    return dict(rows.all())


def retract_annotator(*, session: Session, name: str) -> Annotator:
    """Leave this annotator's comparisons out of future snapshots; nothing is deleted.

    What they had judged or were being shown is asked of others again, and they are logged out. Raises
    UnknownRecordError, StateError if they are retracted already, NotAllowedError.
    """
    require_researcher(session=session, to="retract an annotator")
    annotator = _other(session, name)
    if annotator.retracted_at is not None:
        raise StateError(f"{name!r} was retracted already, on {annotator.retracted_at:%Y-%m-%d}.")
    annotator.retracted_at = now()
    _close(session, annotator)
    _reopen_pairs(session, annotator)
    fit_to_team(session=session)
    return annotator


def deactivate_annotator(*, session: Session, name: str) -> Annotator:
    """Let somebody come no more, from this moment on. What they said stays.

    Raises UnknownRecordError, StateError where they may not come already or are yourself, NotAllowedError.
    """
    require_researcher(session=session, to="deactivate an annotator")
    annotator = _other(session, name)
    if not annotator.active:
        raise StateError(f"{name!r} is not active already.")
    _close(session, annotator)
    fit_to_team(session=session)
    return annotator


def reactivate_annotator(*, session: Session, name: str) -> Annotator:
    """Let somebody come again who was deactivated. Raises UnknownRecordError, StateError otherwise, NotAllowedError."""
    require_researcher(session=session, to="reactivate an annotator")
    annotator = get_annotator(session=session, name=name)
    if annotator.retracted_at is not None:
        raise StateError(f"{name!r} is retracted; what they say would be left out of every snapshot.")
    if annotator.active:
        raise StateError(f"{name!r} is active.")
    annotator.active = True
    session.add(annotator)
    return annotator


def log_out_annotator(*, session: Session, name: str) -> int:
    """End all of somebody's logins. Returns how many those with a passcode were; they can log in again.

    Raises UnknownRecordError, NotAllowedError.
    """
    require_researcher(session=session, to="log somebody out")
    annotator = get_annotator(session=session, name=name)
    assert annotator.id is not None
    account = session.get(Account, annotator.id)
    if account is not None:
        account.ended_at = now()
        session.add(account)
    return end_logins(session=session, annotator_id=annotator.id)


def change_role(*, session: Session, name: str, role: Role) -> Annotator:
    """Make somebody an annotator or a researcher. Raises UnknownRecordError, StateError, NotAllowedError."""
    require_researcher(session=session, to="change somebody's role")
    annotator = _other(session, name)
    if not {annotator.role, role} <= {Role.ANNOTATOR, Role.RESEARCHER}:
        raise StateError(f"{name!r} is {annotator.role}; only people are annotators or researchers.")
    annotator.role = role
    session.add(annotator)
    if role != Role.RESEARCHER:
        _revoke_invites(session, annotator)
    return annotator


def _other(session: Session, name: str) -> Annotator:
    """Somebody else than the researcher who asks: nobody shuts themselves out by a slip."""
    annotator = get_annotator(session=session, name=name)
    if annotator.id == person_of(session):
        raise StateError("That is yourself. Let another researcher do it, or use the command line.")
    return annotator


def _close(session: Session, annotator: Annotator) -> None:
    annotator.active = False
    session.add(annotator)
    session.flush()
    assert annotator.id is not None
    log_out_annotator(session=session, name=annotator.name)
    release_all(session=session, annotator_id=annotator.id)
    _revoke_invites(session, annotator)


def _revoke_invites(session: Session, annotator: Annotator) -> None:
    """Let the open links let nobody in that they made, or that are for them: they would be a way back in."""
    theirs = (col(Invite.created_by) == annotator.name) | (col(Invite.annotator_id) == annotator.id)
    session.execute(
        update(Invite)
        .where(theirs, col(Invite.used_at).is_(None), col(Invite.revoked_at).is_(None))
        .values(revoked_at=now())
    )


def _reopen_pairs(session: Session, annotator: Annotator) -> None:
    mine = select(Comparison.pair_id).where(
        Comparison.annotator_id == annotator.id, col(Comparison.superseded_at).is_(None)
    )
    for pair_id in session.exec(mine).all():
        recount_open_slots(session=session, pair_id=pair_id)
