"""How a checkpoint and its parent fare on held-out pairs, in slices, and how far annotators agree there: the ceiling.

Told from what a run kept of each held-out pair (`PairReward`: the checkpoint's, and its parent's under the parent's
id) and from what annotators had said when the run's snapshot was cut: so a run's figures stay what they were.

    pairs      one entry for each pair of the snapshot, held against what the votes came to: the run's own accuracy
    choices    one for each annotator's choice on these pairs: does the reward prefer the text that this one chose?
    source     the pairs, by where their prompts came from
    strength   the choices, by how much better they called the text
    annotator  the choices, by whose they are
    criterion  does the reward prefer the text that is better in this criterion? Ties in it are left out

Pairs with the same two texts (asked in two rounds, or asked and imported) are one. The ceiling looks at all pairs on
held-out prompts that two annotators decided, not only at those that came to a preference: where two people judge a
pair, the ones they disagree on come to none, and what is left would agree by construction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.intervals import Estimate, share_of
from store.models import (
    TRAINED_ON,
    Annotator,
    Checkpoint,
    Comparison,
    Completion,
    Pair,
    PairReward,
    Prompt,
    Role,
    Round,
    Run,
    RunKind,
    Snapshot,
    Verdict,
)
from store.playground_pairs import is_hand_picked
from store.roles import require_researcher
from store.snapshots import get_snapshot

LITERATURE = (0.63, 0.77)  # of pairs: Bai et al. 2022 (HH) to Ouyang et al. 2022 (InstructGPT)
LEAST_SHARED = 10  # pairs that two annotators decided: fewer say too little to draw a ceiling from
SPLIT = "test"
STRENGTHS = {3: "much better", 2: "clearly better", 1: "slightly better", None: "no strength said"}
KINDS = ("strength", "annotator", "source", "criterion")
Texts = tuple[int, str, str]  # the prompt's id and the two texts' hashes, in an order of their own


@dataclass(frozen=True)
class Slice:
    """How often the implicit reward agrees, before (the parent) and after; no `before` where that was not kept."""

    name: str
    before: Estimate
    after: Estimate


@dataclass(frozen=True)
class Ceiling:
    """How often two annotators agree, with its 95% interval: nothing can be expected to agree with them much more.

    `value` None and 0 `pairs` where it is from the literature.
    """

    low: float
    high: float
    value: float | None
    pairs: int  # that two or more annotators decided
    told_from: Literal["held_out", "round", "literature"]


@dataclass(frozen=True)
class HeldOut:
    """A checkpoint beside its parent. `by` has each of KINDS; the slices of a kind come largest or strongest first.

    The slices of `source` add up to `pairs`, those of `strength` and of `annotator` to `choices`.
    """

    checkpoint: str
    parent: str
    pairs: Slice
    choices: Slice
    by: dict[str, list[Slice]]
    ceiling: Ceiling


@dataclass(frozen=True)
class _Judged:
    """A held-out pair: margins for the text with the hash `chosen`, less the other's."""

    texts: Texts
    chosen: str
    source: str
    before: float | None
    after: float


@dataclass(frozen=True)
class _Said:
    """One comparison; `first` and `second` are the hashes of the texts that it calls a and b."""

    texts: Texts
    first: str
    second: str
    verdict: str
    strength: int | None
    criteria: dict[str, str]
    annotator: str
    votes: bool  # whether it counts as one annotator's own view: no import, no adjudication

    def named(self, side: str) -> str | None:
        """The hash of the text that a verdict, or a criterion's, names; None for any that names none."""
        return {Verdict.A.value: self.first, Verdict.B.value: self.second}.get(side)


@dataclass(frozen=True)
class _Case:
    """Something that the reward agrees with or not, and where it belongs in each kind of slices."""

    prompt: int
    before: float | None
    after: float
    name: str


def rightness(margin: float) -> float:
    """1 for a positive margin, 0 for a negative one; a margin of exactly zero says nothing and counts half."""
    return 1.0 if margin > 0 else 0.5 if margin == 0 else 0.0


def judging_run(*, session: Session, checkpoint_id: int) -> Run | None:
    """The training that made this checkpoint and judged it; None for one that was not judged on any pair."""
    query = select(Run).join(PairReward, col(PairReward.run_id) == col(Run.id))
    mine = query.where(PairReward.checkpoint_id == checkpoint_id, PairReward.split == SPLIT, Run.kind == RunKind.TRAIN)
    return session.exec(mine.order_by(col(Run.id)).limit(1)).first()


def read_held_out(*, session: Session, run: Run, checkpoint_id: int | None = None) -> HeldOut | None:
    """What a run found on held-out pairs about its checkpoint, or about another of its sweep; None where nothing.

    Raises NotAllowedError; UnknownRecordError where the run's snapshot is gone.
    """
    require_researcher(session=session, to="see how checkpoints are judged")
    number = checkpoint_id or run.checkpoint_id
    checkpoint = session.get(Checkpoint, number) if number else None
    if checkpoint is None:
        return None
    parent = session.get(Checkpoint, checkpoint.parent_id or checkpoint.id) or checkpoint
    judged = _judged(session, run, checkpoint, parent)
    if not judged:
        return None
    snapshot = get_snapshot(session=session, name=run.settings["snapshot"])
    held_out = _said(session, run, snapshot, col(Prompt.held_out))
    pairs, choices = _pair_cases(judged), list(_choice_cases(judged, held_out, lambda one: one.annotator))
    by_strength = _choice_cases(judged, held_out, lambda one: STRENGTHS[one.strength])
    by = {
        "strength": _slices(by_strength, list(STRENGTHS.values())),
        "annotator": _slices(choices),
        "source": _slices(pairs),
        "criterion": _slices(_criterion_cases(judged, held_out)),
    }
    ceiling = _ceiling(session, run, checkpoint, snapshot, held_out)
    return HeldOut(
        checkpoint.name, parent.name, _slice("all pairs", pairs), _slice("all choices", choices), by, ceiling
    )


def _judged(session: Session, run: Run, checkpoint: Checkpoint, parent: Checkpoint) -> dict[Texts, _Judged]:
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    query = (
        sa.select(
            col(PairReward.checkpoint_id),
            col(PairReward.chosen_side),
            col(PairReward.margin),
            col(Pair.prompt_id),
            a.c.text_hash,
            b.c.text_hash,
            col(Prompt.source),
        )
        .join(Pair, col(Pair.id) == col(PairReward.pair_id))
        .join(Prompt, col(Prompt.id) == col(Pair.prompt_id))
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
        .where(col(PairReward.run_id) == run.id, col(PairReward.split) == SPLIT)
    )
    margins: dict[int, dict[Texts, float]] = defaultdict(dict)
    known: dict[Texts, tuple[str, str]] = {}
    for judge, side, margin, prompt, first, second, source in session.execute(query):
        texts = _texts(prompt, first, second)
        margins[judge][texts] = margin
        known[texts] = (first if side == "a" else second), source
    before, after = (margins[each.id or 0] for each in (parent, checkpoint))
    return {texts: _Judged(texts, *known[texts], before.get(texts), margin) for texts, margin in after.items()}


def _texts(prompt: int, first: str, second: str) -> Texts:
    return prompt, min(first, second), max(first, second)


def _said(session: Session, run: Run, snapshot: Snapshot, which: Any) -> list[_Said]:
    """What stood on pairs that may become preferences when the snapshot was cut, oldest first; skips left out.

    Nor what was said of held-out pairs that were picked by hand: they judge nothing (preferences.py).
    """
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    query = (
        sa.select(
            col(Pair.prompt_id),
            a.c.text_hash,
            b.c.text_hash,
            col(Comparison.verdict),
            col(Comparison.strength),
            col(Comparison.criteria),
            col(Annotator.name),
            ~col(Comparison.adjudicates) & (col(Annotator.role) != Role.SOURCE),
        )
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Prompt, col(Prompt.id) == col(Pair.prompt_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
        .outerjoin(Round, col(Round.id) == col(Pair.round_id))
        .where(
            which, *_stood(run, snapshot), col(Comparison.verdict) != Verdict.SKIP, col(Pair.purpose).in_(TRAINED_ON)
        )
        .where(~is_hand_picked())
        .order_by(col(Comparison.id))
    )
    rows = session.execute(query)
    return [_Said(_texts(prompt, first, second), first, second, *rest) for prompt, first, second, *rest in rows]


def _stood(run: Run, snapshot: Snapshot) -> list[Any]:
    """Which comparisons the snapshot was cut from: those of its rounds and people that stood at that moment.

    That is when the run was asked for: what comes out the same is the same snapshot, cut earlier and of other people's.
    """
    moment, cut = run.created_at, snapshot.manifest["filter"]
    asked = sa.true() if cut["round_numbers"] is None else col(Round.number).in_(cut["round_numbers"])
    imported = col(Pair.round_id).is_(None)
    return [
        col(Comparison.created_at) <= moment,
        col(Comparison.superseded_at).is_(None) | (col(Comparison.superseded_at) > moment),
        col(Annotator.retracted_at).is_(None) | (col(Annotator.retracted_at) > moment),
        col(Annotator.name).not_in(cut["exclude_annotators"]),
        asked | imported if cut["include_imported"] else asked & ~imported,
    ]


def _pair_cases(judged: dict[Texts, _Judged]) -> list[_Case]:
    return [_case(one, one.chosen, one.source) for one in judged.values()]


def _choice_cases(judged: dict[Texts, _Judged], said: Sequence[_Said], name: Callable[[_Said], str]) -> Iterable[_Case]:
    for one in said:
        chosen = one.named(one.verdict)
        if chosen is not None and one.texts in judged:
            yield _case(judged[one.texts], chosen, name(one))


def _criterion_cases(judged: dict[Texts, _Judged], said: Sequence[_Said]) -> Iterable[_Case]:
    for one in said:
        for criterion, side in one.criteria.items():
            better = one.named(side)
            if better is not None and one.texts in judged:
                yield _case(judged[one.texts], better, criterion)


def _case(pair: _Judged, preferred: str, name: str) -> _Case:
    """Whether the pair's margins speak for this text."""
    sign = 1 if preferred == pair.chosen else -1
    before = None if pair.before is None else rightness(sign * pair.before)
    return _Case(pair.texts[0], before, rightness(sign * pair.after), name)


def _slices(cases: Iterable[_Case], order: Sequence[str] = ()) -> list[Slice]:
    """The cases of each name: in this order, else the largest first."""
    named: dict[str, list[_Case]] = defaultdict(list)
    for case in cases:
        named[case.name].append(case)
    names = [name for name in order if name in named] or sorted(named, key=lambda name: (-len(named[name]), name))
    return [_slice(name, named[name]) for name in names]


def _slice(name: str, cases: Sequence[_Case]) -> Slice:
    before = [case.before for case in cases if case.before is not None]
    prompts = [case.prompt for case in cases]
    whole = len(before) == len(cases)
    return Slice(
        name, share_of(before, prompts) if whole else Estimate(), share_of([case.after for case in cases], prompts)
    )


def _ceiling(
    session: Session, run: Run, checkpoint: Checkpoint, snapshot: Snapshot, held_out: Sequence[_Said]
) -> Ceiling:
    """From held-out pairs where enough were decided twice, else from all of the round's, else from the literature."""
    found = _agreement(held_out, "held_out")
    if found is None and (number := run.round_id or _round_of(session, checkpoint)) is not None:
        found = _agreement(_said(session, run, snapshot, col(Pair.round_id) == number), "round")
    return found or Ceiling(*LITERATURE, value=None, pairs=0, told_from="literature")


def _round_of(session: Session, checkpoint: Checkpoint) -> int | None:
    return session.exec(select(Round.id).where(Round.result_checkpoint_id == checkpoint.id)).first()


def _agreement(said: Sequence[_Said], told_from: Literal["held_out", "round"]) -> Ceiling | None:
    """How often two annotators who both decided a pair chose the same text; None for too few pairs."""
    votes: dict[Texts, dict[str, str]] = defaultdict(dict)
    for one in said:
        chosen = one.named(one.verdict)
        if one.votes and chosen is not None:
            votes[one.texts][one.annotator] = chosen
    met = [
        (float(one == other), texts[0])
        for texts, by_person in votes.items()
        for one, other in combinations(by_person.values(), 2)
    ]
    pairs = sum(len(by_person) > 1 for by_person in votes.values())
    share = share_of([same for same, _ in met], [prompt for _, prompt in met])
    if pairs < LEAST_SHARED or share.interval is None:
        return None
    return Ceiling(*share.interval, value=share.value, pairs=pairs, told_from=told_from)
