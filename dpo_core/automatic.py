"""Automatic rounds: what a person would press next on the Loop page, pressed by the worker. Off by default.

One step at a time, by the same functions as the page's buttons, in the name of BY, so that every step is on record and
can be seen. People still compare: nothing is decided that they did not say. It waits while a round is paused, and stops
where a person is needed: after a run that failed or was given up, without prompts, at the last round asked for, or
where a step is refused. What was refused is kept (store/refusals.py) and tried again now and then.

    plan_next    what comes next, and why: a plain function of where the loop stands
    read_plan    that by now, as people are told it: a step that was refused is a stop, with why
    take_step    does it, if the settings say so by now; the worker calls it whenever it has nothing else to do
    steps_taken  what was done so far, told from the runs and decisions that are on record
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from sqlmodel import Session

from dpo_core.config import FILE_NAME, AutomaticSettings, load_settings
from dpo_core.deciding import decide, go_on
from dpo_core.duels import more_duels
from dpo_core.errors import CoreError
from dpo_core.filters import missing_to_train
from dpo_core.gate import Gate, gate_to_pass, too_few_words
from dpo_core.loop import LoopState, Step, read_loop, sample_more, start_round, start_training
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.decisions import list_decisions
from store.errors import DatabaseError, StoreError
from store.models import Checkpoint, Decision, Round, Run, RunKind, RunStatus
from store.refusals import Refusal, forget_refusal, keep_refusal, last_refusal
from store.rounds import hold_latest_round, is_paused
from store.runs import runs_asked_by
from store.wording import counted

log = logging.getLogger("pairloop")
BY = "automatic rounds"
STUCK = "A run has stopped: a person has to look."
GIVEN_UP = (
    "The last training was given up. The next one starts by itself once more is compared, or when somebody presses "
    "Train."
)
NO_HELD_OUT = (
    "No prompt is held out, so no duels can be written: import more prompts, of which held_out_share in [round] of "
    "pairloop.toml are."
)
LEAST_DUELS = 20  # written at once
LOOK_SECONDS = 2.0  # between two looks: what comes next is told from all duels so far
PATIENCE = 15  # times as long after a refusal: what was refused is costly to try, and seldom mended within seconds
STEPS_SHOWN = 10


class Act(StrEnum):
    """What automatic rounds do next."""

    START = "start"
    WRITE_PAIRS = "write_pairs"
    TRAIN = "train"
    WRITE_DUELS = "write_duels"
    PROMOTE = "promote"
    KEEP = "keep"
    WAIT = "wait"
    STOP = "stop"


@dataclass(frozen=True)
class Plan:
    """What comes next, in words too; `count`: how many pairs or duels are to be written.

    `about`: the checkpoint that is decided about, where one is.
    """

    act: Act
    why: str
    count: int = 0
    about: str | None = None


def plan_next(state: LoopState, gate: Gate | None, asked: AutomaticSettings, *, missing: str = "") -> Plan:
    """What comes next where the loop stands so.

    `gate`: of the checkpoint to decide about, if there is one. `missing`: why nothing can be trained on yet, where that
    is known.
    """
    if is_paused(state.round):
        return Plan(Act.WAIT, "The round is paused.")
    if state.step == Step.START_ROUND:
        number = state.round.number + 1 if state.round else 1
        if asked.until_round and number > asked.until_round:
            return Plan(Act.STOP, f"Round {asked.until_round} was the last that [automatic] until_round asks for.")
        return Plan(Act.START, f"Round {number} starts.")
    if state.step == Step.COMPARE:
        return _comparing(state)
    if state.step == Step.DECIDE and gate is not None:
        return replace(_deciding(state, gate, asked), about=gate.checkpoint)
    stop = GIVEN_UP if state.given_up else missing
    return {
        Step.TRAIN: Plan(Act.STOP, stop) if stop else Plan(Act.TRAIN, "Every comparison is made: training starts."),
        Step.WAIT_FOR_PAIRS: Plan(Act.WAIT, "Pairs are being written."),
        Step.WAIT_FOR_TRAINING: Plan(Act.WAIT, "The next checkpoint is being trained."),
        Step.IMPORT_PROMPTS: Plan(Act.STOP, "There are no prompts to ask: import some."),
    }.get(state.step, Plan(Act.STOP, STUCK))


def _comparing(state: LoopState) -> Plan:
    assert state.round is not None
    if state.stuck_run is not None:
        return Plan(Act.STOP, STUCK)
    missing = state.round.target - state.comparisons["done"]
    if state.pairs["open"] or state.open_run is not None:
        return Plan(Act.WAIT, f"{counted(missing, 'comparison')} to go until training starts.")
    return Plan(Act.WRITE_PAIRS, "All pairs are compared and more are wanted: they are written.", missing)


def _deciding(state: LoopState, gate: Gate, asked: AutomaticSettings) -> Plan:
    if gate.suggestion == Decision.PROMOTE:
        return Plan(Act.PROMOTE, f"The gate is open: {gate.checkpoint} is promoted.")
    if gate.suggestion == Decision.KEEP:
        lacking = next(each for each in gate.conditions if each.met is False)
        return Plan(Act.KEEP, f"{lacking.name}: {lacking.found}. {gate.checkpoint} is kept back.")
    if state.open_run is not None:
        return Plan(Act.WAIT, "Duels are being written.")
    if to_judge := duels_to_judge(state, gate):
        return Plan(Act.WAIT, f"{counted(to_judge, 'blind duel')} to judge.")
    if state.run is not None and state.run.status != RunStatus.DONE:
        return Plan(Act.STOP, "No duels could be written: a person has to look.")
    return _more_duels(state, gate, asked)


def duels_to_judge(state: LoopState, gate: Gate) -> int:
    """How many of the checkpoint's duels somebody may still be asked: not those that all have skipped."""
    return min(gate.open_duels, state.pairs.get("open_duels", 0))


def _more_duels(state: LoopState, gate: Gate, asked: AutomaticSettings) -> Plan:
    unknown = next((each for each in gate.conditions if each.met is None and not each.by_duels), None)
    if unknown is not None:
        return Plan(Act.STOP, f"{unknown.name}: {unknown.found}. A person has to look.")
    if not state.prompts["held_out"]:
        return Plan(Act.STOP, NO_HELD_OUT)
    match = gate.matches[0]
    left = asked.most_duels - match.counts.written
    if few := undecidable_words(gate):
        return Plan(Act.KEEP, f"{few}. {gate.checkpoint} is kept back.")
    if left <= 0:
        return Plan(
            Act.KEEP, f"Undecided after {counted(match.counts.written, 'duel')}: {gate.checkpoint} is kept back."
        )
    why = too_few_words(match) or "more duels are written"
    return Plan(Act.WRITE_DUELS, f"Undecided: {why}.", min(left, duels_to_write(gate)))


def undecidable_words(gate: Gate) -> str:
    """Where all held-out prompts were judged and more duels would decide nothing: that, and what to do."""
    match = gate.matches[0]
    return too_few_words(match) if match.win_rate.judged >= match.held_out else ""


def duels_to_write(gate: Gate) -> int:
    """About as many as it will take, by tens: not so many that the next look at the figures is far away.

    Nor more than there are held-out prompts, each of which counts once.
    """
    forecast = gate.matches[0].win_rate.duels_more if gate.matches else None
    most = gate.matches[0].held_out if gate.matches else LEAST_DUELS
    return min(most, 3 * LEAST_DUELS, max(LEAST_DUELS, 10 * -(-(forecast or 0) // 10)))


def read_plan(workspace: Workspace) -> Plan:
    """What comes next by now, as people are told it."""
    with reading(workspace.engine) as session:
        state, gate = read_loop(session=session), gate_to_pass(session, workspace)
        refusal = last_refusal(session=session)
    missing = ""
    if state.step == Step.TRAIN and state.round is not None:
        missing = missing_to_train(workspace, state.round)
    return as_told(plan_next(state, gate, workspace.settings.automatic, missing=missing), state, refusal)


def as_told(plan: Plan, state: LoopState, refusal: Refusal | None) -> Plan:
    """The plan; where just this was refused in this round, a stop, with why."""
    where = state.round.id if state.round is not None else None
    if refusal is None or (refusal.act, refusal.round_id) != (plan.act, where):
        return plan
    return Plan(Act.STOP, refusal.why)


def take_step(workspace: Workspace) -> Plan | None:
    """Do what comes next; None where automatic rounds are off, or there is nothing to do for now.

    The settings are read anew, so that it can be switched off at any moment. Raises what the step itself raises, which
    is kept until the loop has moved on.
    """
    workspace = _as_set(workspace)
    if not workspace.settings.automatic.on:
        return None
    with reading(workspace.engine) as session:
        plan, refusal = _plan(session, workspace), last_refusal(session=session)
    if refusal is not None and refusal.act != plan.act:
        _forget(workspace)
    if plan.act in (Act.WAIT, Act.STOP):
        return None
    log.info("%s: %s", BY, plan.why)
    try:
        _do(workspace.checked_first(_still(workspace, plan)), plan)
    except _MovedOn:
        return None
    except DatabaseError:  # no refusal, and nothing can be written now
        raise
    except (CoreError, StoreError, OSError) as error:
        with writing(workspace.engine) as session:
            keep_refusal(session=session, act=plan.act, why=str(error))
        raise
    if refusal is not None:
        _forget(workspace)
    return plan


def _as_set(workspace: Workspace) -> Workspace:
    return workspace.with_settings(load_settings(workspace.folder / FILE_NAME))


def _plan(session: Session, workspace: Workspace) -> Plan:
    """What comes next. What is missing to train is not asked beforehand: the training asks, and is refused."""
    return plan_next(read_loop(session=session), gate_to_pass(session, workspace), workspace.settings.automatic)


def _forget(workspace: Workspace) -> None:
    with writing(workspace.engine) as session:
        forget_refusal(session=session)


class _MovedOn(CoreError):  # noqa: N818 - nothing went wrong
    """People were quicker: what comes next is another thing by now."""


def _still(workspace: Workspace, plan: Plan) -> Callable[[Session], None]:
    """A check that this is still what comes next: not switched off, paused or judged otherwise since it was planned."""

    def check(session: Session) -> None:
        fresh = _as_set(workspace)
        hold_latest_round(session=session)
        if not fresh.settings.automatic.on or _plan(session, fresh).act != plan.act:
            raise _MovedOn

    return check


def _do(workspace: Workspace, plan: Plan) -> None:
    if plan.act == Act.START:
        start_round(workspace, by=BY)
    elif plan.act == Act.WRITE_PAIRS:
        sample_more(workspace, pairs=plan.count, by=BY)
    elif plan.act == Act.TRAIN:
        start_training(workspace, by=BY)
    elif plan.act == Act.WRITE_DUELS:
        more_duels(workspace, pairs=plan.count, by=BY)
    elif _is_last(workspace):
        decide(workspace, decision=Decision(plan.act.value), by=BY, about=plan.about)
    else:
        go_on(workspace, decision=Decision(plan.act.value), by=BY, about=plan.about)


def _is_last(workspace: Workspace) -> bool:
    """Whether no round is to follow the one that is open."""
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
    last = workspace.settings.automatic.until_round
    return bool(last and state.round is not None and state.round.number >= last)


@dataclass(frozen=True)
class StepTaken:
    """Something that automatic rounds did, in words."""

    at: datetime
    what: str


def steps_taken(*, session: Session, limit: int = STEPS_SHOWN) -> list[StepTaken]:
    """The last steps that automatic rounds took, newest first: told from the runs and decisions in their name."""
    asked = runs_asked_by(session=session, by=BY, limit=limit)
    runs = [StepTaken(run.created_at, _run_words(session, run)) for run in asked]
    decided = [each for each in list_decisions(session=session) if each.by == BY][-limit:]
    said = {Decision.PROMOTE: "promoted", Decision.KEEP: "kept back"}
    decisions = [
        StepTaken(each.created_at, f"{session.get_one(Checkpoint, each.about_id).name} {said[Decision(each.action)]}")
        for each in decided
    ]
    return sorted([*runs, *decisions], key=lambda step: step.at, reverse=True)[:limit]


def _run_words(session: Session, run: Run) -> str:
    number = session.get_one(Round, run.round_id).number
    if run.kind == RunKind.DUEL:
        return f"Duels of {run.settings['checkpoint']} asked for"
    if run.kind == RunKind.TRAIN:
        return f"Training of round {number} started"
    return f"More pairs asked for in round {number}" if run.settings["first_position"] else f"Round {number} started"


class Pilot:
    """What the worker keeps of automatic rounds: what was refused last, so that it is said once."""

    def __init__(self, *, every: float = LOOK_SECONDS) -> None:
        self._every = every
        self._next = 0.0
        self._refused = ""

    def look(self, workspace: Workspace) -> bool:
        """Take the next step if there is one. Returns whether one was taken; a refusal is in the log, once."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._every
        try:
            return take_step(workspace) is not None
        except (CoreError, StoreError, OSError) as error:
            self._next += PATIENCE * self._every
            if str(error) != self._refused:
                log.warning("%s: %s", BY, error)
            self._refused = str(error)
            return False
