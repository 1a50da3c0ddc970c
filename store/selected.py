"""What selecting pairs yielded: what people said of pairs that were selected, beside those that were left to chance.

That is the yield of a label, how many become preferences and how long one takes, and not what is learned from it.

Both are of the same rounds: which prompts are left to chance is drawn for each, so the two sides differ in the
selection alone. Pairs on held-out prompts, and those drawn at random because nothing was known to select by, are on
neither side. Intervals count the verdicts of one prompt for what they are worth. Rounds in which one side has no
verdict yet do not count towards all rounds; where `random_share` was changed between rounds, what differs between
these shows in all of them as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.intervals import Estimate, Interval, difference_interval, median_of, share_of
from store.models import Annotator, Comparison, Pair, Round, SelectedBy, Verdict
from store.roles import require_researcher

BY_A_RULE = (SelectedBy.NEAR, SelectedBy.FAR, SelectedBy.DIVERSE)
FEWEST = 20  # prompts on either side, below which a difference is not spoken of
SIDES = (Verdict.A, Verdict.B)


@dataclass(frozen=True)
class Side:
    """What people said of the pairs on one side of the comparison.

    `preferences`: the share of verdicts that prefer one completion (no tie, both bad or skip). `seconds`: the median
    over prompts. `guessed_wrong`: of the preferences, how often they are for the completion that the policy had given
    less reward, before any training on them. That follows from the rule (whoever asks where the policy does not know
    finds it wrong half of the time, were it ever so good), so it says what was asked and nothing of what was gained.
    """

    verdicts: int
    prompts: int
    preferences: Estimate
    seconds: Estimate
    guessed_wrong: Estimate


@dataclass(frozen=True)
class Gain:
    """Both sides in one round, or in all (`round` None); and how much more there is of each on the selected side."""

    round: int | None
    selected: Side
    by_chance: Side

    @property
    def preferences(self) -> Interval | None:
        """How many more verdicts become preferences, as a share, with 95% confidence; None while that is unknown."""
        return difference_interval(self.selected.preferences, self.by_chance.preferences)

    @property
    def seconds(self) -> Interval | None:
        """How much longer people take, likewise."""
        return difference_interval(self.selected.seconds, self.by_chance.seconds)

    @property
    def is_told(self) -> bool:
        """Whether there is enough on either side to speak of."""
        return min(self.selected.prompts, self.by_chance.prompts) >= FEWEST


@dataclass(frozen=True)
class Gains:
    """What selecting yielded. `pairs`: how many were selected in which way; `rounds`: those with verdicts on both."""

    pairs: dict[str, int]
    rounds: list[Gain]
    all: Gain


class _Said(NamedTuple):
    round: int
    prompt: int
    by: str
    margin: float | None
    verdict: str
    seconds: float | None


def read_gains(*, session: Session) -> Gains:
    """What selecting pairs yielded so far, in each round and in all. Raises NotAllowedError."""
    require_researcher(session=session, to="see what selecting pairs gained")
    counted = session.exec(
        select(Pair.selected_by, sa.func.count()).where(_was_selected()).group_by(col(Pair.selected_by))
    )
    pairs = {str(how): count for how, count in counted}
    rounds: defaultdict[int, list[_Said]] = defaultdict(list)
    for said in _said(session) if pairs else []:
        rounds[said.round].append(said)
    of_both = {number: said for number, said in sorted(rounds.items()) if len({_by_chance(each) for each in said}) == 2}
    every = [each for said in of_both.values() for each in said]
    return Gains(pairs, [_gain(number, said) for number, said in of_both.items()], _gain(None, every))


def _was_selected() -> Any:
    return col(Pair.selected_by).is_not(None)


def _said(session: Session) -> list[_Said]:
    """Verdicts, skips among them, of trusted annotators on pairs of both sides."""
    rows = session.execute(
        sa.select(
            *(col(Round.number), col(Pair.prompt_id), col(Pair.selected_by), col(Pair.selected_margin)),
            *(col(Comparison.verdict), col(Comparison.seconds)),
        )
        .select_from(Pair)
        .join(Round, col(Round.id) == col(Pair.round_id))
        .join(Comparison, col(Comparison.pair_id) == col(Pair.id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .where(
            _was_selected(),
            col(Pair.selected_by).in_((*BY_A_RULE, SelectedBy.SLICE)),
            col(Comparison.superseded_at).is_(None),
            ~col(Comparison.adjudicates),
            col(Annotator.retracted_at).is_(None),
        )
        .order_by(col(Comparison.id))
    )
    return [_Said(*row) for row in rows]


def _by_chance(said: _Said) -> bool:
    return said.by == SelectedBy.SLICE


def _gain(number: int | None, said: Sequence[_Said]) -> Gain:
    selected = [each for each in said if not _by_chance(each)]
    return Gain(number, _side(selected), _side([each for each in said if _by_chance(each)]))


def _side(said: Sequence[_Said]) -> Side:
    decided = [each for each in said if each.verdict in SIDES]
    leaning = [each for each in decided if each.margin]
    seconds: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for each in said:
        if each.seconds is not None:
            seconds[each.round, each.prompt].append(each.seconds)
    return Side(
        verdicts=len(said),
        prompts=len({each.prompt for each in said}),
        preferences=share_of([float(each.verdict in SIDES) for each in said], [each.prompt for each in said]),
        seconds=median_of([median(times) for times in seconds.values()]),
        guessed_wrong=share_of([float(_contradicts(each)) for each in leaning], [each.prompt for each in leaning]),
    )


def _contradicts(said: _Said) -> bool:
    return (said.verdict == Verdict.A) != ((said.margin or 0) > 0)
