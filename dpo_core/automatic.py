"""Automatic rounds: what a person would press next on the Loop page, pressed by the worker. Off by default.

One step at a time, by the same functions as the page's buttons, in the name of BY, so that every step is on record and
can be seen. People still compare: nothing is decided that they did not say. It waits while a round is paused, and stops
where a person is needed: after a run that failed, without prompts, or at the last round asked for.

    plan_next    what comes next, and why: a plain function of where the loop stands
    take_step    does it, if the settings say so by now; the worker calls it whenever it has nothing else to do
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from enum import StrEnum

from dpo_core.config import FILE_NAME, AutomaticSettings, load_settings
from dpo_core.deciding import decide, go_on
from dpo_core.duels import more_duels
from dpo_core.errors import CoreError
from dpo_core.gate import Gate, gate_to_pass, too_few_words
from dpo_core.loop import LoopState, Step, read_loop, sample_more, start_round, start_training
from dpo_core.workspace import Workspace
from store.database import reading
from store.errors import StoreError
from store.models import Decision, RunStatus
from store.wording import counted

log = logging.getLogger("pairloop")
BY = "automatic rounds"
STUCK = "A run has stopped: a person has to look."
LEAST_DUELS = 20  # written at once
LOOK_SECONDS = 2.0  # between two looks: what comes next is told from all duels so far


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


def plan_next(state: LoopState, gate: Gate | None, asked: AutomaticSettings) -> Plan:
    """What comes next where the loop stands so. `gate`: of the checkpoint to decide about, if there is one."""
    if state.round is not None and state.round.paused_at is not None:
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
    return {
        Step.TRAIN: Plan(Act.TRAIN, "Every comparison is made: training starts."),
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
        return Plan(Act.KEEP, f"{lacking.name}: {lacking.found}. The parent goes on.")
    if state.open_run is not None:
        return Plan(Act.WAIT, "Duels are being written.")
    if gate.open_duels:
        return Plan(Act.WAIT, f"{counted(gate.open_duels, 'blind duel')} to judge.")
    if state.run is not None and state.run.status != RunStatus.DONE:
        return Plan(Act.STOP, "No duels could be written: a person has to look.")
    return _more_duels(gate, asked)


def _more_duels(gate: Gate, asked: AutomaticSettings) -> Plan:
    unknown = next((each for each in gate.conditions if each.met is None and not each.by_duels), None)
    if unknown is not None:
        return Plan(Act.STOP, f"{unknown.name}: {unknown.found}. A person has to look.")
    match = gate.matches[0]
    left = asked.most_duels - match.counts.written
    few = too_few_words(match)
    if few and match.win_rate.judged >= match.held_out:
        return Plan(Act.KEEP, f"{few}. The parent goes on.")
    if left <= 0:
        return Plan(Act.KEEP, f"Undecided after {counted(match.counts.written, 'duel')}: the parent goes on.")
    why = few or "more duels are written"
    return Plan(Act.WRITE_DUELS, f"Undecided: {why}.", min(left, duels_to_write(gate)))


def duels_to_write(gate: Gate) -> int:
    """About as many as it will take, by tens: not so many that the next look at the figures is far away.

    Nor more than there are held-out prompts, each of which counts once.
    """
    forecast = gate.matches[0].win_rate.duels_more if gate.matches else None
    most = gate.matches[0].held_out if gate.matches else LEAST_DUELS
    return min(most, 3 * LEAST_DUELS, max(LEAST_DUELS, 10 * -(-(forecast or 0) // 10)))


def read_plan(workspace: Workspace) -> Plan:
    """What comes next by now."""
    with reading(workspace.engine) as session:
        state, gate = read_loop(session=session), gate_to_pass(session, workspace)
    return plan_next(state, gate, workspace.settings.automatic)


def take_step(workspace: Workspace) -> Plan | None:
    """Do what comes next; None where automatic rounds are off, or there is nothing to do for now.

    The settings are read anew, so that it can be switched off at any moment. Raises what the step itself raises.
    """
    workspace = workspace.with_settings(load_settings(workspace.folder / FILE_NAME))
    if not workspace.settings.automatic.on:
        return None
    plan = read_plan(workspace)
    if plan.act in (Act.WAIT, Act.STOP):
        return None
    log.info("%s: %s", BY, plan.why)
    _do(workspace, plan)
    return plan


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


class Pilot:
    """What the worker keeps of automatic rounds: what was refused last, so that it is said once."""

    def __init__(self, *, every: float = LOOK_SECONDS) -> None:
        self._every = every
        self._looked = -every
        self._refused = ""

    def look(self, workspace: Workspace) -> bool:
        """Take the next step if there is one. Returns whether one was taken; a refusal is in the log, once."""
        if time.monotonic() - self._looked < self._every:
            return False
        self._looked = time.monotonic()
        try:
            return take_step(workspace) is not None
        except (CoreError, StoreError) as error:
            if str(error) != self._refused:
                log.warning("%s: %s", BY, error)
            self._refused = str(error)
            return False
