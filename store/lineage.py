"""Where a comparison comes from and where it went: its pair's whole history, who wrote what, and the snapshots."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlmodel import Session, col, select

from store.ancestry import cut_moments
from store.errors import UnknownRecordError
from store.hashing import text_hash
from store.models import Annotator, Checkpoint, Comparison, Completion, Pair, Prompt, Round, Snapshot
from store.pairs import get_pair
from store.ranking_tables import Ranking
from store.roles import require_researcher
from store.slates import slate_completions
from store.snapshots import list_snapshots


@dataclass(frozen=True)
class Said:
    """One verdict on a pair, standing or not, and whose it is."""

    comparison: Comparison
    annotator: Annotator


@dataclass(frozen=True)
class Lineage:
    """All that is known of one comparison's pair. `history`: every verdict on it by anybody, oldest first.

    `makers`: the checkpoints that wrote `a` and `b`; none for imported texts and rewrites. `ranking`: what the
    comparison came of; `ranked`: all that it ranked, by their places. None where the two were compared by themselves.
    """

    comparison: Comparison
    annotator: Annotator
    pair: Pair
    prompt: Prompt
    completions: dict[str, Completion]
    makers: dict[str, Checkpoint | None]
    round: Round | None
    history: list[Said]
    ranking: Ranking | None
    ranked: list[Completion]


@dataclass(frozen=True)
class SnapshotUse:
    """A snapshot that holds a comparison's pair, cut while the comparison stood: at first, or anew for a training.

    `split`: `train`, `test` (held out) or `ties`. `chosen`: which completion is chosen there. `trained`: the
    checkpoints that were trained on the snapshot while the comparison stood.
    """

    snapshot: Snapshot
    split: str
    chosen: str
    trained: list[str]


def trace_comparison(*, session: Session, comparison_id: int) -> Lineage:
    """Where a comparison comes from. Raises UnknownRecordError, NotAllowedError."""
    require_researcher(session=session, to="look through comparisons")
    comparison = session.get(Comparison, comparison_id)
    if comparison is None:
        raise UnknownRecordError(f"There is no comparison {comparison_id}.")
    pair, prompt = get_pair(session=session, pair_id=comparison.pair_id)
    sides = {"a": pair.completion_a_id, "b": pair.completion_b_id}
    completions = {side: session.get_one(Completion, number) for side, number in sides.items()}
    ranking = session.get(Ranking, comparison.ranking_id) if comparison.ranking_id else None
    return Lineage(
        comparison=comparison,
        annotator=session.get_one(Annotator, comparison.annotator_id),
        pair=pair,
        prompt=prompt,
        completions=completions,
        makers={side: _maker(session, written) for side, written in completions.items()},
        round=session.get(Round, pair.round_id) if pair.round_id else None,
        history=_history(session, comparison.pair_id),
        ranking=ranking,
        ranked=slate_completions(session=session, slate_id=ranking.slate_id) if ranking else [],
    )


def _maker(session: Session, written: Completion) -> Checkpoint | None:
    return session.get(Checkpoint, written.checkpoint_id) if written.checkpoint_id else None


def _history(session: Session, pair_id: int) -> list[Said]:
    query = (
        select(Comparison, Annotator)
        .join(Annotator, col(Annotator.id) == Comparison.annotator_id)
        .where(Comparison.pair_id == pair_id)
        .order_by(col(Comparison.id))
    )
    return [Said(comparison, annotator) for comparison, annotator in session.exec(query)]


def snapshots_with(*, session: Session, folder: Path, lineage: Lineage) -> list[SnapshotUse]:
    """The snapshots in the workspace `folder` that hold the comparison's pair, cut while it stood; newest first.

    Read from their files, in which a preference is told by its prompt and its two texts: one that several pairs share
    is found for each of them. A snapshot whose files are gone is passed over.
    """
    require_researcher(session=session, to="look through comparisons")
    uses: list[SnapshotUse] = []
    cuts = cut_moments(session=session)
    for snapshot in list_snapshots(session=session):
        learned = session.exec(select(Checkpoint).where(Checkpoint.snapshot_id == snapshot.id)).all()
        trained = [entry.name for entry in learned if _stood(lineage.comparison, cuts[entry.id])]
        if trained or _stood(lineage.comparison, snapshot.created_at):
            uses += _uses(snapshot, folder / snapshot.path, lineage, trained)
    return uses


def _stood(comparison: Comparison, at: datetime) -> bool:
    ended = comparison.superseded_at
    return comparison.created_at <= at and (ended is None or ended > at)


def _uses(snapshot: Snapshot, folder: Path, lineage: Lineage, trained: list[str]) -> list[SnapshotUse]:
    sides = {written.text_hash: side for side, written in lineage.completions.items()}
    uses = []
    for name in snapshot.manifest["files"]:
        for chosen, rejected in _preferences(folder / name, lineage.prompt.content_hash):
            if {chosen, rejected} == set(sides):
                uses.append(SnapshotUse(snapshot, Path(name).stem, sides[chosen], trained))
    return uses


def _preferences(path: Path, prompt_hash: str) -> list[tuple[str, str]]:
    """The hashes of chosen and rejected in each row about this prompt; most lines are passed over unread."""
    if not path.is_file():
        return []
    needle = prompt_hash.encode()
    with path.open("rb") as stream:
        rows = [json.loads(line) for line in stream if needle in line]
    return [(text_hash(row["chosen"]), text_hash(row["rejected"])) for row in rows if row["prompt_hash"] == prompt_hash]
