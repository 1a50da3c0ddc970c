"""Which comparisons a training, or a snapshot that somebody asks for, is cut from. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from dpo_core.config import TrainingSettings
from dpo_core.sweep import Point
from dpo_core.workspace import Workspace
from store.database import reading
from store.decisions import serving_checkpoint
from store.models import Round
from store.rounds import is_on_imports, rounds_begun_from
from store.snapshot_filter import SnapshotFilter
from store.snapshots import what_is_missing


def training_filter(
    training: TrainingSettings,
    *,
    session: Session,
    checkpoint_id: int,
    on_imports: bool = False,
    sweep: Sequence[Point] = (),
) -> SnapshotFilter:
    """Which comparisons this checkpoint is trained on, as the settings of the training say.

    Where these are the "round": those of every round that began from it. There are several where what it was trained to
    was kept back, or rolled back from, and their labels are as new to it as the last one's. Those of a round on
    imports, still to be opened if `on_imports`, are the imported. `sweep`: the points to train at, all on one snapshot.
    """
    numbers, imports = None, True
    if training.comparisons == "round":
        begun = rounds_begun_from(session=session, checkpoint_id=checkpoint_id)
        asked = [each for each in begun if not is_on_imports(session=session, entry=each)]
        numbers, imports = tuple(each.number for each in asked), on_imports or len(asked) < len(begun)
    return SnapshotFilter(
        round_numbers=numbers,
        include_imported=imports,
        min_agreement=training.min_agreement,
        keep_ties=training.ties != "ignore",
        confidence=training.confidence == "reliability",
        votes="agreement" in (training.confidence, *(point.get("confidence") for point in sweep)),
    )


def snapshot_filter(
    workspace: Workspace,
    *,
    round_numbers: tuple[int, ...] | None = None,
    include_imported: bool = True,
    min_agreement: float | None = None,
    max_chars: int | None = None,
    exclude_annotators: tuple[str, ...] = (),
    confidence: bool | None = None,
) -> SnapshotFilter:
    """Which comparisons a snapshot is cut from: all there are, with what pairloop.toml trains on, if not told.

    Raises SnapshotError for a value that cannot be meant.
    """
    training = workspace.settings.training
    return SnapshotFilter(
        round_numbers=round_numbers,
        include_imported=include_imported,
        min_agreement=training.min_agreement if min_agreement is None else min_agreement,
        max_chars=max_chars,
        exclude_annotators=exclude_annotators,
        confidence=training.confidence == "reliability" if confidence is None else confidence,
    )


def missing_to_train(workspace: Workspace, current: Round) -> str:
    """Why this round cannot be trained on yet, not even early, in words; empty where it can."""
    with reading(workspace.engine) as session:
        training = workspace.settings.training
        wanted = training_filter(training, session=session, checkpoint_id=current.checkpoint_id)
        return what_is_missing(session=session, filter=wanted)


@dataclass(frozen=True)
class Earlier:
    """What the open round's training uses beside the round's own comparisons, where these are the "round"."""

    rounds: tuple[int, ...]
    imports: bool


def learned_from_as_well(workspace: Workspace, current: Round | None) -> Earlier:
    """The earlier rounds that began from the same checkpoint; nothing where a training uses all there is anyway.

    `current`: the open round; None for one on imports that is still to be opened.
    """
    training = workspace.settings.training
    if training.comparisons == "all":
        return Earlier((), imports=False)
    with reading(workspace.engine) as session:
        parent = current.checkpoint_id if current is not None else serving_checkpoint(session=session).id
        assert parent is not None
        wanted = training_filter(training, session=session, checkpoint_id=parent)
        on_imports = current is None or is_on_imports(session=session, entry=current)
    numbers = tuple(each for each in wanted.round_numbers or () if current is None or each != current.number)
    return Earlier(numbers, imports=wanted.include_imported and not on_imports)


def late_ones_count(workspace: Workspace) -> bool:
    """Whether comparisons made after their round's snapshot was cut are trained on in any case: by the next round.

    Where these are the "round" they are only if its parent is trained again. A checkpoint that was promoted writes
    other texts, which is what that setting asks for, so what is late then belongs to no training; it stays in the
    database, and snapshots and exports have it.
    """
    return workspace.settings.training.comparisons == "all"
