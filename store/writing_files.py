"""Folders written whole or not at all: written aside, forced to disk, then renamed into place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from store.errors import SnapshotError


@contextmanager
def folder_written_aside(target: Path) -> Iterator[Path]:
    """An empty folder to write into, which becomes `target` when the block ends without an error.

    Raises SnapshotError where the disk refuses; what was written aside is removed, and all else is as it was.
    """
    aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        aside.mkdir(parents=True)
        yield aside
        for path in [*aside.rglob("*"), aside]:
            _force_to_disk(path)
        aside.rename(target)
        _force_to_disk(target.parent)
    except OSError as error:
        raise SnapshotError(_explanation(target, error)) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _force_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _explanation(target: Path, error: OSError) -> str:
    kept = "Nothing was written, and everything saved before is as it was."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full: {target} could not be written. {kept} Free some space and try again."
    return f"{target} could not be written ({error.strerror or error}). {kept}"
