"""Workers: the processes that carry out runs, so that a page can say whether anybody is there to do it."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from datetime import timedelta
from pathlib import Path

import psutil
from sqlmodel import Session, col, select

from store.models import Worker, now

SILENCE = timedelta(seconds=20)  # a worker that has said nothing for this long is not counted as there
FORGOTTEN = timedelta(days=1)  # and for this long, not kept in mind
NO_CHATS = "no chats meanwhile"  # what a worker adds to what it is doing where that needs all the memory


def own_name() -> str:
    """This process as the owner of runs: host, process number, and whose process numbers these are."""
    return f"{socket.gethostname()}:{os.getpid()}:{_numbering()}"


@functools.cache
def _numbering() -> str:
    """A process number means something only within one boot of one machine, and within one container there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        boot, container = f"{psutil.boot_time():.0f}", ""
    return hashlib.sha256(f"{boot} {container}".encode()).hexdigest()[:8]


def process_here(name: str) -> int | None:
    """The number of the process of this name; None for another machine's."""
    host, number, numbering = name.rsplit(":", 2) if name.count(":") >= 2 else ("", "", "")
    return int(number) if (host, numbering) == (socket.gethostname(), _numbering()) else None


def is_gone(name: str) -> bool:
    """Whether the process of this name has certainly ended. False for another machine's: there, only silence tells."""
    number = process_here(name)
    if number is None:
        return False
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:  # somebody else's, who may not be asked: it is there
        return False


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
    """The workers heard of lately, without those known to have died since."""
    heard = session.exec(select(Worker).where(col(Worker.seen_at) > now() - SILENCE))
    return [worker for worker in heard if not is_gone(worker.name)]


def forget_dead_workers(*, session: Session) -> None:
    """Drop the rows of workers that could not sign off: known to have ended, or silent for more than a day.

    The day is for other machines' workers: nothing but silence tells of them, and one that slept may wake.
    """
    for worker in session.exec(select(Worker)):
        if is_gone(worker.name) or worker.seen_at < now() - FORGOTTEN:
            session.delete(worker)
