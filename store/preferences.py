"""Comparisons -> preferences: one for each two texts of a prompt, by majority, with what was dropped and why.

A pure function of what was said: nothing here depends on database ids or on the order in which things were written.
Pairs with the same two texts (asked in two rounds, or asked here and imported) are one, and their votes one poll.

The rules, for the votes (verdicts other than skip) on two texts:
- the side with more votes is chosen; none, where both have as many;
- agreement is the chosen side's share of all votes, ties and both-bads among them; below `min_agreement` it is dropped;
- with `keep_ties`, what comes to no preference is a tie where more votes say tie than name either side, and their share
  is `min_agreement` or more. Ties on held-out prompts are dropped as ever: there is nothing to judge by them;
- where somebody adjudicated, that verdict alone decides, the latest where there are several, whatever the others said
  and `min_agreement` asks for. Agreement is still that of all votes. A tie, both-bad or skip drops the two texts;
- what was said of a pair of the Playground does not count where its prompt is held out: it was picked by hand, and
  held-out accuracy is told from pairs that are left to chance;
- a vote that came of a ranking is a vote like any other; the preference says which texts were ranked together;
- with `confidence`, each preference has the chance that it is right, from how reliable its annotators are
  (reliability.py). Who is reliable is told from all that the filter's rounds hold: duels and gold pairs as well.
  The majority still chooses: where that is no more likely right than wrong, it counts as too little agreement;
- with `votes`, each preference has how many votes named either text, from which that chance may be told instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from store.annotators import get_annotator
from store.database import chunks
from store.dawid_skene import KNOWN, Reliability, Vote, fit_reliability
from store.hashing import text_hash
from store.models import (
    TRAINED_ON,
    Annotator,
    Checkpoint,
    Comparison,
    Completion,
    Pair,
    Prompt,
    Round,
    Verdict,
)
from store.playground_pairs import is_hand_picked
from store.prompts import Message
from store.ranking_tables import Ranking, Slate
from store.reliability import UNTELLING
from store.rounds import get_round
from store.snapshot_filter import REASONS, SnapshotFilter, drops_in_words, rounds_asked_for


@dataclass(frozen=True)
class Preference:
    """One row of a snapshot. In a tie the text with the lower hash stands as `chosen`, which means nothing."""

    prompt: list[Message]
    prompt_hash: str
    chosen: str
    rejected: str
    chosen_source: str  # the checkpoint's name, or where an imported text came from
    rejected_source: str
    annotators: int  # how many took part
    agreement: float  # the share of votes that went to `chosen`, or that said tie
    purpose: str
    round: int | None  # the first round it was compared in; None if it was imported
    held_out: bool
    tie: bool = False
    adjudicated: bool = False  # decided by one verdict, whatever the votes
    confidence: float | None = None  # the chance that `chosen` is the better one; None where nobody asked
    votes_for: int | None = None  # how many named `chosen`; None where nobody asked
    votes_against: int | None = None  # how many named `rejected`
    ranking: str | None = None  # names the texts that were ranked together, where a vote came of a ranking
    ranked_together: int | None = None  # how many these were
    selected_by: str | None = None  # how the two were selected from several, where they were
    reward_margin: float | None = None  # the implicit reward of `chosen` less that of `rejected` at that moment


@dataclass(frozen=True)
class Poll:
    """Preferences and ties, how many comparisons were looked at, and how many were dropped for which reason.

    `reliability`: the model that confidence comes from, where it was asked for.
    """

    preferences: list[Preference]
    comparisons: int
    dropped: dict[str, int]
    ties: list[Preference]  # empty unless the filter keeps them
    reliability: Reliability | None = None

    def described_drops(self) -> str:
        """The dropped comparisons in words: "31 ties, 1 skip"."""
        return drops_in_words(self.dropped)


@dataclass(frozen=True)
class _Said:
    pair_id: int
    annotator: str
    verdict: str
    retracted: bool
    purpose: str
    adjudicates: bool
    moment: datetime
    gold: str | None
    hand_picked: bool
    slate: str | None  # names the completions that were ranked together, where this came of a ranking
    slate_size: int | None


@dataclass(frozen=True)
class _Text:
    hash: str
    text: str
    source: str


@dataclass(frozen=True)
class _PairContent:
    prompt_hash: str
    messages: list[Message]
    held_out: bool
    purpose: str
    round: int | None
    selected_by: str | None
    selected_margin: float | None
    a: _Text
    b: _Text

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two pairs one: the prompt and the two texts, in an order of their own."""
        return self.prompt_hash, *sorted((self.a.hash, self.b.hash))

    def named(self, verdict: str) -> str:
        """The hash of the text that a verdict names; the verdict itself where it names none."""
        return {Verdict.A.value: self.a.hash, Verdict.B.value: self.b.hash}.get(verdict, verdict)


@dataclass
class _Poll:
    """The votes on two texts, gathered over every pair that shows them."""

    contents: list[_PairContent] = field(default_factory=list)
    votes: list[tuple[str, str]] = field(default_factory=list)  # (annotator, chosen text's hash, or tie / both_bad)
    rulings: list[tuple[datetime, str, str]] = field(default_factory=list)  # (when, annotator, as in votes, or skip)
    slates: set[tuple[str, int]] = field(default_factory=set)  # what was ranked together, where votes came of rankings

    @property
    def ruling(self) -> str | None:
        """What was decided last, if anybody adjudicated."""
        return max(self.rulings)[2] if self.rulings else None


def poll_comparisons(*, session: Session, filter: SnapshotFilter) -> Poll:
    """What the standing comparisons add up to. Raises UnknownRecordError for an unknown name or round."""
    for name in filter.exclude_annotators:
        get_annotator(session=session, name=name)
    for number in filter.round_numbers or ():
        get_round(session=session, number=number)
    said = _standing(session, filter)
    dropped = dict.fromkeys(REASONS, 0) | Counter(reason for one in said if (reason := _reason_to_drop(one, filter)))
    usable = [one for one in said if _is_usable(one, filter)]
    telling = [one for one in said if filter.confidence and _is_telling(one, filter)]
    contents = _pair_contents(session, sorted({one.pair_id for one in (*usable, *telling)}))
    reliability = _reliability(telling, contents) if filter.confidence else None
    kept = []
    for poll in _gathered(usable, contents):
        outcome = _outcome(poll, filter, reliability)
        if isinstance(outcome, Preference):
            kept.append(_with_votes(outcome, poll) if filter.votes else outcome)
        else:
            dropped = {reason: count + outcome[reason] for reason, count in dropped.items()}
    preferences, ties = ([each for each in kept if each.tie == tie] for tie in (False, True))
    return Poll(preferences, len(said), dropped, ties, reliability)


def _standing(session: Session, filter: SnapshotFilter) -> list[_Said]:
    """Every standing comparison that the filter's rounds cover."""
    query = (
        sa.select(
            col(Comparison.pair_id),
            col(Annotator.name),
            col(Comparison.verdict),
            col(Annotator.retracted_at).is_not(None),
            col(Pair.purpose),
            col(Comparison.adjudicates),
            col(Comparison.created_at),
            col(Pair.gold_verdict),
            is_hand_picked(),
            col(Slate.content_hash),
            col(Slate.size),
        )
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Prompt, col(Prompt.id) == col(Pair.prompt_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .outerjoin(Round, col(Round.id) == col(Pair.round_id))
        .outerjoin(Ranking, col(Ranking.id) == col(Comparison.ranking_id))
        .outerjoin(Slate, col(Slate.id) == col(Ranking.slate_id))
        .where(col(Comparison.superseded_at).is_(None), rounds_asked_for(filter))
    )
    return [_Said(*row) for row in session.execute(query)]


def _reason_to_drop(said: _Said, filter: SnapshotFilter) -> str | None:
    if said.retracted:
        return "retracted"
    if said.annotator in filter.exclude_annotators:
        return "excluded_annotator"
    if said.purpose not in TRAINED_ON:
        return "not_trained_on"
    if said.hand_picked:
        return "hand_picked"
    return "skip" if said.verdict == Verdict.SKIP else None


def _is_usable(said: _Said, filter: SnapshotFilter) -> bool:
    """Whether a preference may come of it. A skip that adjudicates decides as well: for neither."""
    reason = _reason_to_drop(said, filter)
    return reason is None or (reason == "skip" and said.adjudicates)


def _is_telling(said: _Said, filter: SnapshotFilter) -> bool:
    """Whether it says something of how reliable its annotator is: what is only measured with does as well."""
    trusted = _reason_to_drop(said, filter) not in ("retracted", "excluded_annotator")
    return trusted and said.purpose not in UNTELLING


def _pair_contents(session: Session, pair_ids: Sequence[int]) -> dict[int, _PairContent]:
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    by_a, by_b = Checkpoint.__table__.alias(), Checkpoint.__table__.alias()  # type: ignore[attr-defined]
    query = (
        sa.select(
            *(col(Pair.id), col(Pair.prompt_id), col(Pair.purpose), col(Round.number)),
            *(col(Pair.selected_by), col(Pair.selected_margin), *_text_columns(a, by_a), *_text_columns(b, by_b)),
        )
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
        .outerjoin(by_a, by_a.c.id == a.c.checkpoint_id)
        .outerjoin(by_b, by_b.c.id == b.c.checkpoint_id)
        .outerjoin(Round, col(Round.id) == Pair.round_id)
    )
    contents: dict[int, _PairContent] = {}
    for chunk in chunks(pair_ids):
        rows = session.execute(query.where(col(Pair.id).in_(chunk))).all()
        prompts = _prompts(session, sorted({row[1] for row in rows}))
        for pair_id, prompt_id, purpose, number, how, margin, *texts in rows:
            both = _Text(*texts[:3]), _Text(*texts[3:])
            contents[pair_id] = _PairContent(*prompts[prompt_id], purpose, number, how, margin, *both)
    return contents


def _text_columns(completion: Any, checkpoint: Any) -> tuple[Any, Any, Any]:
    return completion.c.text_hash, completion.c.text, sa.func.coalesce(checkpoint.c.name, completion.c.source)


def _prompts(session: Session, prompt_ids: Sequence[int]) -> dict[int, tuple[str, list[Message], bool]]:
    rows = session.execute(
        sa.select(col(Prompt.id), col(Prompt.content_hash), col(Prompt.messages), col(Prompt.held_out)).where(
            col(Prompt.id).in_(prompt_ids)
        )
    )
    return {prompt_id: (hashed, messages, held_out) for prompt_id, hashed, messages, held_out in rows}


def _gathered(said: Iterable[_Said], contents: dict[int, _PairContent]) -> list[_Poll]:
    polls: dict[tuple[str, ...], _Poll] = {}
    for one in said:
        content = contents[one.pair_id]
        poll = polls.setdefault(content.key, _Poll())
        poll.contents.append(content)
        if one.adjudicates:
            poll.rulings.append((one.moment, one.annotator, content.named(one.verdict)))
        if one.verdict != Verdict.SKIP:
            poll.votes.append((one.annotator, content.named(one.verdict)))
            if one.slate is not None and one.slate_size is not None:
                poll.slates.add((one.slate, one.slate_size))
    return list(polls.values())


def _reliability(said: Iterable[_Said], contents: dict[int, _PairContent]) -> Reliability:
    """The model of these comparisons. The first of an item's two texts is the one with the lower hash.

    Of what one person said of the same two texts, and of what was decided about them, the latest holds.
    """
    votes: list[Vote] = []
    gold: dict[tuple[str, ...], set[str]] = {}
    ruled: dict[tuple[str, ...], str] = {}
    for one in sorted(said, key=lambda one: (one.moment, one.annotator, contents[one.pair_id].named(one.verdict))):
        content = contents[one.pair_id]
        key, named = content.key, content.named(one.verdict)
        if one.gold is not None:
            gold.setdefault(key, set()).add(content.named(one.gold))
        if one.adjudicates:
            ruled[key] = named
        elif named in key[1:]:
            votes.append((key, one.annotator, named == key[1]))
    known = {key: min(answers) for key, answers in gold.items() if len(answers) == 1} | ruled
    return fit_reliability(
        votes,
        {key: named == key[1] for key, named in known.items() if named in key[1:]},
        {content.key: content.prompt_hash for content in contents.values()},
    )


def _outcome(poll: _Poll, filter: SnapshotFilter, reliability: Reliability | None) -> Preference | Counter[str]:
    """The preference or tie that the votes add up to, or the votes counted by why there is neither."""
    content, votes = poll.contents[0], Counter(vote for _, vote in poll.votes)
    if content.a.text.strip() == content.b.text.strip():
        return Counter(identical=votes.total())
    if filter.max_chars is not None and _characters(content) > filter.max_chars:
        return Counter(over_length=votes.total())
    if poll.ruling is not None:
        return _ruled(poll, votes, filter, reliability)
    chosen, rejected = sorted((content.a.hash, content.b.hash), key=votes.__getitem__, reverse=True)
    agreement, tied = votes[chosen] / votes.total(), votes[Verdict.TIE] / votes.total()
    if votes[chosen] > votes[rejected] and agreement >= filter.min_agreement:
        chance = None if reliability is None else reliability.chance(content.key, first=chosen == content.key[1])
        if chance is None or chance > 0.5:
            return replace(_preference(poll, chosen, rejected, agreement), confidence=chance)
    if filter.keep_ties and not content.held_out and tied > agreement and tied >= filter.min_agreement:
        return _preference(poll, min(chosen, rejected), max(chosen, rejected), tied, tie=True)
    return Counter(low_agreement=votes.total()) if votes[chosen] else votes


def _ruled(
    poll: _Poll, votes: Counter[str], filter: SnapshotFilter, reliability: Reliability | None
) -> Preference | Counter[str]:
    """What one verdict decided, the others notwithstanding."""
    content, ruling = poll.contents[0], poll.ruling
    assert ruling is not None
    both = sorted((content.a.hash, content.b.hash), key=lambda hashed: (hashed != ruling, hashed))
    share = votes[ruling] / max(1, votes.total())
    if ruling in both:
        decided = replace(_preference(poll, both[0], both[1], share), adjudicated=True)
        return decided if reliability is None else replace(decided, confidence=KNOWN)
    if filter.keep_ties and not content.held_out and ruling == Verdict.TIE:
        return replace(_preference(poll, both[0], both[1], share, tie=True), adjudicated=True)
    return Counter({ruling: votes.total()})


def _with_votes(preference: Preference, poll: _Poll) -> Preference:
    named = Counter(vote for _, vote in poll.votes)
    votes_for, votes_against = (named[text_hash(text)] for text in (preference.chosen, preference.rejected))
    return replace(preference, votes_for=votes_for, votes_against=votes_against)


def _characters(content: _PairContent) -> int:
    asked = sum(len(message["content"]) for message in content.messages)
    return asked + max(len(content.a.text), len(content.b.text))


def _preference(poll: _Poll, chosen: str, rejected: str, agreement: float, *, tie: bool = False) -> Preference:
    texts = [text for content in poll.contents for text in (content.a, content.b)]
    # Where several pairs show the same texts, the first in order speaks for them: the same one whatever their ids.
    best = min((text for text in texts if text.hash == chosen), key=lambda text: text.source)
    other = min((text for text in texts if text.hash == rejected), key=lambda text: text.source)
    content = poll.contents[0]
    slate, size = min(poll.slates, default=(None, None))  # of several the first in order, whatever their ids
    return Preference(
        prompt=content.messages,
        prompt_hash=content.prompt_hash,
        chosen=best.text,
        rejected=other.text,
        chosen_source=best.source,
        rejected_source=other.source,
        annotators=len({annotator for annotator, _ in poll.votes}),
        agreement=round(agreement, 6),
        purpose=max(each.purpose for each in poll.contents),  # "train" where the two were asked as well as written
        round=min((each.round for each in poll.contents if each.round is not None), default=None),
        held_out=content.held_out,
        tie=tie,
        ranking=slate,
        ranked_together=size,
        **_selection(poll, chosen),
    )


def _selection(poll: _Poll, chosen: str) -> dict[str, Any]:
    """How the two were selected, and by which margin; of several pairs that were, in the first round."""
    selected = [each for each in poll.contents if each.selected_by is not None]
    if not selected:
        return {}
    first = min(selected, key=lambda each: (each.round or 0, str(each.selected_by), each.selected_margin or 0.0))
    margin = first.selected_margin
    if margin is not None and first.a.hash != chosen:
        margin = -margin
    return {"selected_by": first.selected_by, "reward_margin": None if margin is None else round(margin, 6)}
