"""How strong every checkpoint that was ever duelled is, over the base. Apart, as evalica takes a second to load."""

from __future__ import annotations

from sqlmodel import Session

from store.checkpoints import BASE, list_checkpoints
from store.duels import all_met, judged_duels
from store.intervals import Estimate
from store.strengths import Meeting, strengths


def read_standings(session: Session) -> dict[str, Estimate]:
    """Bradley-Terry strengths in points over the base, by checkpoint, with their 95% intervals."""
    return strengths(all_meetings(session), anchor=BASE)


def all_meetings(session: Session) -> list[Meeting]:
    """Every judged duel between any two checkpoints."""
    names = {checkpoint.id: checkpoint.name for checkpoint in list_checkpoints(session=session)}
    return [
        Meeting(names[new], names[old], duel.outcome, duel.prompt)
        for new, old in all_met(session=session)
        for duel in judged_duels(session=session, checkpoint_id=new, against_id=old)
    ]
