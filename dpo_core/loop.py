"""One round, end to end. The file to read first.

    start_round      the serving checkpoint is asked to write pairs (a sample run)
    (people compare) store.pairs.next_pair, store.comparisons.record_comparison
    start_training   the comparisons are cut into a snapshot, and a train run is queued on it
    (the worker)     trains the parent on the snapshot, evaluates on held-out prompts, registers the checkpoint
    (people compare) blind duels of the new checkpoint with its parent, on held-out prompts (duels.py)
    decide           the new checkpoint writes the next round (promote), or its parent does (keep): deciding.py

A workspace with imported comparisons may begin with `start_training`: that opens a round which asks nobody anything.

`read_loop` says where all this stands and what is next: the Loop page, `pairloop status` and `pairloop simulate` all
ask it, so none of them has rules of its own. Importable without torch; what needs it happens in runs (carry_out.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlmodel import Session

from dpo_core.changing_settings import change_training
from dpo_core.config import Settings
from dpo_core.duels import ask_on
from dpo_core.errors import RunError
from dpo_core.filters import training_filter
from dpo_core.memory_plan import MemoryPlan
from dpo_core.progress import note_in_log
from dpo_core.queueing import ask_kept, prompts_for, prompts_wanted
from dpo_core.run_plan import next_plan, plan_run, recorded, require_fit, settled, texts_of
from dpo_core.sweep import read_sweep
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.comparisons import count_round
from store.database import reading, writing
from store.decisions import serving_checkpoint
from store.models import Checkpoint, Round, RoundStatus, Run, RunKind, RunStatus, Snapshot
from store.pairs import count_naming_makers, count_pairs
from store.playground_pairs import kept_exchanges
from store.prompts import count_prompts, prompts_to_ask
from store.rounds import add_round, is_on_imports, latest_round, list_rounds, set_round_status
from store.runs import OPEN, cancel_run, get_run, last_run, queue_run, retry_run
from store.second_looks import move_open_looks
from store.servable import count_servable
from store.snapshots import cut_snapshot, rows_to_train_on

log = logging.getLogger("pairloop")


class Step(StrEnum):
    """What the loop waits for."""

    IMPORT_PROMPTS = "import_prompts"
    START_ROUND = "start_round"
    WAIT_FOR_PAIRS = "wait_for_pairs"
    COMPARE = "compare"
    TRAIN = "train"
    WAIT_FOR_TRAINING = "wait_for_training"
    DECIDE = "decide"
    MEND_RUN = "mend_run"


@dataclass(frozen=True)
class LoopState:
    """Where the loop stands. `run` is the run waited for, or the one that failed or was cancelled.

    `imported` counts the pairs that came in with their verdicts, where they are what is trained on: while no round is
    open, and in a round on imports, which asks nobody anything. `late` counts the open round's comparisons that were
    made after its snapshot was cut; `late_ones_count` says what becomes of them. `naming_makers` counts its pairs that
    have a completion which says who wrote it. `pairs` are as `count_servable` has them. `given_up`: the round's last
    training failed or was cancelled, somebody went back from it, and nothing was compared since.
    """

    step: Step
    round: Round | None
    checkpoint: Checkpoint
    comparisons: dict[str, int]
    pairs: dict[str, int]
    prompts: dict[str, int]
    run: Run | None
    imported: int = 0
    late: int = 0
    naming_makers: int = 0
    given_up: bool = False

    @property
    def open_run(self) -> Run | None:
        """The run waited for, while it is still to end."""
        return self.run if self.run is not None and self.run.status in OPEN else None

    @property
    def stuck_run(self) -> Run | None:
        """The run that ended before its work was done, where that is missing; people may compare on what there is."""
        if self.run is None or self.round is None or self.step not in (Step.MEND_RUN, Step.COMPARE):
            return None
        given_up = self.run.status == RunStatus.CANCELLED and self.round.status != RoundStatus.SAMPLING
        return self.run if self.run.status in (RunStatus.FAILED, RunStatus.CANCELLED) and not given_up else None


@dataclass(frozen=True)
class RoundStory:
    """What happened in one round, for the Loop page and `pairloop rounds`.

    `candidates`: the checkpoints that its last training came to, several after a sweep. `on_imports`: it asked nobody
    anything.
    """

    round: Round
    checkpoint: Checkpoint
    comparisons: dict[str, int]
    snapshot: Snapshot | None
    result: Checkpoint | None
    candidates: list[Checkpoint]
    on_imports: bool


def read_loop(*, session: Session) -> LoopState:
    """Where the loop stands and what is next."""
    current = latest_round(session=session)
    prompts = count_prompts(session=session)
    if current is None or current.status == RoundStatus.DONE:
        step = Step.START_ROUND if sum(prompts.values()) else Step.IMPORT_PROMPTS
        serving = serving_checkpoint(session=session)
        return LoopState(step, current, serving, {}, {}, prompts, None, imported=_count_imported(session))
    assert current.id is not None
    comparisons = count_round(session=session, round_id=current.id)
    pairs = count_servable(session=session, round_id=current.id)
    step, run = _step(session, current, comparisons, pairs)
    checkpoint = session.get_one(Checkpoint, current.checkpoint_id)
    imported = _count_imported(session) if is_on_imports(session=session, entry=current) else 0
    late = _count_late(session, current, comparisons["done"])
    naming = count_naming_makers(session=session, round_id=current.id)
    given_up = step == Step.TRAIN and _is_given_up(session, current, comparisons["done"])
    return LoopState(step, current, checkpoint, comparisons, pairs, prompts, run, imported, late, naming, given_up)


def _count_imported(session: Session) -> int:
    return count_pairs(session=session, round_id=None)["pairs"]


def _count_late(session: Session, current: Round, done: int) -> int:
    """How many comparisons more the round has than when its snapshot was cut."""
    if current.status not in (RoundStatus.TRAINING, RoundStatus.DECIDING):
        return 0
    assert current.id is not None
    training = last_run(session=session, round_id=current.id, kind=RunKind.TRAIN)
    return max(0, done - training.settings.get("compared", done)) if training is not None else 0


def _is_given_up(session: Session, current: Round, done: int) -> bool:
    """Whether the round was trained, in vain, on as many comparisons as it has now."""
    assert current.id is not None
    training = last_run(session=session, round_id=current.id, kind=RunKind.TRAIN)
    return training is not None and done <= int(training.settings.get("compared", 0))


def _step(
    session: Session, current: Round, comparisons: dict[str, int], pairs: dict[str, int]
) -> tuple[Step, Run | None]:
    assert current.id is not None
    if current.status == RoundStatus.DECIDING:
        return Step.DECIDE, last_run(session=session, round_id=current.id, kind=RunKind.DUEL)
    if current.status == RoundStatus.TRAINING:
        return _waiting(last_run(session=session, round_id=current.id, kind=RunKind.TRAIN), Step.WAIT_FOR_TRAINING)
    if comparisons["done"] >= current.target or is_on_imports(session=session, entry=current):
        return Step.TRAIN, None
    sampling = last_run(session=session, round_id=current.id, kind=RunKind.SAMPLE)
    if pairs["open"] or current.status == RoundStatus.COMPARING:
        return Step.COMPARE, sampling
    return _waiting(sampling, Step.WAIT_FOR_PAIRS)


def _waiting(run: Run | None, step: Step) -> tuple[Step, Run | None]:
    stuck = run is not None and run.status in (RunStatus.FAILED, RunStatus.CANCELLED)
    return (Step.MEND_RUN if stuck else step), run


def round_stories(*, session: Session) -> list[RoundStory]:
    """Every round so far, oldest first."""
    return [_story(session, entry) for entry in list_rounds(session=session)]


def _story(session: Session, entry: Round) -> RoundStory:
    assert entry.id is not None
    return RoundStory(
        round=entry,
        checkpoint=session.get_one(Checkpoint, entry.checkpoint_id),
        comparisons=count_round(session=session, round_id=entry.id),
        snapshot=session.get(Snapshot, entry.snapshot_id) if entry.snapshot_id else None,
        result=session.get(Checkpoint, entry.result_checkpoint_id) if entry.result_checkpoint_id else None,
        candidates=candidates(session, entry),
        on_imports=is_on_imports(session=session, entry=entry),
    )


def start_round(workspace: Workspace, *, by: str, comparisons: int | None = None) -> Round:
    """Open the next round and queue its sample run. Raises StateError while one is open, RunError without prompts."""
    with writing(workspace.engine) as session:
        return start_round_in(session, workspace, by, comparisons)


def start_round_in(session: Session, workspace: Workspace, by: str, comparisons: int | None) -> Round:
    """`start_round` within a transaction that does more."""
    checkpoint = serving_checkpoint(session=session)
    assert checkpoint.id is not None
    target = comparisons or workspace.settings.round.comparisons
    opened = add_round(session=session, checkpoint_id=checkpoint.id, target=target)
    assert opened.id is not None
    places = prompts_wanted(workspace.settings, target)
    _queue_sampling(session, workspace, opened, checkpoint, places, by)
    ask_on(session, workspace, opened=opened, checkpoint=checkpoint, places=places)
    seed = workspace.settings.sampling.seed + opened.number
    move_open_looks(session=session, round_id=opened.id, places=places, seed=seed)
    ask_kept(session, workspace.settings, opened.id)
    return opened


def _queue_sampling(
    session: Session, workspace: Workspace, current: Round, checkpoint: Checkpoint, count: int, by: str
) -> Run:
    settings = workspace.settings
    # The prompts are fixed here: a sample run that is resumed must go on with the list it started with.
    prompts = prompts_to_ask(
        session=session,
        count=count,
        held_out_share=settings.round.held_out_share,
        seed=settings.sampling.seed + current.number,
        also_asked={kept.prompt_id for kept in kept_exchanges(session=session)},
    )
    if not prompts:
        raise RunError("There are no prompts to write completions for. `pairloop import` brings some in.")
    assert current.id is not None
    first = count_pairs(session=session, round_id=current.id)["pairs"]
    per_prompt = settings.round.completions_per_prompt
    details = {
        "checkpoint": checkpoint.name,
        "prompt_ids": [prompt.id for prompt in prompts],
        "first_position": first,
        "wanted": settings.round.comparisons_per_pair,
        "overlap": settings.queue.overlap,
        **({"per_prompt": per_prompt} if per_prompt != 2 else {}),
        **({"selection": _selection(settings)} if settings.selection.chooses else {}),
        "sampling": settings.sampling.model_dump() | {"seed": settings.sampling.seed + 1000 * current.number + first},
    }
    return queue_run(session=session, kind=RunKind.SAMPLE, settings=details, requested_by=by, round_id=current.id)


def _selection(settings: Settings) -> dict[str, Any]:
    """How the run selects its pairs, with the scale of implicit rewards."""
    return {"rule": settings.selection.model_dump(), "beta": settings.training.beta}


def sample_more(workspace: Workspace, *, pairs: int, by: str) -> Run:
    """Queue more pairs for the open round; where completions are ranked, as many as come to these or a few more.

    Raises RunError without one and for one on imports, StateError while it is being sampled.
    """
    with writing(workspace.engine) as session:
        current = open_round(session)
        if is_on_imports(session=session, entry=current):
            raise RunError(f"Round {current.number} is for imported comparisons and asks for none. Train on them.")
        checkpoint = session.get_one(Checkpoint, current.checkpoint_id)
        return _queue_sampling(session, workspace, current, checkpoint, prompts_for(workspace.settings, pairs), by)


def open_round(session: Session) -> Round:
    """The round that is not done yet. Raises RunError without one."""
    current = latest_round(session=session)
    if current is None or current.status == RoundStatus.DONE:
        raise RunError("No round is open. Start one first (`pairloop sample`).")
    return current


def start_training(
    workspace: Workspace,
    *,
    by: str,
    early: bool = False,
    changes: dict[str, Any] | None = None,
    force: bool = False,
    sweep: Sequence[str] = (),
) -> Run:
    """Cut the snapshot of what has been compared so far and queue a train run on it.

    `early` allows it before the round's target is reached; `changes` are training settings for this run alone; `force`
    starts what does not fit into memory; `sweep` tries several values of settings (`["beta=0.1,0.3"]`). Raises
    SettingsError for settings that are none, RunError where the round is not ready or memory too small, SnapshotError
    where there is nothing to train on.
    """
    asked = change_training(workspace.settings.training, changes or {})
    points = read_sweep(sweep, asked) if sweep else []
    with writing(workspace.engine) as session:
        current = _ready_round(session, early=early) or _imports_round(session)
        assert current.id is not None
        wanted = training_filter(asked, session=session, checkpoint_id=current.checkpoint_id, sweep=points)
        snapshot = cut_snapshot(session=session, folder=workspace.folder, filter=wanted)
        parent = session.get_one(Checkpoint, current.checkpoint_id)
        rows = texts_of(rows_to_train_on(snapshot=snapshot, folder=workspace.folder))
        plan = plan_run(workspace, session=session, rows=rows, parent=parent, training=asked)
        if plan is not None and not force:
            require_fit(plan)
        current.snapshot_id = snapshot.id
        session.add(current)
        set_round_status(session=session, round_id=current.id, status=RoundStatus.TRAINING)
        details = {
            "name": f"round-{current.number}",
            "parent": parent.name,
            "snapshot": snapshot.hash,
            "model": workspace.settings.model.model_dump(),
            "training": settled(asked, plan).model_dump(),
            "sweep": points,
            "plan": recorded(plan),
            "sampling": workspace.settings.sampling.model_dump(),  # for the answers whose lengths are compared
            "compared": count_round(session=session, round_id=current.id)["done"],
        }
        return queue_run(session=session, kind=RunKind.TRAIN, settings=details, requested_by=by, round_id=current.id)


def plan_training(workspace: Workspace, *, changes: dict[str, Any] | None = None) -> MemoryPlan | None:
    """What training now would need; None where nothing can be said. Raises SettingsError."""
    training = change_training(workspace.settings.training, changes or {})
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
        assert state.checkpoint.id is not None
        to_open = state.round is None or state.round.status == RoundStatus.DONE  # for imports, if at all
        wanted = training_filter(training, session=session, checkpoint_id=state.checkpoint.id, on_imports=to_open)
        return next_plan(workspace, session=session, wanted=wanted, parent=state.checkpoint, training=training)


def _imports_round(session: Session) -> Round:
    """A round opened for training on imported comparisons. Raises RunError where there are none."""
    state = read_loop(session=session)
    if not state.imported:
        raise RunError("There is nothing to train on: no round is open and no comparisons were imported.")
    assert state.checkpoint.id is not None
    return add_round(session=session, checkpoint_id=state.checkpoint.id, target=state.imported)


def _ready_round(session: Session, *, early: bool) -> Round | None:
    """The open round, if it may be trained on; None where no round is open. Raises RunError."""
    state = read_loop(session=session)
    if state.round is None or state.round.status == RoundStatus.DONE:
        return None
    if state.round.status not in (RoundStatus.SAMPLING, RoundStatus.COMPARING):
        raise RunError(f"There is nothing to train now: round {state.round.number} is {state.round.status}.")
    if state.step != Step.TRAIN and not early:
        done, target = state.comparisons["done"], state.round.target
        raise RunError(f"Round {state.round.number} has {done} of {target} comparisons. Compare on, or train early.")
    return state.round


def return_to_comparing(workspace: Workspace, *, by: str) -> Round:
    """Give up a failed or cancelled training and open the round again. Raises RunError otherwise.

    A round on imports has nothing to compare: it waits to be trained anew.
    """
    with writing(workspace.engine) as session:
        state = read_loop(session=session)
        if state.step != Step.MEND_RUN or state.round is None or state.round.id is None:
            raise RunError("No run of the open round has failed.")
        return set_round_status(session=session, round_id=state.round.id, status=RoundStatus.COMPARING)


def cancel(workspace: Workspace, *, run_id: int, by: str) -> Run:
    """Ask a run to stop: at its next step, or at once if nobody carries it out. Raises StateError if it is over."""
    with writing(workspace.engine) as session:
        run = cancel_run(session=session, run_id=run_id)
    note_in_log(workspace, run_id, f"{by} asked it to stop.")
    return run


def retry(workspace: Workspace, *, run_id: int) -> Run:
    """Queue a failed or cancelled run again. Raises StateError otherwise, RunError where the round has gone on."""
    with writing(workspace.engine) as session:
        _check_wanted(session, get_run(session=session, run_id=run_id))
        return retry_run(session=session, run_id=run_id)


def _check_wanted(session: Session, run: Run) -> None:
    """Raise RunError for a run whose result nobody waits for: it would overwrite what came after it."""
    if run.round_id is None or run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
        return
    current = session.get_one(Round, run.round_id)
    if current.status == RoundStatus.DONE:
        raise RunError(f"Round {current.number} is done, so run {run.id} is not wanted any more. Nothing was changed.")
    if run.kind == RunKind.TRAIN and current.status != RoundStatus.TRAINING:
        raise RunError(f"Round {current.number} went on without run {run.id} and is {current.status}. Train it anew.")
    latest = last_run(session=session, round_id=run.round_id, kind=RunKind(run.kind))
    if run.kind == RunKind.TRAIN and latest is not None and latest.id != run.id:
        raise RunError(f"Run {latest.id} took the place of run {run.id}. Retry that one.")


def candidates(session: Session, current: Round) -> list[Checkpoint]:
    """The checkpoints that the round's last training came to, in the order of its sweep; none before there is one."""
    if current.result_checkpoint_id is None:
        return []
    assert current.id is not None
    run = last_run(session=session, round_id=current.id, kind=RunKind.TRAIN)
    names = [entry["checkpoint"] for entry in (run.result if run else {}).get("sweep", [])]
    found = [get_checkpoint(session=session, name=name) for name in names]
    return found or [session.get_one(Checkpoint, current.result_checkpoint_id)]


def queue_evaluation(workspace: Workspace, *, checkpoint: str | None, snapshot: Snapshot, by: str) -> Run:
    """Queue a run that judges a checkpoint on a snapshot's held-out pairs, beside its parent. Raises StoreError.

    `checkpoint` None: what the latest round was trained to, else the one that serves.
    """
    with writing(workspace.engine) as session:
        judged = get_checkpoint(session=session, name=checkpoint) if checkpoint else _newest(session)
        parent = session.get(Checkpoint, judged.parent_id) if judged.parent_id else judged
        assert parent is not None
        details = {
            "checkpoint": judged.name,
            "reference": parent.name,
            "snapshot": snapshot.hash,
            "training": workspace.settings.training.model_dump(),
        }
        return queue_run(session=session, kind=RunKind.EVALUATE, settings=details, requested_by=by)


def _newest(session: Session) -> Checkpoint:
    current = latest_round(session=session)
    if current is not None and current.result_checkpoint_id is not None:
        return session.get_one(Checkpoint, current.result_checkpoint_id)
    return serving_checkpoint(session=session)
