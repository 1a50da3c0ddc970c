"""Hashes that name content: the same text, messages or file always get the same one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def text_hash(text: str) -> str:
    """The SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with one spelling only: sorted keys, no spaces, UTF-8 as is."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def content_hash(value: Any) -> str:
    """The SHA-256 of a JSON value's canonical spelling, in hex."""
    return text_hash(canonical_json(value))


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sampled_hash(path: Path, *, pieces: int = 16, size: int = 1 << 16) -> str:
    """A hash of a file's length and of pieces spread over it: tells files of gigabytes apart in milliseconds.

    Made for weights, where a training step changes every part of the file.
    """
    length = path.stat().st_size
    hashed = hashlib.sha256(str(length).encode())
    with path.open("rb") as stream:
        for piece in range(pieces):
            stream.seek(max(0, length - size) * piece // (pieces - 1))
            hashed.update(stream.read(size))
    return hashed.hexdigest()


def fraction(hashed: str) -> float:
    """A hash as a number in [0, 1), for choices that must come out the same everywhere."""
    return int(hashed[:13], 16) / 16**13
