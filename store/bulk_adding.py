"""Imported prompts and preferences -> the tables, in bulk, with the database locked for as short a time as can be.

    plan_prompts, plan_preferences, plan_gold   what of a file is new: looked up without a lock
    Plan.stage                                  those rows, into temporary tables of one connection: no lock either
    Plan.write                                  from there into the tables, one statement each, in one transaction

A plan stays true until another import ends, since nothing else writes prompts, imported completions or their pairs;
`importing.py` looks whether one did. Two texts of one prompt are one pair, whichever was chosen: `a` is the one whose
hash comes first, so the chosen one stands on either side about equally often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from store.annotators import get_or_add_annotator
from store.database import chunks
from store.errors import StateError
from store.hashing import content_hash, text_hash
from store.measuring import is_gold
from store.models import Annotator, Comparison, Completion, Pair, Prompt, Purpose, Role, Verdict
from store.pairs import draw_side_seed
from store.prompts import Message, is_held_out
from store.row_shapes import ReadGold, ReadPreference

STAGED_AT_ONCE = 5000  # rows between two words about the progress
Progress = Callable[[str, int, int], None]  # phase ("reading", "preparing", "writing"), done, in all (0: unknown)
Row = dict[str, Any]
AnyPlan = TypeVar("AnyPlan", bound="Plan")
PairKey = tuple[str, str, str]  # prompt hash, and the two text hashes in their own order


@dataclass(frozen=True)
class Origin:
    """Where imported rows come from."""

    source: str
    held_out_share: float
    report_progress: Progress

    @property
    def annotator(self) -> str:
        """The name under which the source's opinions are kept."""
        return f"import:{self.source}"[:80]


# Temporary tables: of one connection, gone with it. `id` keeps the file's order, whatever the database makes of a join.
_STAGING = sa.MetaData()


def staging(name: str, *columns: sa.Column[Any]) -> sa.Table:
    """A temporary table with these columns."""
    return sa.Table(name, _STAGING, sa.Column("id", sa.Integer, primary_key=True), *columns, prefixes=["TEMPORARY"])


_PROMPTS = staging(
    "staged_prompt",
    sa.Column("content_hash", sa.String),
    sa.Column("messages", sa.JSON),
    sa.Column("held_out", sa.Boolean),
)
_TEXTS = staging(
    "staged_text",
    sa.Column("prompt_hash", sa.String),
    sa.Column("text", sa.String),
    sa.Column("text_hash", sa.String),
    sa.Column("maker", sa.String),
)
VOTES = staging(
    "staged_vote",
    sa.Column("prompt_hash", sa.String),
    sa.Column("a_hash", sa.String),
    sa.Column("b_hash", sa.String),
    sa.Column("side_seed", sa.BigInteger),
    sa.Column("verdict", sa.String),
    sa.Column("note", sa.String),
    sa.Column("slate_hash", sa.String),
)


class Holds(StrEnum):
    """What is written of a plan: its prompts alone, somebody's opinions, or gold pairs, which are nobody's opinion."""

    PROMPTS = "prompts"
    OPINIONS = "opinions"
    RANKINGS = "rankings"
    GOLD = "gold"


@dataclass
class Plan:
    """What of a file is new, as rows to stage. `counts` has the names of ImportReport's fields."""

    origin: Origin
    holds: Holds
    prompts: list[Row]
    texts: list[Row] = field(default_factory=list)  # those of new votes; some may be in the database
    votes: list[Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def staged(self) -> dict[sa.Table, list[Row]]:
        """The rows for each temporary table."""
        return {_PROMPTS: self.prompts, _TEXTS: self.texts, VOTES: self.votes}

    def stage(self, session: Session) -> None:
        """Put the rows into temporary tables, whose writing keeps nobody waiting."""
        staged = self.staged()
        done, total = 0, sum(len(rows) for rows in staged.values())
        _STAGING.create_all(session.connection())
        for table, rows in staged.items():
            for chunk in chunks(rows, STAGED_AT_ONCE):
                self.origin.report_progress("preparing", done, total)
                session.connection().execute(sa.insert(table), list(chunk))
                done += len(chunk)

    def write(self, session: Session, import_id: int) -> None:
        """Move what is staged into the tables. Raises StateError for a source that was retracted."""
        done, total = 0, len(self.votes) or len(self.prompts)
        self.origin.report_progress("writing", done, total)
        session.execute(insert_prompts(self.origin, import_id))
        if self.holds != Holds.PROMPTS:
            session.execute(insert_completions(self.origin))
            counted = {"preserve_rowcount": True}  # which PostgreSQL's driver would not keep of an INSERT as it is
            written = session.connection().execute(self._last_statement(session), execution_options=counted).rowcount
            assert written == len(self.votes)  # each vote found its texts: the report tells of no other
        self.origin.report_progress("writing", total, total)

    def _last_statement(self, session: Session) -> sa.Insert:
        """What the votes become: gold pairs, or comparisons of pairs that are there once this returns."""
        if self.holds == Holds.GOLD:
            return _insert_gold_pairs()
        session.execute(_insert_pairs())
        return _insert_comparisons(source_annotator(session, self.origin))


def plan_prompts(session: Session, origin: Origin, found: Sequence[list[Message]]) -> Plan:
    """What to write of these prompts."""
    prompts = {content_hash(messages): messages for messages in found}
    plan = new_plan(Plan, origin, prompts, known_prompts(session, prompts), Holds.PROMPTS)
    plan.counts["duplicates"] = len(found) - len(plan.prompts)
    return plan


def plan_preferences(session: Session, origin: Origin, found: Sequence[ReadPreference], *, own_opinion: bool) -> Plan:
    """What to write of these preferences.

    With `own_opinion` only what this source said before is known, else what anybody said.
    """
    votes = [_vote(preference) for preference in found]
    said = said_by(origin.annotator if own_opinion else None)
    return _plan_votes(session, origin, votes, Holds.OPINIONS, said, counted_as="comparisons_added")


def plan_gold(session: Session, origin: Origin, found: Sequence[ReadGold]) -> Plan:
    """What to write of these gold pairs. Two texts that are a gold pair already are known."""
    votes = [_vote(gold.preference, gold.note) for gold in found]
    return _plan_votes(session, origin, votes, Holds.GOLD, _gold_verdicts(), counted_as="gold_added")


def _plan_votes(
    session: Session, origin: Origin, votes: Sequence[_Vote], holds: Holds, said: sa.Select[Any], *, counted_as: str
) -> Plan:
    prompts = {vote.prompt_hash: vote.preference.messages for vote in votes}
    known = known_prompts(session, prompts)
    plan = new_plan(Plan, origin, prompts, known, holds)
    fresh = _new_votes(plan.counts, known_verdicts(session, known, said), votes)
    plan.texts, plan.votes = _text_rows(fresh), [_vote_row(vote) for vote in fresh]
    plan.counts[counted_as] = len(fresh)
    plan.counts["joined_turns"] = sum(vote.preference.joined_turns for vote in votes)
    return plan


def new_plan(
    kind: type[AnyPlan], origin: Origin, prompts: dict[str, list[Message]], known: set[str], holds: Holds
) -> AnyPlan:
    """A plan with those of these prompts, by their hashes, that are not known."""
    rows: list[Row] = [
        {"content_hash": hashed, "messages": messages, "held_out": is_held_out(hashed, share=origin.held_out_share)}
        for hashed, messages in prompts.items()
        if hashed not in known
    ]
    plan = kind(origin, holds, rows)
    plan.counts["prompts_added"] = len(rows)
    plan.counts["held_out"] = sum(row["held_out"] for row in rows)
    return plan


def known_prompts(session: Session, hashes: Iterable[str]) -> set[str]:
    """Which of these prompts are in the database."""
    known: set[str] = set()
    for chunk in chunks(list(hashes)):
        known.update(session.exec(select(Prompt.content_hash).where(col(Prompt.content_hash).in_(chunk))))
    return known


@dataclass(frozen=True)
class _Vote:
    """A preference with its hashes."""

    preference: ReadPreference
    prompt_hash: str
    chosen_hash: str
    rejected_hash: str
    note: str | None

    @property
    def key(self) -> PairKey:
        first, second = sorted((self.chosen_hash, self.rejected_hash))
        return self.prompt_hash, first, second


def _vote(preference: ReadPreference, note: str | None = None) -> _Vote:
    hashes = text_hash(preference.chosen), text_hash(preference.rejected)
    return _Vote(preference, content_hash(preference.messages), *hashes, note)


def _new_votes(counts: Counter[str], said: dict[PairKey, str], votes: Sequence[_Vote]) -> list[_Vote]:
    """The votes on pairs nobody voted on yet; the others are counted. `said` learns of each."""
    fresh = []
    for vote in votes:
        before = said.setdefault(vote.key, "")
        if not before:
            said[vote.key] = vote.chosen_hash
            fresh.append(vote)
        else:
            counts["duplicates" if before == vote.chosen_hash else "contradictions"] += 1
    return fresh


def _text_rows(votes: Sequence[_Vote]) -> list[Row]:
    texts: dict[tuple[str, str], str] = {}
    for vote in votes:
        texts[vote.prompt_hash, vote.chosen_hash] = vote.preference.chosen
        texts[vote.prompt_hash, vote.rejected_hash] = vote.preference.rejected
    return [{"prompt_hash": asked, "text_hash": hashed, "text": text} for (asked, hashed), text in texts.items()]


def _vote_row(vote: _Vote) -> Row:
    prompt_hash, a_hash, b_hash = vote.key
    verdict = Verdict.A if vote.chosen_hash == a_hash else Verdict.B
    seed = draw_side_seed(prompt_hash, a_hash, b_hash, None)
    named = {"prompt_hash": prompt_hash, "a_hash": a_hash, "b_hash": b_hash}
    return named | {"side_seed": seed, "verdict": verdict, "note": vote.note}


def known_verdicts(session: Session, prompt_hashes: Iterable[str], said: sa.Select[Any]) -> dict[PairKey, str]:
    """What was `said` about pairs of these prompts: the chosen text's hash, or "tie"."""
    known: dict[PairKey, str] = {}
    for chunk in chunks(sorted(prompt_hashes)):
        for asked, hash_a, hash_b, verdict in session.execute(said.where(col(Prompt.content_hash).in_(chunk))):
            first, second = sorted((hash_a, hash_b))
            known[asked, first, second] = {Verdict.A: hash_a, Verdict.B: hash_b}.get(verdict, Verdict.TIE.value)
    return known


def said_by(annotator: str | None) -> sa.Select[Any]:
    """What stands on pairs that are trained on; by anybody not retracted, or by one."""
    return (
        _sides(col(Comparison.verdict))
        .join(Comparison, col(Comparison.pair_id) == col(Pair.id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(col(Comparison.superseded_at).is_(None), _tells())
        .where(col(Pair.purpose) == Purpose.TRAIN)
        .where(col(Annotator.retracted_at).is_(None) if annotator is None else col(Annotator.name) == annotator)
        .order_by(col(Comparison.id).desc())  # so that the first one said is the one that stays in the dictionary
    )


def _tells() -> Any:
    """Whether a comparison says what a file could say: a side; in a ranking a tie as well."""
    tie = (col(Comparison.verdict) == Verdict.TIE) & col(Comparison.ranking_id).is_not(None)
    return col(Comparison.verdict).in_([Verdict.A, Verdict.B]) | tie


def _gold_verdicts() -> sa.Select[Any]:
    return _sides(col(Pair.gold_verdict)).where(*is_gold())


def _sides(verdict: Any) -> sa.Select[Any]:
    """Prompt hash, the hashes of `a` and `b`, and this verdict, of pairs."""
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    return (
        sa.select(col(Prompt.content_hash), a.c.text_hash, b.c.text_hash, verdict)
        .join(Pair, col(Pair.prompt_id) == col(Prompt.id))
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
    )


def source_annotator(session: Session, origin: Origin) -> int:
    """The number of whoever the source's opinions are kept under. Raises StateError if they were retracted."""
    annotator = get_or_add_annotator(session=session, name=origin.annotator, role=Role.SOURCE)
    if annotator.retracted_at is not None:
        raise StateError(f"{annotator.name!r} was retracted. Nothing was imported; name another source.")
    assert annotator.id is not None
    return annotator.id


def insert_prompts(origin: Origin, import_id: int) -> sa.Insert:
    """What is new of the prompts, as rows of their table."""
    rows = sa.select(
        _PROMPTS.c.content_hash,
        _PROMPTS.c.messages,
        _PROMPTS.c.held_out,
        sa.literal(origin.source),
        sa.literal(import_id),
    ).order_by(_PROMPTS.c.id)
    return sa.insert(Prompt).from_select(["content_hash", "messages", "held_out", "source", "import_id"], rows)


def insert_completions(origin: Origin) -> sa.Insert:
    """What is new of the texts, as rows of their table."""
    known = sa.exists().where(*is_imported(Completion, col(Prompt.id), _TEXTS.c.text_hash))
    source = sa.func.coalesce(sa.literal(f"{origin.source}: ") + _TEXTS.c.maker, sa.literal(origin.source))
    rows = (
        sa.select(col(Prompt.id), _TEXTS.c.text, _TEXTS.c.text_hash, source)
        .select_from(_TEXTS)
        .join(Prompt, col(Prompt.content_hash) == _TEXTS.c.prompt_hash)
        .where(~known)
        .order_by(_TEXTS.c.id)
    )
    return sa.insert(Completion).from_select(["prompt_id", "text", "text_hash", "source"], rows)


def is_imported(completion: Any, prompt_id: Any, hashed: Any) -> tuple[Any, ...]:
    """Whether an imported completion has this prompt and this text: conditions."""
    return completion.prompt_id == prompt_id, completion.text_hash == hashed, completion.checkpoint_id.is_(None)


def staged_votes(*columns: Any) -> tuple[sa.Select[Any], Any, Any]:
    """These columns of each vote, joined with its prompt and with its completions `a` and `b`."""
    a, b = aliased(Completion), aliased(Completion)
    joined = (
        sa.select(*columns)
        .select_from(VOTES)
        .join(Prompt, col(Prompt.content_hash) == VOTES.c.prompt_hash)
        .join(a, sa.and_(*is_imported(a, col(Prompt.id), VOTES.c.a_hash)))
        .join(b, sa.and_(*is_imported(b, col(Prompt.id), VOTES.c.b_hash)))
        .order_by(VOTES.c.id)
    )
    return joined, a, b


def _insert_pairs() -> sa.Insert:
    votes, a, b = staged_votes(col(Prompt.id), VOTES.c.side_seed, sa.literal(0), sa.literal(0))
    known = sa.exists().where(*is_pair(a, b))
    rows = votes.add_columns(a.id, b.id).where(~known)
    names = ["prompt_id", "side_seed", "wanted", "open_slots", "completion_a_id", "completion_b_id"]
    return sa.insert(Pair).from_select(names, rows)


def _insert_gold_pairs() -> sa.Insert:
    known = sa.literal(Purpose.GOLD.value), sa.literal(0), sa.literal(0)  # any number of people may judge one, or none
    votes, a, b = staged_votes(col(Prompt.id), VOTES.c.side_seed, VOTES.c.verdict, VOTES.c.note, *known)
    names = ["prompt_id", "side_seed", "gold_verdict", "note", "purpose", "wanted", "open_slots"]
    return sa.insert(Pair).from_select([*names, "completion_a_id", "completion_b_id"], votes.add_columns(a.id, b.id))


def is_pair(a: Any, b: Any) -> tuple[Any, ...]:
    """Whether a pair is that of these two completions: conditions on `Pair`."""
    return col(Pair.completion_a_id) == a.id, col(Pair.completion_b_id) == b.id, col(Pair.purpose) == Purpose.TRAIN


def _insert_comparisons(annotator_id: int) -> sa.Insert:
    votes, a, b = staged_votes(sa.literal(annotator_id), VOTES.c.verdict)
    rows = votes.add_columns(col(Pair.id)).join(Pair, sa.and_(*is_pair(a, b)))
    return sa.insert(Comparison).from_select(["annotator_id", "verdict", "pair_id"], rows)
