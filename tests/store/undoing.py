"""Undo as the Label page does it: take back the verdict that the annotator sees as their last."""

from __future__ import annotations

from sqlmodel import Session

from store.comparisons import last_verdict, undo_comparison
from store.models import Comparison


def undo_last(*, session: Session, annotator_id: int, round_id: int) -> Comparison | None:
    """Take back this annotator's latest standing verdict in the round, if there is one."""
    last = last_verdict(session=session, annotator_id=annotator_id, round_id=round_id)
    return last and undo_comparison(session=session, comparison_id=last[0], annotator_id=annotator_id)
