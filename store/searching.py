"""Searching, sorting and counting comparisons where there are many of them: the database does it, page by page."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, TextIO

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from store.models import Annotator, Checkpoint, Comparison, Completion, Pair, Prompt, Round
from store.prompts import Message
from store.roles import require_researcher
from store.spreadsheets import safe_cell

LAST_WITH_CASE = 0x1E943  # of Unicode's letters that have a large and a small form (Adlam)
HOURLY = timedelta(days=3)  # up to this span the pace is told by the hour, beyond it by the day


class Sort(StrEnum):
    """The order of what was found."""

    NEWEST = "newest"
    OLDEST = "oldest"
    SLOWEST = "slowest"
    QUICKEST = "quickest"
    ANNOTATOR = "annotator"


@dataclass(frozen=True)
class Search:
    """What to look for; every part that is given must hold. Nothing given: all that stands.

    `text` is in the prompt, a completion or the reason, large and small letters alike. `round_id` 0: imported.
    `marked`: something was said beside the verdict. `since` and `until` are days in UTC, both included. `superseded`:
    verdicts that were taken back or changed too.
    """

    text: str = ""
    annotator_ids: tuple[int, ...] = ()
    verdicts: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    round_id: int | None = None
    marked: bool = False
    since: date | None = None
    until: date | None = None
    superseded: bool = False
    sort: Sort = Sort.NEWEST


@dataclass(frozen=True)
class Found:
    """A comparison as a line of a list. `round_number` None: imported."""

    comparison: Comparison
    annotator: str
    messages: list[Message]
    purpose: str
    round_number: int | None


def count_found(*, session: Session, search: Search) -> int:
    """How many comparisons a search finds. Raises NotAllowedError."""
    require_researcher(session=session, to="look through comparisons")
    return session.exec(select(sa.func.count()).select_from(ids_found(session, search).subquery())).one()


def find_comparisons(*, session: Session, search: Search, limit: int, offset: int = 0) -> list[Found]:
    """One page of what a search finds, in its order. Raises NotAllowedError."""
    require_researcher(session=session, to="look through comparisons")
    # The page's ids first: what is joined to them is then read for these few rows alone.
    page = _sorted(ids_found(session, search), search.sort).limit(limit).offset(offset).subquery()
    query: Any = (
        sa.select(Comparison, *_columns(Annotator.name, Prompt.messages, Pair.purpose, Round.number))
        .join(page, page.c.id == Comparison.id)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .join(Pair, col(Pair.id) == Comparison.pair_id)
        .join(Prompt, col(Prompt.id) == Pair.prompt_id)
        .outerjoin(Round, col(Round.id) == Pair.round_id)
    )
    return [Found(*row) for row in session.execute(_sorted(query, search.sort))]


def _columns(*attributes: Any) -> list[Any]:
    """A model's attributes as the columns that they are."""
    return [col(attribute) for attribute in attributes]


def _sorted(query: Any, sort: Sort) -> Any:
    number, seconds = col(Comparison.id), col(Comparison.seconds)
    if sort == Sort.ANNOTATOR:
        who = aliased(Annotator)
        name = sa.select(col(who.name)).where(col(who.id) == Comparison.annotator_id).correlate(Comparison)
        return query.order_by(name.scalar_subquery(), number.desc())
    orders = {
        Sort.OLDEST: (number,),
        Sort.SLOWEST: (seconds.desc().nulls_last(), number.desc()),
        Sort.QUICKEST: (seconds.asc().nulls_last(), number.desc()),
    }
    return query.order_by(*orders.get(sort, (number.desc(),)))


def ids_found(session: Session, search: Search) -> SelectOfScalar[int]:
    """A statement that selects the ids of what a search finds, for other statements to go on with."""
    query: SelectOfScalar[Any] = select(col(Comparison.id)).where(*_of_comparison(search))
    asks = _of_pair(session, search)
    return query.join(Pair, col(Pair.id) == Comparison.pair_id).where(*asks) if asks else query


def _of_comparison(search: Search) -> list[Any]:
    """The conditions that a comparison's own row answers."""
    asks: list[Any] = [] if search.superseded else [col(Comparison.superseded_at).is_(None)]
    if search.annotator_ids:
        asks.append(col(Comparison.annotator_id).in_(search.annotator_ids))
    if search.verdicts:
        asks.append(col(Comparison.verdict).in_(search.verdicts))
    if search.since is not None:
        asks.append(col(Comparison.created_at) >= _midnight(search.since))
    if search.until is not None:
        asks.append(col(Comparison.created_at) < _midnight(search.until) + timedelta(days=1))
    return [*asks, _marked()] if search.marked else asks


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _marked() -> Any:
    said = [sa.cast(col(column), sa.Text) for column in (Comparison.tags, Comparison.criteria, Comparison.flags)]
    return sa.or_(*(column.not_in(["[]", "{}"]) for column in said), sa.func.coalesce(Comparison.reason, "") != "")


def _of_pair(session: Session, search: Search) -> list[Any]:
    """The conditions for which a comparison's pair must be looked at."""
    asks: list[Any] = []
    if search.purposes:
        asks.append(col(Pair.purpose).in_(search.purposes))
    if search.round_id is not None:
        asks.append(col(Pair.round_id).is_(None) if search.round_id == 0 else col(Pair.round_id) == search.round_id)
    if search.text.strip():
        asks.append(_says(session, search.text.strip()))
    return asks


def _says(session: Session, text: str) -> Any:
    """Whether the prompt, a completion or the reason has this text in it.

    Asked of each comparison in turn: a page of a frequent word is full, and done with, after a few of them.
    """
    sqlite = session.get_bind().dialect.name == "sqlite"
    written, one = aliased(Completion), sa.select(sa.literal(1))
    in_completions = one.where(
        col(written.id).in_([col(Pair.completion_a_id), col(Pair.completion_b_id)]),
        _has(col(written.text), text, sqlite),
    )
    in_prompt = one.where(col(Prompt.id) == col(Pair.prompt_id), _prompt_has(text, sqlite))
    return sa.or_(
        in_completions.correlate(Pair).exists(),
        in_prompt.correlate(Pair).exists(),
        _has(col(Comparison.reason), text, sqlite),
    )


def _has(column: Any, text: str, sqlite: bool) -> Any:
    if not sqlite:
        return column.icontains(text, autoescape=True)
    if text.isascii():  # SQLite's LIKE does not tell large from small; lower() would take twice the time
        return column.contains(text, autoescape=True)
    # GLOB knows no letters that are alike: each is a class. It is slow to try a class everywhere, so that what LIKE can
    # tell comes first, and the first letter is written out.
    rough = column.like(f"%{''.join(_like(letter) if letter.isascii() else '_' for letter in text)}%", escape="/")
    rest = "".join(_glob(_alike(letter)) for letter in text[1:])
    return sa.and_(rough, sa.or_(*(column.op("GLOB")(f"*{_glob(first)}{rest}*") for first in _alike(text[0]))))


def _glob(letters: str) -> str:
    """One of these letters, for GLOB."""
    return f"[{letters}]" if len(letters) > 1 or letters in "*?[" else letters


def _like(letter: str) -> str:
    """A letter as it is, for LIKE."""
    return f"/{letter}" if letter in "/%_" else letter


def _alike(letter: str) -> str:
    """The letter with those that differ from it in case alone."""
    return _letters_alike().get(letter.casefold(), letter)


@cache
def _letters_alike() -> dict[str, str]:
    """Letters that differ in case alone, by what Unicode folds them to. Takes some 20 ms, once."""
    alike: dict[str, str] = {}
    for letter in map(chr, range(LAST_WITH_CASE + 1)):
        folded = letter.casefold()
        if folded != letter:
            alike[folded] = alike.get(folded, folded if len(folded) == 1 else "") + letter
    return alike


def _prompt_has(text: str, sqlite: bool) -> Any:
    # The JSON's own letters would do, were it not for "role", "content" and their like; but they rule most rows out.
    kept = sa.cast(col(Prompt.messages), sa.Text)
    pattern = f"%{''.join(map(_kept_letter, text))}%"
    spelled = kept.like(pattern, escape="/") if sqlite else kept.ilike(pattern, escape="/")
    each: Any = sa.func.json_each if sqlite else sa.func.json_array_elements
    turn = each(Prompt.messages).table_valued("value")
    content = sa.func.json_extract(turn.c.value, "$.content") if sqlite else turn.c.value.op("->>")("content")
    says = sa.select(sa.literal(1)).select_from(turn).where(_has(content, text, sqlite))
    return sa.and_(spelled, says.exists())


def _kept_letter(letter: str) -> str:
    """A letter as it is kept in a prompt's JSON, for LIKE; large and small ones are unlike there, if not ASCII."""
    alike = _alike(letter)
    if letter.isascii() or len(alike) == 1:
        return "".join(map(_like, json.dumps(letter)[1:-1]))
    return "\\u____" if all("\x7f" < each <= "\uffff" for each in alike) else "%"


@dataclass(frozen=True)
class Pace:
    """How many comparisons somebody made in one hour or day, whose beginning (UTC) is `moment`."""

    moment: datetime
    annotator: str
    comparisons: int


def read_pace(*, session: Session, search: Search) -> tuple[str, list[Pace]]:
    """Who made how many in each "hour" or "day", as suits the span of what is found. Raises NotAllowedError."""
    require_researcher(session=session, to="look through comparisons")
    found = ids_found(session, search).subquery()
    mine = col(Comparison.id).in_(sa.select(found.c.id))
    first, last = session.exec(
        select(sa.func.min(Comparison.created_at), sa.func.max(Comparison.created_at)).where(mine)
    ).one()
    if first is None:
        return "day", []
    unit, letters = ("hour", 13) if last - first <= HOURLY else ("day", 10)  # of "2026-01-31 23:59:59.9"
    when = sa.func.substr(sa.cast(col(Comparison.created_at), sa.Text), 1, letters)
    rows = session.execute(
        sa.select(when, col(Annotator.name), sa.func.count())
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(mine)
        .group_by(when, col(Annotator.name))
        .order_by(when)
    )
    return unit, [Pace(_moment(text), name, count) for text, name, count in rows]


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}:00" if len(text) > 10 else text).replace(tzinfo=UTC)


COLUMNS = (
    *("comparison", "made_at", "annotator", "verdict", "strength", "reason", "tags", "criteria", "flags", "seconds"),
    *("left_side", "adjudicates", "superseded_at", "pair", "purpose", "round", "prompt", "completion_a"),
    *("completion_b", "checkpoint_a", "checkpoint_b", "ranking", "selected_by"),
    "reward_margin",  # of completion_a over completion_b
)


def write_csv(*, session: Session, search: Search, stream: TextIO) -> int:
    """All that a search finds as CSV for a spreadsheet; the number of rows. Raises NotAllowedError.

    A text that a spreadsheet would take for a formula gets an apostrophe before it; exact texts are in exports.
    """
    require_researcher(session=session, to="look through comparisons")
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    number = 0
    for number, row in enumerate(session.execute(_rows(session, search)), start=1):  # noqa: B007 - the last one counts
        writer.writerow([_cell(value) for value in row])
    return number


def _rows(session: Session, search: Search) -> Any:
    a, b = aliased(Completion), aliased(Completion)
    by_a, by_b = aliased(Checkpoint), aliased(Checkpoint)
    found = ids_found(session, search).subquery()
    said = Comparison
    query = (
        sa.select(
            *_columns(said.id, said.created_at, Annotator.name, said.verdict, said.strength, said.reason, said.tags),
            *_columns(said.criteria, said.flags, said.seconds, said.left_side, said.adjudicates, said.superseded_at),
            *_columns(Pair.id, Pair.purpose, Round.number, Prompt.messages, a.text, b.text, by_a.name, by_b.name),
            *_columns(said.ranking_id, Pair.selected_by, Pair.selected_margin),
        )
        .join(found, found.c.id == said.id)
        .join(Annotator, col(Annotator.id) == said.annotator_id)
        .join(Pair, col(Pair.id) == said.pair_id)
        .join(Prompt, col(Prompt.id) == Pair.prompt_id)
        .join(a, col(a.id) == Pair.completion_a_id)
        .join(b, col(b.id) == Pair.completion_b_id)
        .outerjoin(Round, col(Round.id) == Pair.round_id)
        .outerjoin(by_a, col(by_a.id) == a.checkpoint_id)
        .outerjoin(by_b, col(by_b.id) == b.checkpoint_id)
    )
    return _sorted(query, search.sort).execution_options(yield_per=1000)


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, list) and value and isinstance(value[0], dict):  # a prompt of one turn is that turn's text
        value = value[0]["content"] if len(value) == 1 else json.dumps(value, ensure_ascii=False)
    elif isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False) if value else ""
    return safe_cell(value)
