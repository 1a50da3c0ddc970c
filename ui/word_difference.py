"""Two texts word by word: which words only one of them has."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from functools import lru_cache
from html import escape

_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
_MOST = 4_000  # words and marks of both texts together: beyond, comparing them would keep the page waiting


@lru_cache(maxsize=64)
def mark_difference(left: str, right: str) -> tuple[str, str] | None:
    """Both texts as HTML, as they were written, with what the other has not in <mark>; None where they are too long."""
    first, second = _WORDS.findall(left.strip()), _WORDS.findall(right.strip())
    if len(first) + len(second) > _MOST:
        return None
    same = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return (
        _marked(first, [(block.a, block.size) for block in same]),
        _marked(second, [(block.b, block.size) for block in same]),
    )


def _marked(words: list[str], same: list[tuple[int, int]]) -> str:
    parts, at = [], 0
    for start, size in same:
        parts.append(_mark(words[at:start]))
        parts.append(escape("".join(words[start : start + size])))
        at = start + size
    return f'<div class="pl-text pl-written" dir="auto">{"".join(parts)}</div>'


def _mark(words: list[str]) -> str:
    text = escape("".join(words))
    return f"<mark>{text}</mark>" if text.strip() else text
