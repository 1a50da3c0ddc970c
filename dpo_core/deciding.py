"""What becomes of a new checkpoint: promoted, kept back, or rolled back later; each by a named person, on record.

Promotion asks what the gate says (gate.py). A person can promote all the same (`force`): the record then says so, with
the conditions as they stood. Importable without torch.
"""

from __future__ import annotations

from sqlmodel import Session

from dpo_core.duels import queue_duels
from dpo_core.errors import GateError, RunError
from dpo_core.gate import Gate, read_gate
from dpo_core.loop import candidates, open_round, start_round_in
from dpo_core.serving import point_to_serving
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.database import writing
from store.decision_tables import DecisionRecord
from store.decisions import decide_round, lock_round, require_name, roll_back_to, served_before, to_decide_about
from store.duels import count_duels
from store.errors import StateError
from store.models import Checkpoint, Decision, Round, RoundStatus
from store.roles import require_researcher


def decide(
    workspace: Workspace, *, decision: Decision, by: str, about: str | None = None, force: bool = False
) -> Round:
    """Close the open round: its checkpoint writes the next one (promote), or what serves now does (keep).

    `about`: the checkpoint that whoever decides was shown, so that no other is decided about. Raises GateError for a
    promotion that the gate does not allow, unless it is forced; RunError, StateError.
    """
    with writing(workspace.engine) as session:
        closed = _decide(session, workspace, decision, by, about, force)
    point_to_serving(workspace)
    return closed


def go_on(
    workspace: Workspace,
    *,
    decision: Decision,
    by: str,
    about: str | None = None,
    comparisons: int | None = None,
    force: bool = False,
) -> Round:
    """Decide about the new checkpoint and start the next round, both or neither: the Loop page's one button.

    Raises what `decide` and `start_round` raise.
    """
    with writing(workspace.engine) as session:
        _decide(session, workspace, decision, by, about, force)
        opened = start_round_in(session, workspace, by, comparisons)
    point_to_serving(workspace)
    return opened


def _decide(
    session: Session, workspace: Workspace, decision: Decision, by: str, about: str | None, force: bool
) -> Round:
    current = open_round(session)
    assert current.id is not None
    _, checkpoint = to_decide_about(session=session, round_id=current.id, about=about)
    gate = read_gate(session, workspace, checkpoint)
    against = decision == Decision.PROMOTE and not gate.is_open
    if against and not force:
        raise GateError(closed_words(gate))
    return decide_round(
        session=session, round_id=current.id, decision=decision, by=by, gate=gate.as_record(), forced=against
    )


def closed_words(gate: Gate) -> str:
    """Why a checkpoint is not promoted, and what can be done about it."""
    lacking = "; ".join(f"{condition.name}: {condition.found}" for condition in gate.lacking)
    return (
        f"{gate.checkpoint} does not show yet what [gate] in pairloop.toml asks. {lacking}. Nothing was decided. Judge "
        "more duels, keep what serves, or promote it all the same (--force): the record will say so."
    )


def pick_candidate(workspace: Workspace, *, checkpoint: str, by: str) -> Round:
    """Let another checkpoint of the round's sweep be the one to decide about; its duels are written where it has none.

    Raises RunError where it is none of the sweep's, StateError where nobody is named.
    """
    with writing(workspace.engine) as session:
        require_researcher(session=session, to="pick a checkpoint")
        require_name(by)
        current = lock_round(session=session, round_id=open_round(session).id or 0)
        if current.status != RoundStatus.DECIDING:
            raise RunError(f"There is nothing to pick from: round {current.number} is {current.status}.")
        there = {entry.name: entry for entry in candidates(session, current)}
        if checkpoint not in there:
            raise RunError(f"Round {current.number} was not trained to {checkpoint!r}, but to: {', '.join(there)}.")
        current.result_checkpoint_id = there[checkpoint].id
        session.add(current)
        _ask_for_duels(session, workspace, current, there[checkpoint], by)
        return current


def _ask_for_duels(session: Session, workspace: Workspace, current: Round, picked: Checkpoint, by: str) -> None:
    assert picked.id is not None
    if (
        picked.parent_id is None
        or count_duels(session=session, checkpoint_id=picked.id, against_id=picked.parent_id).written
    ):
        return
    try:
        queue_duels(session, workspace, current=current, checkpoint=picked, by=by)
    except StateError as error:
        raise RunError(
            f"Duels of another checkpoint are being written. Wait for them, or cancel them. ({error})"
        ) from error


def roll_back(workspace: Workspace, *, by: str, to: str | None = None) -> DecisionRecord:
    """Let a checkpoint that served before serve again: the one before, or the one named.

    Raises StateError where there is none, UnknownRecordError.
    """
    with writing(workspace.engine) as session:
        before = served_before(session=session)
        if to is None and not before:
            raise StateError("Nothing served before the base, so there is nothing to roll back to.")
        target = get_checkpoint(session=session, name=to) if to else before[0]
        record = roll_back_to(session=session, checkpoint=target, by=by)
    point_to_serving(workspace)
    return record
