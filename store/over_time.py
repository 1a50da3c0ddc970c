"""What was chosen, and how far annotators agreed, by day or week, among the comparisons that a search finds.

Counted is what tells how people compare (store/answers.py): not what imports brought, nor practice, nor what a
researcher decided. Days are UTC's, weeks begin on Monday.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from sqlmodel import Session

from store.agreement import who_met
from store.answers import BOTH_BAD, NONE, SKIP, TIE, Answers, B, Flags, Floats, read_answers
from store.intervals import Estimate, share_of
from store.roles import require_researcher
from store.searching import Search, ids_found

DAILY = 60  # days; what took longer is told by the week
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Choices:
    """What was said in one day or week, by the side that was seen, and how often left was chosen rather than right."""

    moment: datetime
    left: int
    right: int
    tie: int
    both_bad: int
    skip: int
    left_share: Estimate


@dataclass(frozen=True)
class Agreed:
    """Of every two verdicts on one pair, the later given in this day or week: the share that are the same."""

    moment: datetime
    share: Estimate


def read_choices(*, session: Session, search: Search) -> tuple[str, list[Choices]]:
    """What was chosen in each "day" or "week", as suits the span of what is found. Raises NotAllowedError.

    Nothing of rankings: in these nothing stood left or right, and one that was skipped would count as many skips.
    """
    said = _answers(session, search)
    said = said.where(said.ranking == NONE)
    said = said.where((said.left != NONE) | (said.verdict > B))  # a side that nobody saw is neither left nor right
    unit, parts = _parts(said.moment)
    return unit, [_choices(moment, said.where(part)) for moment, part in parts]


def _choices(moment: datetime, said: Answers) -> Choices:
    sides = said.where(said.verdict <= B)
    left = sides.verdict == sides.left
    tie, both_bad, skip = (int((said.verdict == each).sum()) for each in (TIE, BOTH_BAD, SKIP))
    share = share_of(left.astype(float).tolist(), sides.prompt.tolist())
    return Choices(moment, int(left.sum()), int((~left).sum()), tie, both_bad, skip, share)


def read_agreement(*, session: Session, search: Search) -> tuple[str, list[Agreed]]:
    """How far every two annotators said the same of a pair, in each "day" or "week". Raises NotAllowedError."""
    said = _answers(session, search).first_time
    earlier, later = who_met(said)
    same = (said.verdict[earlier] == said.verdict[later]).astype(float)
    prompt = said.prompt[earlier]
    unit, parts = _parts(np.maximum(said.moment[earlier], said.moment[later]))
    return unit, [Agreed(moment, share_of(same[part].tolist(), prompt[part].tolist())) for moment, part in parts]


def _answers(session: Session, search: Search) -> Answers:
    require_researcher(session=session, to="look through comparisons")
    return read_answers(session=session, among=ids_found(session, search))


def _parts(moments: Floats) -> tuple[str, Iterator[tuple[datetime, Flags]]]:
    """Days or weeks, oldest first: the beginning of each in which there is something, and which entries are in it."""
    days = (moments // DAY_SECONDS).astype(np.int64)
    daily = not len(days) or days.max() - days.min() <= DAILY
    begins = days if daily else (days + 3) // 7 * 7 - 3  # 1970 began on a Thursday
    found = ((_midnight(begin), begins == begin) for begin in np.unique(begins))
    return "day" if daily else "week", found


def _midnight(day: np.int64) -> datetime:
    return datetime.fromtimestamp(int(day) * DAY_SECONDS, UTC)
