"""Who may do what: a researcher everything, an annotator only compare.

A session knows on whose behalf it works: those of `on_behalf_of(engine, annotator_id)` are that person's, and what only
researchers may do begins with `require_researcher`, which looks up what that person is allowed at this very moment. A
session of nobody in particular is the owner's: the command line and the worker run on the machine itself, where
whoever starts them could read and write the database's file as well.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Session

from store.errors import NotAllowedError
from store.models import Annotator, Role

_PERSON = "pairloop_person"


def on_behalf_of(engine: sa.Engine, annotator_id: int) -> sa.Engine:
    """The same database, for one person: its sessions may do what this annotator may."""
    return engine.execution_options(**{_PERSON: annotator_id})


def of_the_machine(engine: sa.Engine) -> sa.Engine:
    """The same database, for the machine's owner again: for what follows from a file of theirs, whoever looks."""
    return engine.execution_options(**{_PERSON: None})


def person_of(session: Session) -> int | None:
    """The annotator on whose behalf a session works; None: the machine's owner."""
    person: int | None = session.get_bind().get_execution_options().get(_PERSON)
    return person


def require_researcher(*, session: Session, to: str) -> None:
    """Go on only for a researcher, or the machine's owner. Raises NotAllowedError, which names what it was `to` do."""
    number = person_of(session)
    if number is None:
        return
    person = session.get(Annotator, number)
    if person is None or not person.active or person.role != Role.RESEARCHER:
        raise NotAllowedError(f"Only a researcher may {to}. Nothing was changed; ask one of your team.")
