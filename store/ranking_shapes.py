"""Rows of outside files -> rankings: which public shapes there are, and what is left out of a list.

    {"prompt": ..., "completions": [text, ...], "ranks": [1, 2, 2, 3]}       1 is best, equal ranks are ties
    {"prompt": ..., "completions": [text, ...], "scores": [8.5, 7, 7, 2]}    higher is better, equal scores are ties
    {"prompt": ..., "answers": [{"answer": text, "rank": 1, "model": ...}, ...]}                        (Nectar)
    {"instruction": ..., "completions": [{"response": text, "overall_score": 8.5, "model": ...}, ...]}  (UltraFeedback)

A row that is malformed raises StoreError. Of a row that is well formed, empty texts and those without a score are left
out, and so are texts that come twice: once, where both have the same rank, and altogether where they have not, since
nobody can say then where they stand. What is left out is counted; a row of fewer than two texts is `Unusable`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from store.errors import ColumnsError, StoreError
from store.prompts import Message
from store.row_shapes import EMPTY_COMPLETION, IDENTICAL, Unusable, found_instead, read_prompt

MOST = 20  # texts in one list: 190 comparisons
LISTS = ("completions", "answers")
TEXTS = ("answer", "response", "completion", "text")
RANKS, SCORES = ("rank",), ("overall_score", "score")
COLUMNS = ("prompt", "instruction", *LISTS, "ranks", "scores")
WITHOUT_SCORE = Unusable("completion without a score")
TWICE = Unusable("the same completion at two ranks")
TOO_FEW = Unusable("fewer than two completions to rank")
EXPECTED = (
    "expected `prompt`, `completions` and `ranks` (or `scores`), or a list `answers` or `completions` in which each "
    "has a text and a `rank` or an `overall_score`"
)


@dataclass(frozen=True)
class RankedText:
    """One text of a list. Those of a lower `tier` are better. `maker`: the model that wrote it, if the row says so."""

    text: str
    tier: int
    maker: str | None


@dataclass(frozen=True)
class ReadRanking:
    """What a row says: how some texts for one prompt were ranked. `left_out`: why, for each text that is not in it."""

    messages: list[Message]
    texts: list[RankedText]
    shape: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Judged:
    """A text and how bad it is: its rank, or its score with the sign turned. None: nobody said."""

    text: str
    badness: float | None
    maker: str | None


def looks_like_rankings(values: dict[str, Any]) -> bool:
    """Whether a row holds a ranking, also where the name of one of its columns is misspelled."""
    lists = {name.lower(): value for name, value in values.items() if isinstance(value, list)}
    ranked = [name for name in lists if get_close_matches(name, ("ranks", "scores"), n=1, cutoff=0.75)]
    if ranked and len(lists) > 1:
        return True
    items = [item for name in LISTS for item in lists.get(name, ())]
    return any(isinstance(item, dict) and set(item) & {*RANKS, *SCORES} for item in items)


def read_ranking(values: dict[str, Any]) -> ReadRanking | Unusable:
    """The ranking a row holds. Raises StoreError if it holds none."""
    name = next((name for name in LISTS if isinstance(values.get(name), list)), None)
    if name is None:
        raise ColumnsError(EXPECTED + found_instead(values, COLUMNS))
    if len(values[name]) > MOST:
        raise StoreError(f"`{name}` has {len(values[name])} texts; at most {MOST} can be ranked together")
    by_columns = all(not isinstance(item, dict) for item in values[name])
    judged, shape = _from_columns(values, name) if by_columns else _from_items(values[name], name)
    messages = read_prompt({column: value for column, value in values.items() if column != name})
    if isinstance(messages, Unusable):
        return messages
    kept, left_out = _told_apart(judged)
    if len(kept) < 2:
        return TOO_FEW
    tiers = {badness: number for number, badness in enumerate(sorted({badness for _, badness, _ in kept}))}
    texts = [RankedText(text, tiers[badness], maker) for text, badness, maker in kept]
    return ReadRanking(messages, texts, shape, tuple(left_out))


def _from_columns(values: dict[str, Any], name: str) -> tuple[list[_Judged], str]:
    """Texts in one column, their ranks or scores in another."""
    column = next((column for column in ("ranks", "scores") if column in values), None)
    if column is None:
        raise ColumnsError(EXPECTED + found_instead(values, COLUMNS))
    texts, figures = values[name], values[column]
    if not isinstance(figures, list) or len(figures) != len(texts):
        found = f"{len(figures)}" if isinstance(figures, list) else type(figures).__name__
        raise StoreError(f"expected {len(texts)} numbers in `{column}`, one for each of `{name}`, found {found}")
    if any(_number(figure) is None for figure in figures):
        raise StoreError(f"`{column}` must hold numbers alone")
    sign = 1 if column == "ranks" else -1
    judged = [
        _Judged(_text(text, name), sign * float(figure), None) for text, figure in zip(texts, figures, strict=True)
    ]
    return judged, f"prompt, {name}, {column}"


def _from_items(items: Sequence[Any], name: str) -> tuple[list[_Judged], str]:
    """Texts with their ranks or scores beside them."""
    if any(not isinstance(item, dict) for item in items):
        raise StoreError(f"`{name}` must hold texts alone, or objects alone")
    figured = next((key for key in (*RANKS, *SCORES) if any(key in item for item in items)), None)
    if figured is None:
        raise StoreError(f"each of `{name}` needs a `rank` or an `overall_score`; the first has {_listed(items[0])}")
    judged = [_Judged(_item_text(item, name), _badness(item, figured), _maker(item)) for item in items]
    return judged, f"{name} with {figured}"


def _badness(item: dict[str, Any], key: str) -> float | None:
    figure = _number(item.get(key))
    if figure is None and key in RANKS:
        raise StoreError(f"a `rank` must be a number, not {item.get(key)!r}")
    return figure if figure is None or key in RANKS else -figure


def _number(figure: Any) -> float | None:
    """A figure as a number, also where it is spelled as text ("8.5"); None for anything else."""
    if isinstance(figure, bool) or not isinstance(figure, int | float | str):
        return None
    try:
        number = float(figure)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _item_text(item: dict[str, Any], name: str) -> str:
    key = next((key for key in TEXTS if key in item), None)
    if key is None:
        raise StoreError(f"each of `{name}` needs a text, as `answer` or `response`; one has {_listed(item)}")
    return _text(item[key], name)


def _text(value: Any, name: str) -> str:
    """A text's own letters, as it is, without the white space around it; that of a single assistant message too."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        value = value[0].get("content")
    if not isinstance(value, str):
        raise StoreError(f"`{name}` must hold texts, not {type(value).__name__}")
    return value.strip()


def _maker(item: dict[str, Any]) -> str | None:
    maker = item.get("model")
    return maker.strip() or None if isinstance(maker, str) else None


def _listed(item: Any) -> str:
    return ", ".join(f"`{key}`" for key in item) if isinstance(item, dict) and item else "nothing"


def _told_apart(judged: Sequence[_Judged]) -> tuple[list[tuple[str, float, str | None]], list[str]]:
    """Each text once with how bad it is; and why the others were left out."""
    places: defaultdict[str, set[float]] = defaultdict(set)
    for each in judged:
        if each.badness is not None:
            places[each.text].add(each.badness)
    kept: dict[str, tuple[str, float, str | None]] = {}
    left_out: list[str] = []
    for each in judged:
        reason = _reason(each, places[each.text], kept)
        if reason is None and each.badness is not None:
            kept[each.text] = (each.text, each.badness, each.maker)
        elif reason is not None:
            left_out.append(reason.reason)
    return list(kept.values()), left_out


def _reason(each: _Judged, places: set[float], kept: dict[str, Any]) -> Unusable | None:
    if not each.text:
        return EMPTY_COMPLETION
    if each.badness is None:
        return WITHOUT_SCORE
    if len(places) > 1:
        return TWICE
    return IDENTICAL if each.text in kept else None


def two_by_two(texts: Sequence[RankedText]) -> Iterator[tuple[RankedText, RankedText]]:
    """Each two of them, the better one first; of two in one tier, as they come."""
    for number, one in enumerate(texts):
        for other in texts[number + 1 :]:
            yield (one, other) if one.tier <= other.tier else (other, one)
