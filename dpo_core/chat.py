"""The chat's process: writes what the Playground asks, two checkpoints side by side, as they come to it.

    python -m dpo_core.chat --workspace W --parent-pid P

A worker starts it when somebody asks (chat_child.py), whatever else the worker is carrying out. It keeps the two
checkpoints that were asked last in memory, and ends when nobody has asked for `chat_minutes`.

Each side is `sample_completions`, in a thread of its own: its text is the one that a run would write with that seed.
Meanwhile this thread shows what there is so far, a few times a second and not at each token, and hears Stop. torch is
loaded once there is something to write: a second worker's process that comes too late costs nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dpo_core.carry_out import LOG_FORMAT, die_with, is_out_of_memory
from dpo_core.config import SamplingSettings
from dpo_core.errors import CoreError, RunError
from dpo_core.workspace import Workspace, open_workspace
from store.chat_tables import Exchange
from store.database import reading, writing
from store.errors import DatabaseError, StoreError
from store.exchanges import SIDES
from store.models import Checkpoint
from store.pairs import NewCompletion
from store.workers import own_name
from store.writing_exchanges import (
    LostExchangeError,
    claim_exchange,
    end_exchange,
    exchange_waits,
    finish_exchange,
    release_exchange,
    report_texts,
)

log = logging.getLogger("pairloop")
SHOW_SECONDS = 0.25  # between two looks at what is written
LOOK_SECONDS = 0.15  # between two looks for an exchange
TROUBLE_SECONDS = 5.0  # before the database is tried again
Written = dict[str, NewCompletion | None]  # by side; None where a checkpoint wrote nothing, however often it was asked
Came = TypeVar("Came")

_NO_MEMORY = (
    "There was not enough memory for both checkpoints. Close other programs, or wait until no run needs it, and ask "
    "again; or ask for shorter answers."
)
_NOT_EXPECTED = "An error that pairloop did not expect: {what}\nlogs/chat.log in the workspace has the details."


class _Over(Exception):  # noqa: N818 - no error: how a thread is told to write no more
    """Nobody waits for the rest."""


def chat(workspace: Workspace, *, stop: threading.Event, idle_seconds: float) -> int:
    """Write what is asked until `stop` is set, or nothing was asked for so long; how many exchanges.

    Ends at once where nothing waits to begin with: another worker's process was quicker.
    """
    writer, written, last = Writer(workspace), 0, time.monotonic()
    while not stop.is_set() and time.monotonic() - last < idle_seconds:
        found = _claim(workspace)
        if found is not None:
            write_exchange(workspace, writer, found, stop)
            written, last = written + 1, time.monotonic()
        elif not written:
            break
        else:  # not stop.wait(): a signal handler that sets the event while this thread is inside could lock up
            time.sleep(LOOK_SECONDS)
    return written


def _claim(workspace: Workspace) -> Exchange | None:
    try:
        with reading(workspace.engine) as session:
            if not exchange_waits(session=session):
                return None
        with writing(workspace.engine) as session:
            return claim_exchange(session=session, owner=own_name())
    except DatabaseError as error:
        log.warning("%s", error)
        time.sleep(TROUBLE_SECONDS)
        return None


class Writer:
    """The checkpoints in memory, and what they are writing just now."""

    def __init__(self, workspace: Workspace) -> None:
        self.over = threading.Event()  # once it is set, no more is written
        self._workspace = workspace
        self._loaded: dict[int, tuple[Any, Any]] = {}
        self._tokens: dict[str, Sequence[int]] = {}
        self._readers: dict[str, Any] = {}

    def write(self, asked: Exchange) -> Written:
        """Both completions. Raises CoreError, and whatever else a model runs into."""
        from dpo_core.sampling import decoded  # loads torch, before there is anything to show

        ids = asked.checkpoint_ids
        models = self._load(list(ids.values()))
        self._readers = {side: partial(decoded, models[ids[side]][1]) for side in SIDES}
        if ids["a"] == ids["b"]:
            found = self._sample(models[ids["a"]], asked, SIDES)
            return {side: found[place] if place < len(found) else None for place, side in enumerate(SIDES)}
        with ThreadPoolExecutor(len(SIDES)) as threads:
            both = {side: threads.submit(self._sample, models[ids[side]], asked, side) for side in SIDES}
        _raise_first([future.exception() for future in both.values()])
        return {side: next(iter(future.result()), None) for side, future in both.items()}

    def _load(self, ids: Sequence[int]) -> dict[int, tuple[Any, Any]]:
        from dpo_core.writers import load_writers

        self._tokens = {}
        self._loaded = {number: kept for number, kept in self._loaded.items() if number in ids}
        missing = list(dict.fromkeys(number for number in ids if number not in self._loaded))
        with reading(self._workspace.engine) as session:
            checkpoints = [session.get_one(Checkpoint, number) for number in missing]
        self._loaded |= zip(missing, load_writers(self._workspace, checkpoints), strict=True)
        return self._loaded

    def _sample(self, writer: tuple[Any, Any], asked: Exchange, sides: Sequence[str]) -> list[NewCompletion]:
        """What one checkpoint writes for these sides, each a different draw of it."""
        from dpo_core.sampling import sample_completions

        def on_step(rows: Sequence[Sequence[int]]) -> None:
            if self.over.is_set():
                raise _Over
            # Where only one of two is drawn again, it is the second that is missing.
            self._tokens.update(zip(sides[-len(rows) :], rows, strict=False))

        settings = SamplingSettings.model_validate(asked.settings)
        try:
            _require_room(*writer, asked, settings)
            return sample_completions(
                *writer, [asked.messages], settings, per_prompt=len(sides), seed=asked.seed, on_step=on_step
            )[0]
        except BaseException:
            self.over.set()  # what one side runs into ends the other
            raise

    def texts(self) -> dict[str, str]:
        """What is written so far, by side."""
        tokens = dict(self._tokens)
        return {side: self._readers[side](list(tokens[side])) if side in tokens else "" for side in SIDES}


def _raise_first(errors: Sequence[BaseException | None]) -> None:
    """Raise what went wrong, if anything did; rather than that the other side was ended for it."""
    found = sorted((error for error in errors if error is not None), key=lambda error: isinstance(error, _Over))
    if found:
        raise found[0]


def _require_room(model: Any, tokenizer: Any, asked: Exchange, settings: SamplingSettings) -> None:
    from dpo_core.policies import encode_prompt
    from dpo_core.sampling import prompt_room

    room, length = prompt_room(model, settings), len(encode_prompt(tokenizer, asked.messages))
    if room is not None and length > room:
        raise RunError(
            f"The conversation has {length} tokens. With {settings.max_new_tokens} kept for the answer, a checkpoint "
            f"has room for {max(0, room)}. Ask for a shorter answer, or begin a new conversation."
        )


def write_exchange(workspace: Workspace, writer: Writer, asked: Exchange, stop: threading.Event) -> None:
    """Write a claimed exchange and record how it ended; where `stop` is set meanwhile, leave it to another process."""
    assert asked.id is not None
    held: dict[str, Any] = {"exchange_id": asked.id, "owner": own_name()}
    writer.over.clear()
    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(writer.write, asked)
        try:
            if _show(workspace, writer, work, held, stop):
                _settle(workspace, work, held)
        except LostExchangeError as error:
            log.warning("%s", error)
        finally:
            writer.over.set()


def _show(
    workspace: Workspace, writer: Writer, work: Future[Written], held: dict[str, Any], stop: threading.Event
) -> bool:
    """Show what is written so far until all of it is. False where it ended before. Raises LostExchangeError."""
    while not stop.is_set():
        if wait([work], SHOW_SECONDS).done:
            return True
        if _put_down(workspace, report_texts, texts=writer.texts(), **held):
            _put_down(workspace, end_exchange, error=None, **held)
            return False
    _put_down(workspace, release_exchange, **held)
    return False


def _settle(workspace: Workspace, work: Future[Written], held: dict[str, Any]) -> None:
    """Record what an exchange came to. Raises LostExchangeError."""
    error = work.exception()
    if error is None:
        _put_down(workspace, finish_exchange, written=work.result(), **held)
        return
    log.error("Exchange %s failed.", held["exchange_id"], exc_info=error)
    _put_down(workspace, end_exchange, error=_in_words(error), **held)


def _in_words(error: BaseException) -> str:
    if isinstance(error, (CoreError, StoreError)):
        return str(error)
    if is_out_of_memory(error):
        return _NO_MEMORY
    return _NOT_EXPECTED.format(what=f"{type(error).__name__}: {str(error)[:1000]}")


def _put_down(workspace: Workspace, write: Callable[..., Came], **given: Any) -> Came | None:
    """Write to the database. Trouble with it is waited out: the next look may find it mended, or the lease runs out."""
    try:
        with writing(workspace.engine) as session:
            return write(session=session, **given)
    except DatabaseError as error:
        log.warning("%s", error)
        return None


def main(arguments: list[str] | None = None) -> int:
    """A worker's chat process. Its output is logs/chat.log."""
    parser = argparse.ArgumentParser(prog="python -m dpo_core.chat", description=main.__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING)
    die_with(given.parent_pid)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        workspace = open_workspace(given.workspace)
        worker = workspace.settings.worker
        os.nice(worker.niceness // 2)  # somebody waits for it: behind the app, before a run
        chat(workspace, stop=stop, idle_seconds=60 * worker.chat_minutes)
    except (CoreError, StoreError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
