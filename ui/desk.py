"""What lies on an annotator's desk: the pair to judge, the one after it, and how far the round is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from dpo_core.queueing import queue_rules
from dpo_core.workspace import Workspace
from store.comparisons import current_comparison, last_verdict
from store.database import reading, writing
from store.models import Comparison, Round, RoundStatus
from store.pairs import ShownPair, next_pair, pair_ahead, shown_pair
from store.round_work import WorkDone, work_done
from store.rounds import is_on_imports, latest_round
from ui import verdicts


@dataclass(frozen=True)
class Desk:
    """What there is to do for one annotator: the open round, if it asks anybody, and how far it is; the pair on screen,
    with what was said of it where it is looked at again, and the one after it where that is known; and the verdict that
    an undo would take back, with its pair."""

    round: Round | None = None
    work: WorkDone | None = None
    pair: ShownPair | None = None
    said: Comparison | None = None
    ahead: ShownPair | None = None
    last: tuple[int, int] | None = None


def open_round(workspace: Workspace) -> Round | None:
    """The round whose pairs are asked, if one is open."""
    with reading(workspace.engine) as session:
        return _open_round(session)


def _open_round(session: Session) -> Round | None:
    found = latest_round(session=session)
    return None if found is None or found.status == RoundStatus.DONE else found


def set_desk(workspace: Workspace, annotator_id: int) -> Desk:
    """What there is to do now, in one transaction; the pairs among it are kept for this annotator."""
    with writing(workspace.engine) as session:
        current = _open_round(session)
        if current is None or current.id is None:
            return Desk()
        work = work_done(session=session, round_id=current.id, annotator_id=annotator_id)
        if not work.judged and is_on_imports(session=session, entry=current):
            return Desk(current)
        whose: Any = {"session": session, "round_id": current.id, "annotator_id": annotator_id}
        rules = queue_rules(workspace.settings)
        last = last_verdict(**whose)
        pair, said = pair_looked_at(session, current.id, annotator_id)
        if pair is not None:
            return Desk(current, work, pair, said, last=last)
        pair = next_pair(**whose, rules=rules)
        ahead = pair and pair_ahead(**whose, shown=pair.pair_id, rules=rules)
        return Desk(current, work, pair, ahead=ahead, last=last)


def pair_looked_at(session: Session, round_id: int, annotator_id: int) -> tuple[ShownPair | None, Comparison | None]:
    """The judged pair that is being looked at again, while its round is open, and what was said of it."""
    pair_id = verdicts.looked_at()
    if pair_id is None:
        return None, None
    said = current_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id)
    pair = shown_pair(session=session, pair_id=pair_id, annotator_id=annotator_id)
    if said is None or pair.round_id not in (round_id, None):  # a gold pair is of no round
        verdicts.to_the_queue()
        return None, None
    verdicts.recall(session, said)
    return pair, said
