"""Annotators: who compares."""

from __future__ import annotations

from sqlmodel import Session, col, select

from store.errors import StateError, StoreError, UnknownRecordError
from store.holds import release_all
from store.models import Annotator, Comparison, Role, now
from store.pairs import recount_open_slots


def get_or_add_annotator(*, session: Session, name: str, role: Role = Role.ANNOTATOR) -> Annotator:
    """The annotator of this name, made if new. Raises StoreError on an empty or overlong name."""
    name = _tidy(name)
    if not name or len(name) > 80:
        raise StoreError("A name needs 1 to 80 characters.")
    found = session.exec(select(Annotator).where(Annotator.name == name)).first()
    if found is not None:
        return found
    annotator = Annotator(name=name, role=role)
    session.add(annotator)
    session.flush()
    return annotator


def _tidy(name: str) -> str:
    return " ".join(name.split())


def get_annotator(*, session: Session, name: str) -> Annotator:
    """The annotator of this name. Raises UnknownRecordError."""
    found = session.exec(select(Annotator).where(Annotator.name == _tidy(name))).first()
    if found is None:
        raise UnknownRecordError(f"There is no annotator called {name!r}.")
    return found


def list_annotators(*, session: Session) -> list[Annotator]:
    """Everybody who ever compared, by name."""
    return list(session.exec(select(Annotator).order_by(Annotator.name)))


def retract_annotator(*, session: Session, name: str) -> Annotator:
    """Leave this annotator's comparisons out of future snapshots; nothing is deleted.

    What they had judged or were being shown is asked of others again. Raises UnknownRecordError, and StateError if
    they are retracted already.
    """
    annotator = get_annotator(session=session, name=name)
    if annotator.retracted_at is not None:
        raise StateError(f"{name!r} was retracted already, on {annotator.retracted_at:%Y-%m-%d}.")
    annotator.retracted_at = now()
    annotator.active = False
    session.add(annotator)
    session.flush()
    _reopen_pairs(session, annotator)
    return annotator


def _reopen_pairs(session: Session, annotator: Annotator) -> None:
    mine = select(Comparison.pair_id).where(
        Comparison.annotator_id == annotator.id, col(Comparison.superseded_at).is_(None)
    )
    for pair_id in session.exec(mine).all():
        recount_open_slots(session=session, pair_id=pair_id)
    assert annotator.id is not None
    release_all(session=session, annotator_id=annotator.id)
