"""Checkpoints as a family: what each came from, what was decided about it, and when it served. Reads no files.

Whose comparisons they were trained on is told in teaching.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from store.checkpoints import BASE, list_checkpoints
from store.decision_tables import DecisionRecord
from store.decisions import list_decisions, serving_checkpoint
from store.duels import all_met
from store.models import Checkpoint, Decision, Round, Run, RunKind, RunStatus, Snapshot
from store.roles import require_researcher
from store.rounds import list_rounds


@dataclass(frozen=True)
class Term:
    """A time in which a checkpoint served.

    `began`: the decision that let it; None for the base's first. `ended`: the one that let `successor` serve instead;
    None while it serves.
    """

    began: DecisionRecord | None
    ended: DecisionRecord | None
    successor: str


@dataclass(frozen=True)
class Ancestry:
    """One checkpoint and what it came from; None and empty where there is no such thing, as for the base.

    `children` are the names of those trained from it; `met` of those it was duelled with. `decisions`: those about it
    and those that let it serve, oldest first. `terms`: the times in which it served, oldest first. `run`: the training
    that made it, alone or as a point of a sweep. `cut_at`: when its snapshot was cut for that training.
    """

    checkpoint: Checkpoint
    parent: str | None
    children: list[str]
    run: Run | None
    round: Round | None
    snapshot: Snapshot | None
    cut_at: datetime | None
    decisions: list[DecisionRecord]
    terms: list[Term]
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
    runs, cuts, terms = _makers(session), cut_moments(session=session), _terms(decisions, every)
    serving = serving_checkpoint(session=session).name if every else ""
    return [
        Ancestry(
            checkpoint=entry,
            parent=names.get(entry.parent_id),
            children=[other.name for other in every if other.parent_id == entry.id],
            run=(run := runs.get(entry.name)),
            round=(opened := _round_of(entry, run, rounds)),
            snapshot=session.get(Snapshot, entry.snapshot_id) if entry.snapshot_id else None,
            cut_at=cuts.get(entry.id),
            decisions=[one for one in decisions if entry.id in (one.about_id, one.checkpoint_id)],
            terms=terms.get(entry.id, []),
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


def cut_moments(*, session: Session) -> dict[int | None, datetime]:
    """When the snapshot of each checkpoint was cut for its training, by the checkpoint's id.

    That is when its run was asked for, in the transaction that cut it. The snapshot's own moment may be earlier: what
    comes out the same is the same snapshot, also where other people had said it by then.
    """
    runs = _makers(session)
    trained = [entry for entry in list_checkpoints(session=session) if entry.snapshot_id is not None]
    return {
        entry.id: runs[entry.name].created_at
        if entry.name in runs
        else session.get_one(Snapshot, entry.snapshot_id).created_at
        for entry in trained
    }


def _terms(decisions: Sequence[DecisionRecord], every: Sequence[Checkpoint]) -> dict[int | None, list[Term]]:
    """The times in which checkpoints served, by the checkpoint's id: the base from the beginning on."""
    names = {entry.id: entry.name for entry in every}
    serving: int | None = next((entry.id for entry in every if entry.name == BASE), None)
    found: dict[int | None, list[Term]] = {}
    began: DecisionRecord | None = None
    for decision in decisions:
        if decision.checkpoint_id != serving:
            found.setdefault(serving, []).append(Term(began, decision, names[decision.checkpoint_id]))
            serving, began = decision.checkpoint_id, decision
    found.setdefault(serving, []).append(Term(began, None, ""))
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
