"""Which comparisons a training, or a snapshot that somebody asks for, is cut from. Importable without torch."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_core.config import TrainingSettings
from dpo_core.sweep import Point
from dpo_core.workspace import Workspace
from store.database import reading
from store.snapshot_filter import SnapshotFilter
from store.snapshots import what_is_missing


def training_filter(
    training: TrainingSettings, number: int | None, *, on_imports: bool = False, sweep: Sequence[Point] = ()
) -> SnapshotFilter:
    """Which comparisons a round trains on (None: one still to be opened), as the settings of its training say.

    For a round on imports, its own are the imported. `sweep`: the points to train at, all on one snapshot.
    """
    own = None if training.comparisons == "all" or number is None else (number,)
    return SnapshotFilter(
        round_numbers=own,
        include_imported=own is None or on_imports,
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


def missing_to_train(workspace: Workspace, number: int, *, on_imports: bool = False) -> str:
    """Why this round cannot be trained on yet, not even early, in words; empty where it can."""
    wanted = training_filter(workspace.settings.training, number, on_imports=on_imports)
    with reading(workspace.engine) as session:
        return what_is_missing(session=session, filter=wanted)


def late_ones_count(workspace: Workspace) -> bool:
    """Whether comparisons made after their round's snapshot was cut are trained on: by the next round, if at all.

    They are not where each round trains on its own comparisons alone. The next round has another checkpoint's texts,
    which is what that setting asks for, so what is late belongs to no training; it stays in the database, and
    snapshots and exports have it.
    """
    return workspace.settings.training.comparisons == "all"
