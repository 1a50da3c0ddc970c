"""Second looks: comparisons that the policy trained on them finds most unlikely, asked again, and what came of it.

    pairs_to_examine     which of a training's pairs the new checkpoint is asked about
    queue_second_looks   those it finds most unlikely go back into the queue
    move_open_looks      what nobody answered goes along into the next round
    read_second_looks    how many were overturned, beside how often people change their mind anyway

A second look is a repeat: the two texts on the other sides, told from no other pair by whoever compares, counted
towards no target and never trained on. Other repeats are drawn at random and want no number of answers; a second look
wants one (`holds.is_second_look`). So what is selected, by a policy, for being probably wrong stays out of the figures
of how consistent people are, which those at random tell.

It is asked of who gave the verdict. Where they come no more, have repeated the pair already, or are a file, it is
addressed to nobody: whoever has not judged the pair is served it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from store.database import chunks
from store.hashing import text_hash
from store.holds import decided, is_second_look
from store.intervals import Estimate, Interval, difference_interval, share_of
from store.models import (
    COUNTED,
    Annotator,
    Comparison,
    Completion,
    Pair,
    PairReward,
    Prompt,
    Purpose,
    Role,
    Round,
    RoundStatus,
    Run,
    Verdict,
)
from store.queue_tables import QueueMark
from store.reliability import mirrored
from store.roles import require_researcher

SPLIT = "train"  # of the rewards that say what a policy thinks of what it was trained on
SIDES = (Verdict.A, Verdict.B)
_LOOK: Any = aliased(Pair)
_FIRST: Any = aliased(Comparison)


@dataclass(frozen=True)
class SecondLook:
    """An answered one. `first` and `second`: the verdicts, in the pair's own terms; `texts`: its `a` and `b`.

    `margin`: the implicit reward of what was chosen less the other's, which sent the pair back. `by_same`: whether the
    same person answered both times.
    """

    pair_id: int
    prompt_id: int
    prompt: str
    texts: tuple[str, str]
    first: str
    second: str
    margin: float
    by_same: bool

    @property
    def overturned(self) -> bool:
        """Whether the second verdict is another: the other side, a tie or both bad."""
        return self.first != self.second


@dataclass(frozen=True)
class SecondLooks:
    """What came of all second looks.

    `overturned`: the share of those answered; `by_same`: of those that the same person answered. `at_random`: how often
    people say something else on repeats drawn at random, of verdicts that had named a side too. `more`: how much more
    often the former, with a 95% interval; None while one of both is unknown.
    """

    asked: int
    overturned: Estimate
    by_same: Estimate
    at_random: Estimate
    more: Interval | None
    looks: list[SecondLook]

    @property
    def overturned_count(self) -> int:
        """How many were overturned."""
        return sum(look.overturned for look in self.looks)


def pairs_to_examine(*, session: Session, pair_ids: Sequence[int], most: int, seed: str) -> list[int]:
    """Up to `most` of these pairs for the new checkpoint to judge, of those that may be asked again.

    Those that no checkpoint was asked about first, so that in time all have their turn; else as drawn from `seed`.
    """
    askable: list[int] = []
    for chunk in chunks(pair_ids):
        askable += [each for each in session.exec(select(Pair.id).where(col(Pair.id).in_(chunk), *_askable())) if each]
    known = set(session.exec(select(PairReward.pair_id).where(PairReward.split == SPLIT)))
    return sorted(askable, key=lambda each: (each in known, text_hash(f"examine:{seed}:{each}")))[:most]


def _askable() -> tuple[Any, ...]:
    """Conditions on `Pair`: asked for training by itself, not decided about, its two texts not looked at again yet."""
    again = sa.select(_LOOK.id).where(
        _LOOK.completion_a_id == col(Pair.completion_b_id),
        _LOOK.completion_b_id == col(Pair.completion_a_id),
        is_second_look(_LOOK),
    )
    return (
        col(Pair.purpose) == Purpose.TRAIN,
        col(Pair.slate_id).is_(None),  # two of several texts, without the others, would be another question
        ~decided(),
        ~again.correlate(Pair).exists(),
    )


def queue_second_looks(
    *, session: Session, run_id: int, checkpoint_id: int, round_id: int, count: int, spread: int, seed: int
) -> int:
    """Ask again, in this round, the `count` comparisons that the run's checkpoint finds most unlikely; how many.

    That is: of the pairs whose rewards the run kept, those with the lowest margins, all below 0. They are mixed among
    the pairs that the round still asks for; where there are none, among the `spread` that are to come.
    """
    doubted = session.exec(
        select(Pair, PairReward.chosen_side)
        .join(PairReward, col(PairReward.pair_id) == Pair.id)
        .where(
            PairReward.run_id == run_id,
            PairReward.checkpoint_id == checkpoint_id,
            PairReward.split == SPLIT,
            PairReward.margin < 0,
            *_askable(),
        )
        .order_by(col(PairReward.margin), col(Pair.id))
    )
    found = [(pair, whom) for pair, side in doubted for whom in _whom(session, pair, side)][:count]
    for (pair, whom), place in zip(found, _places(session, round_id, len(found), spread, seed), strict=True):
        session.add(_second_look(pair, round_id, whom, place))
    _look_from_the_start(session, round_id)
    return len(found)


def _second_look(original: Pair, round_id: int, whom: int | None, position: int) -> Pair:
    return Pair(
        prompt_id=original.prompt_id,
        completion_a_id=original.completion_b_id,
        completion_b_id=original.completion_a_id,
        round_id=round_id,
        purpose=Purpose.REPEAT,
        side_seed=original.side_seed,
        position=position,
        wanted=1,
        open_slots=1,
        repeats=original.id,
        asked_of=whom,
    )


def _whom(session: Session, pair: Pair, chosen_side: str) -> list[int | None]:
    """Whom to ask again: who said this first, or anybody else (None). Empty where nobody is there to be asked.

    Empty as well where nobody says it any more: what was trained on was taken back meanwhile.
    """
    said = session.execute(
        sa.select(col(Annotator.id), col(Comparison.verdict), _may_compare())
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(col(Comparison.pair_id) == pair.id, *_stands())
        .order_by(col(Comparison.id))
    ).all()
    of_it = select(Pair.asked_of).where(Pair.repeats == pair.id, Pair.purpose == Purpose.REPEAT)
    again = set(session.exec(of_it))
    agreeing = [(person, may) for person, verdict, may in said if verdict == chosen_side]
    whom = [person for person, may in agreeing if may and person not in again]
    judges = [person for person, *_ in said]
    others = select(Annotator.id).where(_may_compare(), col(Annotator.id).not_in(judges)).limit(1)
    if whom or not agreeing:
        return [*whom[:1]]
    return [None] if session.exec(others).first() is not None else []


def _may_compare() -> Any:
    return col(Annotator.active) & (col(Annotator.role) != Role.SOURCE)


def _stands() -> tuple[Any, ...]:
    """Conditions on a comparison of a trusted annotator's."""
    return (
        col(Comparison.superseded_at).is_(None),
        ~col(Comparison.adjudicates),
        col(Annotator.retracted_at).is_(None),
    )


def _places(session: Session, round_id: int, count: int, spread: int, seed: int) -> list[int]:
    """Positions in the queue, drawn among those of the pairs that are still asked, or to be asked after all others."""
    in_round = Pair.round_id == round_id, col(Pair.purpose).in_(COUNTED)
    there = sorted(session.exec(select(Pair.position).where(*in_round, Pair.open_slots > 0)))
    if not there:
        last = session.exec(select(sa.func.max(Pair.position)).where(*in_round)).one() or 0
        there = list(range(last + 1, last + 1 + max(1, spread)))
    draw = Random(seed)
    return [draw.choice(there) for _ in range(count)]


def _look_from_the_start(session: Session, round_id: int) -> None:
    session.execute(sa.delete(QueueMark).where(col(QueueMark.round_id) == round_id))


def move_open_looks(*, session: Session, round_id: int, places: int, seed: int) -> int:
    """Ask the new round what nobody answered of the second looks of rounds that are done; how many.

    They are spread over the first `places` positions, where the round's own pairs will be. One that was asked of
    somebody who comes no more is anybody's now. (A skip is left at that.)
    """
    said = sa.select(col(Comparison.pair_id)).where(col(Comparison.superseded_at).is_(None))
    over = sa.select(col(Round.id)).where(col(Round.status) == RoundStatus.DONE)
    is_open = col(Pair.open_slots) > 0, col(Pair.round_id).in_(over), col(Pair.id).not_in(said)
    left = session.exec(select(Pair).where(is_second_look(Pair), *is_open).order_by(col(Pair.id))).all()
    gone = set(session.exec(select(Annotator.id).where(~col(Annotator.active))))
    draw = Random(seed)
    for pair in left:
        pair.round_id, pair.position = round_id, draw.randrange(max(1, places))
        pair.asked_of = None if pair.asked_of in gone else pair.asked_of
        session.add(pair)
    _look_from_the_start(session, round_id)
    return len(left)


def read_second_looks(*, session: Session) -> SecondLooks:
    """What came of all second looks so far, the most unlikely first. Raises NotAllowedError."""
    require_researcher(session=session, to="see what came of second looks")
    asked = session.exec(select(sa.func.count()).select_from(Pair).where(is_second_look(Pair))).one()
    looks = _answered(session)
    by_same = _share([look for look in looks if look.by_same])
    at_random = _changed_at_random(session)
    return SecondLooks(asked, _share(looks), by_same, at_random, difference_interval(by_same, at_random), looks)


def overturned_pairs(*, session: Session) -> set[int]:
    """The pairs whose first verdict a second look overturned."""
    return {look.pair_id for look in _answered(session) if look.overturned}


def _share(looks: Sequence[SecondLook]) -> Estimate:
    return share_of([float(look.overturned) for look in looks], [look.prompt_id for look in looks])


def _answered(session: Session) -> list[SecondLook]:
    """Those that somebody trusted answered, of what somebody trusted had said; the lowest margin first."""
    a, b = aliased(Completion), aliased(Completion)
    rows = session.execute(
        sa.select(
            *(col(Pair.id), col(Pair.prompt_id), col(Prompt.messages), col(a.text), col(b.text)),
            *(col(PairReward.chosen_side), col(Comparison.verdict), col(PairReward.margin)),
            _LOOK.asked_of.is_not(None),
        )
        .select_from(Comparison)
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .join(_LOOK, _LOOK.id == col(Comparison.pair_id))
        .join(Pair, col(Pair.id) == _LOOK.repeats)
        .join(Prompt, col(Prompt.id) == col(Pair.prompt_id))
        .join(a, col(a.id) == col(Pair.completion_a_id))
        .join(b, col(b.id) == col(Pair.completion_b_id))
        .join(PairReward, col(PairReward.id) == _what_sent_it_back())
        .where(is_second_look(_LOOK), *_stands(), col(Comparison.verdict) != Verdict.SKIP, _was_said())
        .order_by(col(PairReward.margin), col(Pair.id))
    )
    return [
        SecondLook(pair, prompt, messages[-1]["content"], (a, b), first, mirrored(second), margin, by_same)
        for pair, prompt, messages, a, b, first, second, margin, by_same in rows
    ]


def _was_said() -> Any:
    """Whether somebody trusted said what the policy doubted, and did so still when the second look was answered.

    Where it was asked of the same person, they. Who had changed their mind by then was not overturned by it.
    """
    who: Any = aliased(Annotator)
    said = sa.select(_FIRST.id).join(who, who.id == _FIRST.annotator_id)
    stood = _FIRST.superseded_at.is_(None) | (_FIRST.superseded_at > col(Comparison.created_at))
    return said.where(
        _FIRST.pair_id == _LOOK.repeats,
        _FIRST.verdict == PairReward.chosen_side,
        ~_FIRST.adjudicates,
        _FIRST.created_at <= col(Comparison.created_at),
        stood,
        who.retracted_at.is_(None),
        _LOOK.asked_of.is_(None) | (_FIRST.annotator_id == _LOOK.asked_of),
    ).exists()


def _what_sent_it_back() -> Any:
    """The reward by which a second look was chosen: that of the last training asked for before it was written."""
    kept: Any = aliased(PairReward)
    asked = sa.select(kept.id).join(Run, col(Run.id) == kept.run_id)
    before = kept.pair_id == _LOOK.repeats, kept.split == SPLIT, col(Run.created_at) <= _LOOK.created_at
    return asked.where(*before).order_by(kept.id.desc()).limit(1).correlate(_LOOK).scalar_subquery()


def _changed_at_random(session: Session) -> Estimate:
    """How often people say something else of a pair drawn at random, where they had named a side at first."""
    rows = session.execute(
        sa.select(_FIRST.verdict, col(Comparison.verdict), col(Pair.prompt_id))
        .select_from(Comparison)
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(_FIRST, (_FIRST.pair_id == col(Pair.repeats)) & (_FIRST.annotator_id == col(Comparison.annotator_id)))
        .where(
            *_stands(),
            col(Comparison.verdict) != Verdict.SKIP,
            col(Pair.purpose) == Purpose.REPEAT,
            ~is_second_look(Pair),
            _FIRST.superseded_at.is_(None),
            ~_FIRST.adjudicates,
            _FIRST.verdict.in_(SIDES),
        )
    ).all()
    changed = [float(first != mirrored(second)) for first, second, _ in rows]
    return share_of(changed, [prompt for *_, prompt in rows])
