"""Workers: the processes that carry out runs, so that a page can say whether anybody is there to do it."""

from __future__ import annotations

from datetime import timedelta

from sqlmodel import Session, col, select

from store.models import Worker, now

SILENCE = timedelta(seconds=20)  # a worker that has said nothing for this long is not counted as there


def beat(*, session: Session, name: str, doing: str) -> None:
    """Say that the worker of this name lives, and what it is doing."""
    worker = session.exec(select(Worker).where(Worker.name == name)).first() or Worker(name=name)
    worker.doing = doing
    worker.seen_at = now()
    session.add(worker)


def sign_off(*, session: Session, name: str) -> None:
    """Forget a worker that stops in good order."""
    worker = session.exec(select(Worker).where(Worker.name == name)).first()
    if worker is not None:
        session.delete(worker)


def live_workers(*, session: Session) -> list[Worker]:
    """The workers heard of lately."""
    return list(session.exec(select(Worker).where(col(Worker.seen_at) > now() - SILENCE)))
