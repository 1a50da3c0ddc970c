"""Who taught a checkpoint: whose comparisons a snapshot holds, and which checkpoints somebody's comparisons touched.

    who_taught      whose comparisons a snapshot holds, and how many of each
    touched_by      the checkpoints trained on somebody's comparisons, and all that descend from these
    touches         the same for several people at once
    makeup          what a snapshot's pairs are: imported, ranked, decided by a researcher, judged by several

Comparisons in a snapshot are told by time: those that stood when it was cut, by people who were not retracted by then,
in the rounds of its filter, and on two texts that it has a row for. They add up to what its manifest says was used.
What comes out the same is the same snapshot, so that each training has a moment of its own (`ancestry.cut_moments`).
Only training counts as touching: held-out comparisons judge a checkpoint and duels promote it, but neither is in its
weights. (With `confidence = "reliability"` both also tell how far labels are believed; that is not followed here.)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.ancestry import cut_moments
from store.annotators import get_annotator
from store.checkpoints import list_checkpoints
from store.errors import SnapshotError
from store.hashing import text_hash
from store.models import (
    TRAINED_ON,
    Annotator,
    Checkpoint,
    Comparison,
    Completion,
    Pair,
    Prompt,
    Purpose,
    Round,
    Snapshot,
    Verdict,
)
from store.roles import require_researcher
from store.snapshot_filter import SnapshotFilter, rounds_asked_for
from store.snapshots import read_snapshot, rows_to_train_on

Texts = tuple[str, ...]  # the hashes of a prompt and of the two texts, these in an order of their own


@dataclass(frozen=True)
class Contribution:
    """How many of somebody's comparisons are in a snapshot: to train on, and to judge by (held out)."""

    annotator: str
    role: str
    retracted: bool
    trained: int
    held_out: int


@dataclass(frozen=True)
class Teaching:
    """Whose comparisons are in a snapshot, most of them first.

    `exact` False: the snapshot's files are gone, so that whatever could have gone into it is counted.
    """

    by: list[Contribution]
    exact: bool

    @property
    def trained(self) -> int:
        """Comparisons that were trained on."""
        return sum(each.trained for each in self.by)


def who_taught(*, session: Session, snapshot: Snapshot, folder: Path, at: datetime | None = None) -> Teaching:
    """Whose comparisons a snapshot of the workspace `folder` holds, as it was cut `at` this moment: at first if None.

    Raises NotAllowedError.
    """
    require_researcher(session=session, to="look through the lineage")
    kept = _kept(snapshot, folder)
    counts = _counted(_votes(session, snapshot, at or snapshot.created_at), kept)
    people = {each.id: each for each in session.exec(select(Annotator).where(col(Annotator.id).in_(counts)))}
    by = [
        Contribution(who.name, who.role, who.retracted_at is not None, said[False], said[True])
        for number, said in counts.items()
        for who in [people[number]]
    ]
    return Teaching(sorted(by, key=lambda each: (-each.trained, -each.held_out, each.annotator)), kept is not None)


def _kept(snapshot: Snapshot, folder: Path) -> set[Texts] | None:
    """The texts that the snapshot has rows for; None where its files are gone or changed."""
    try:
        rows = [*rows_to_train_on(snapshot=snapshot, folder=folder), *_test_rows(snapshot, folder)]
    except SnapshotError:
        return None
    return {(row["prompt_hash"], *sorted((text_hash(row["chosen"]), text_hash(row["rejected"])))) for row in rows}


def _test_rows(snapshot: Snapshot, folder: Path) -> list[dict[str, Any]]:
    return read_snapshot(snapshot=snapshot, folder=folder, split="test")


def _counted(votes: Iterator[tuple[int, bool, Texts]], kept: set[Texts] | None) -> dict[int | None, Counter[bool]]:
    """By annotator: how many of the votes count, those on held-out prompts (True) apart."""
    found: dict[int | None, Counter[bool]] = {}
    for annotator, held_out, texts in votes:
        if kept is None or texts in kept:
            found.setdefault(annotator, Counter())[held_out] += 1
    return found


def _votes(
    session: Session, snapshot: Snapshot, at: datetime, of: Collection[int] | None = None
) -> Iterator[tuple[int, bool, Texts]]:
    """Every vote (of these annotators) that the snapshot could be cut from then: whose, whether held out, on what."""
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    columns = col(Comparison.annotator_id), col(Prompt.held_out), col(Prompt.content_hash), a.c.text_hash, b.c.text_hash
    query = (
        sa.select(*columns)
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Prompt, col(Prompt.id) == col(Pair.prompt_id))
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
        .outerjoin(Round, col(Round.id) == col(Pair.round_id))
        .where(*_went_in(snapshot, at))
    )
    theirs = query if of is None else query.where(col(Comparison.annotator_id).in_(of))
    for who, held_out, prompt, one, other in session.execute(theirs):
        yield who, held_out, (prompt, *sorted((one, other)))


def _went_in(snapshot: Snapshot, at: datetime) -> tuple[Any, ...]:
    """Conditions on a comparison: it stood when the snapshot was cut, and its filter let it through."""
    asked = snapshot.manifest["filter"]
    rounds = asked["round_numbers"]
    covers = SnapshotFilter(
        round_numbers=None if rounds is None else tuple(rounds), include_imported=asked["include_imported"]
    )
    return (
        col(Comparison.created_at) <= at,
        _not_before(col(Comparison.superseded_at), at),
        _not_before(col(Annotator.retracted_at), at),
        col(Annotator.name).not_in(asked["exclude_annotators"]),
        col(Pair.purpose).in_(TRAINED_ON),
        col(Comparison.verdict) != Verdict.SKIP,
        rounds_asked_for(covers),
    )


def _not_before(column: Any, at: datetime) -> Any:
    return column.is_(None) | (column > at)


@dataclass(frozen=True)
class Touch:
    """A checkpoint with somebody's comparisons in its weights.

    `comparisons`: those it was trained on itself; 0 where it only descends from one that was. `inherited_from`: the
    nearest such forebear; empty where none was.
    """

    checkpoint: str
    comparisons: int
    inherited_from: str
    exact: bool = True


def touched_by(*, session: Session, folder: Path, name: str) -> list[Touch]:
    """The checkpoints that an annotator's or a source's comparisons touched, oldest first.

    Whoever was retracted is found all the same: in what was trained before. Raises UnknownRecordError, NotAllowedError.
    """
    return touches(session=session, folder=folder, names=[name])[name]


def touches(*, session: Session, folder: Path, names: Sequence[str]) -> dict[str, list[Touch]]:
    """`touched_by` for each of these; however many they are, every snapshot is read once."""
    require_researcher(session=session, to="look through the lineage")
    ids = {name: get_annotator(session=session, name=name).id or 0 for name in names}
    every = list_checkpoints(session=session)
    learned = _learned(session, folder, every, list(ids.values())) if ids else {}
    return {name: _touched(every, learned, number) for name, number in ids.items()}


Learned = dict[int | None, tuple[dict[int | None, Counter[bool]], bool]]  # by checkpoint: votes by annotator, exact


def _learned(session: Session, folder: Path, every: Sequence[Checkpoint], who: Collection[int]) -> Learned:
    """How many comparisons of these people each checkpoint was trained on and judged by."""
    cuts, trained = cut_moments(session=session), defaultdict(list)
    for entry in every:
        if entry.snapshot_id is not None:
            trained[entry.snapshot_id].append(entry)
    found: Learned = {}
    for number, checkpoints in trained.items():
        snapshot = session.get_one(Snapshot, number)
        kept = _kept(snapshot, folder)
        for at in {cuts[entry.id] for entry in checkpoints}:
            said = _counted(_votes(session, snapshot, at, who), kept)
            found |= {entry.id: (said, kept is not None) for entry in checkpoints if cuts[entry.id] == at}
    return found


def _touched(every: Sequence[Checkpoint], learned: Learned, who: int) -> list[Touch]:
    found: dict[int | None, Touch] = {}
    for entry in every:  # parents first: nothing is trained from what is not there yet
        said, exact = learned.get(entry.id, ({}, True))
        own = said.get(who, Counter())[False]
        parent = found.get(entry.parent_id)
        above = "" if parent is None else parent.checkpoint if parent.comparisons else parent.inherited_from
        if own or above:
            found[entry.id] = Touch(entry.name, own, above, exact)
    return list(found.values())


@dataclass(frozen=True)
class Makeup:
    """What the pairs (and ties) to train on are, counted.

    `agreement`: of the pairs that `several` annotators judged, the mean share of votes for what was chosen.
    `naming_makers`: pairs with a completion that says which model wrote it. `sources`: who wrote the completions.
    """

    pairs: int
    imported: int
    rewrites: int
    ranked: int
    adjudicated: int
    several: int
    agreement: float | None
    naming_makers: int
    sources: dict[str, int]


def makeup(*, session: Session, snapshot: Snapshot, folder: Path) -> Makeup:
    """What a snapshot's pairs are. Raises SnapshotError where its files are gone or changed, NotAllowedError."""
    require_researcher(session=session, to="look through the lineage")
    rows = rows_to_train_on(snapshot=snapshot, folder=folder)
    several = [row["agreement"] for row in rows if row["annotators"] > 1]
    naming = set(session.exec(select(Completion.text_hash).where(col(Completion.names_maker))))
    sides = ("chosen", "rejected")
    return Makeup(
        pairs=len(rows),
        imported=sum(row["round"] is None and row["purpose"] != Purpose.REWRITE for row in rows),
        rewrites=sum(row["purpose"] == Purpose.REWRITE for row in rows),
        ranked=sum(row.get("ranking") is not None for row in rows),
        adjudicated=sum(row.get("adjudicated", False) for row in rows),
        several=len(several),
        agreement=sum(several) / len(several) if several else None,
        naming_makers=sum(any(text_hash(row[side]) in naming for side in sides) for row in rows) if naming else 0,
        sources=dict(Counter(row[f"{side}_source"] for row in rows for side in sides).most_common()),
    )
