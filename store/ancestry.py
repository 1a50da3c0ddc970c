"""Checkpoints as a family: what each came from, who taught it, and which of them somebody's comparisons touched.

    read_ancestry   every checkpoint with its parent, run, snapshot and decisions; reads no files
    who_taught      whose comparisons a snapshot holds, and how many of each
    makeup          what a snapshot's pairs are: imported, ranked, decided by a researcher, judged by several
    touched_by      the checkpoints trained on somebody's comparisons, and all that descend from these

Comparisons in a snapshot are told by time: those that stood when it was cut, by people who were not retracted by then,
in the rounds of its filter, and on two texts that it has a row for. They add up to what its manifest says was used.
Only training counts as touching: held-out comparisons judge a checkpoint and duels promote it, but neither is in its
weights. (With `confidence = "reliability"` both also tell how far labels are believed; that is not followed here.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.annotators import get_annotator
from store.checkpoints import BASE, list_checkpoints
from store.decision_tables import DecisionRecord
from store.decisions import list_decisions, serving_checkpoint
from store.duels import all_met
from store.errors import SnapshotError
from store.hashing import text_hash
from store.models import (
    TRAINED_ON,
    Annotator,
    Checkpoint,
    Comparison,
    Completion,
    Decision,
    Pair,
    Prompt,
    Purpose,
    Round,
    Run,
    RunKind,
    RunStatus,
    Snapshot,
    Verdict,
)
from store.preferences import SnapshotFilter, rounds_asked_for
from store.roles import require_researcher
from store.rounds import list_rounds
from store.snapshots import read_snapshot, rows_to_train_on

Texts = tuple[str, ...]  # the hashes of a prompt and of the two texts, these in an order of their own


@dataclass(frozen=True)
class Ancestry:
    """One checkpoint and what it came from; None and empty where there is no such thing, as for the base.

    `children` are the names of those trained from it; `met` of those it was duelled with. `decisions`: those about it
    and those that let it serve, oldest first. `run`: the training that made it, alone or as a point of a sweep.
    """

    checkpoint: Checkpoint
    parent: str | None
    children: list[str]
    run: Run | None
    round: Round | None
    snapshot: Snapshot | None
    decisions: list[DecisionRecord]
    met: list[str]
    standing: str  # base, serving, served before, kept back, undecided, not picked

    @property
    def name(self) -> str:
        """The checkpoint's."""
        return self.checkpoint.name

    @property
    def decided(self) -> DecisionRecord | None:
        """What was decided when its round was closed; None before that, and for what a sweep did not go on with."""
        about = [entry for entry in self.decisions if entry.about_id == self.checkpoint.id]
        return next((entry for entry in about if entry.action != Decision.ROLL_BACK), None)


def read_ancestry(*, session: Session) -> list[Ancestry]:
    """Every checkpoint, oldest first. Raises NotAllowedError."""
    require_researcher(session=session, to="look through the lineage")
    every = list_checkpoints(session=session)
    names = {entry.id: entry.name for entry in every}
    decisions, rounds, met = list_decisions(session=session), list_rounds(session=session), all_met(session=session)
    runs = _makers(session)
    serving = serving_checkpoint(session=session).name if every else ""
    return [
        Ancestry(
            checkpoint=entry,
            parent=names.get(entry.parent_id),
            children=[other.name for other in every if other.parent_id == entry.id],
            run=(run := runs.get(entry.name)),
            round=(opened := _round_of(entry, run, rounds)),
            snapshot=session.get(Snapshot, entry.snapshot_id) if entry.snapshot_id else None,
            decisions=[one for one in decisions if entry.id in (one.about_id, one.checkpoint_id)],
            met=_opponents(entry, met, names),
            standing="serving" if entry.name == serving else _standing(entry, opened),
        )
        for entry in every
    ]


def _makers(session: Session) -> dict[str, Run]:
    """The train run that made each checkpoint, by the checkpoint's name."""
    done = select(Run).where(Run.kind == RunKind.TRAIN, Run.status == RunStatus.DONE).order_by(col(Run.id))
    found: dict[str, Run] = {}
    for run in session.exec(done):
        names = [point["checkpoint"] for point in run.result.get("sweep", [])]
        made = session.get(Checkpoint, run.checkpoint_id) if run.checkpoint_id else None
        found |= dict.fromkeys([*names, *([made.name] if made else [])], run)
    return found


def _round_of(entry: Checkpoint, run: Run | None, rounds: Sequence[Round]) -> Round | None:
    number = run.round_id if run is not None else None
    of_it = (each for each in rounds if each.id == number or each.result_checkpoint_id == entry.id)
    return next(of_it, None)


def _opponents(entry: Checkpoint, met: Iterable[tuple[int, int]], names: dict[int | None, str]) -> list[str]:
    ids = {old if new == entry.id else new for new, old in met if entry.id in (new, old)}
    return [names[number] for number in sorted(ids)]


def _standing(entry: Checkpoint, opened: Round | None) -> str:
    if entry.name == BASE:
        return "base"
    if entry.verdict is None:
        return "undecided" if opened is not None and opened.result_checkpoint_id == entry.id else "not picked"
    return "served before" if entry.verdict == Decision.PROMOTE else "kept back"


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


def who_taught(*, session: Session, snapshot: Snapshot, folder: Path) -> Teaching:
    """Whose comparisons a snapshot of the workspace `folder` holds. Raises NotAllowedError."""
    require_researcher(session=session, to="look through the lineage")
    kept = _kept(snapshot, folder)
    counts = _counted(_votes(session, snapshot), kept)
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


def _votes(session: Session, snapshot: Snapshot, annotator_id: int | None = None) -> Iterator[tuple[int, bool, Texts]]:
    """Every vote (of one annotator) that the snapshot could be cut from: whose, whether held out, and on what."""
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
        .where(*_went_in(snapshot))
    )
    mine = query if annotator_id is None else query.where(col(Comparison.annotator_id) == annotator_id)
    for who, held_out, prompt, one, other in session.execute(mine):
        yield who, held_out, (prompt, *sorted((one, other)))


def _went_in(snapshot: Snapshot) -> tuple[Any, ...]:
    """Conditions on a comparison: it stood when the snapshot was cut, and its filter let it through."""
    at, asked = snapshot.created_at, snapshot.manifest["filter"]
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
    require_researcher(session=session, to="look through the lineage")
    who = get_annotator(session=session, name=name)
    every = list_checkpoints(session=session)
    known: dict[int | None, tuple[int, bool]] = {None: (0, True)}
    found: dict[int | None, Touch] = {}
    for entry in every:  # parents first: nothing is trained from what is not there yet
        if entry.snapshot_id not in known:
            known[entry.snapshot_id] = _trained_on(session, entry.snapshot_id, folder, who.id)
        own, exact = known[entry.snapshot_id]
        parent = found.get(entry.parent_id)
        above = "" if parent is None else parent.checkpoint if parent.comparisons else parent.inherited_from
        if own or above:
            found[entry.id] = Touch(entry.name, own, above, exact)
    return list(found.values())


def _trained_on(session: Session, snapshot_id: int | None, folder: Path, who: int | None) -> tuple[int, bool]:
    snapshot = session.get_one(Snapshot, snapshot_id)
    kept = _kept(snapshot, folder)
    return _counted(_votes(session, snapshot, who), kept).get(who, Counter())[False], kept is not None


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
