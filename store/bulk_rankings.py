"""Imported rankings -> the tables, in bulk, as `bulk_adding.py` does it for preferences.

Each ranking is kept as it was given, by the file's source, and expanded to the comparisons of its pairs; what was said
of two of the texts before stands, and that pair is left out and counted. The same texts for the same prompt are one
slate, whoever ranked them; their places in it follow their hashes, so that nothing depends on the order of a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from store.bulk_adding import (
    VOTES,
    Holds,
    Origin,
    PairKey,
    Plan,
    Row,
    insert_completions,
    insert_prompts,
    is_imported,
    is_pair,
    known_prompts,
    known_verdicts,
    new_plan,
    said_by,
    source_annotator,
    staged_votes,
    staging,
)
from store.database import chunks
from store.hashing import content_hash, text_hash
from store.models import Annotator, Comparison, Completion, Pair, Prompt, Verdict
from store.pairs import draw_side_seed
from store.ranking_shapes import RankedText, ReadRanking, two_by_two
from store.ranking_tables import Outcome, Ranking, Slate, SlateItem
from store.slates import draw_order_seed, slate_hash

_SLATES = staging(
    "staged_slate",
    sa.Column("prompt_hash", sa.String),
    sa.Column("slate_hash", sa.String),
    sa.Column("size", sa.Integer),
    sa.Column("order_seed", sa.BigInteger),
    sa.Column("tiers", sa.JSON),
)
_ITEMS = staging(
    "staged_item",
    sa.Column("prompt_hash", sa.String),
    sa.Column("slate_hash", sa.String),
    sa.Column("place", sa.Integer),
    sa.Column("text_hash", sa.String),
)


@dataclass
class RankingPlan(Plan):
    """What of a file of rankings is new, as rows to stage."""

    slates: list[Row] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)

    def staged(self) -> dict[sa.Table, list[Row]]:
        """The rows for each temporary table."""
        return super().staged() | {_SLATES: self.slates, _ITEMS: self.items}

    def write(self, session: Session, import_id: int) -> None:
        """Move what is staged into the tables. Raises StateError for a source that was retracted."""
        total = len(self.votes)
        self.origin.report_progress("writing", 0, total)
        annotator_id = source_annotator(session, self.origin)
        for statement in (
            insert_prompts(self.origin, import_id),
            insert_completions(self.origin),
            _insert_slates(),
            _insert_items(),
            _insert_pairs(),
            _insert_rankings(annotator_id),
        ):
            session.execute(statement)
        written = session.connection().execute(_insert_comparisons(annotator_id)).rowcount
        assert written == total  # each two of a ranking found their texts: the report tells of no other
        self.origin.report_progress("writing", total, total)


@dataclass(frozen=True)
class _Ranked:
    """A ranking with its hashes. `texts` by their places in the slate."""

    read: ReadRanking
    prompt_hash: str
    texts: dict[str, RankedText]  # by hash, in the hashes' order

    @property
    def slate_hash(self) -> str:
        return slate_hash(self.prompt_hash, self.texts)

    @property
    def tiers(self) -> list[list[int]]:
        """Tiers of places, the best first."""
        found: dict[int, list[int]] = {}
        for place, each in enumerate(self.texts.values()):
            found.setdefault(each.tier, []).append(place)
        return [found[tier] for tier in sorted(found)]


def plan_rankings(session: Session, origin: Origin, found: Sequence[ReadRanking], *, own_opinion: bool) -> RankingPlan:
    """What to write of these rankings.

    With `own_opinion` only what this source said before is known, else what anybody said.
    """
    rankings = [_ranked(read) for read in found]
    prompts = {each.prompt_hash: each.read.messages for each in rankings}
    known = known_prompts(session, prompts)
    plan = new_plan(RankingPlan, origin, prompts, known, Holds.RANKINGS)
    said = known_verdicts(session, known, said_by(origin.annotator if own_opinion else None))
    own = said if own_opinion else said | known_verdicts(session, known, said_by(origin.annotator))
    ranked_before = _slates_of(session, [each.slate_hash for each in rankings], origin.annotator)
    texts: dict[tuple[str, str], Row] = {}
    for each in rankings:
        votes = _new_votes(plan.counts, own, each, again=each.slate_hash in ranked_before)
        if votes:
            ranked_before.add(each.slate_hash)
            plan.votes += votes
            _stage_slate(plan, each)
            texts |= {(each.prompt_hash, hashed): _text_row(each, hashed) for hashed in each.texts}
    plan.texts = list(texts.values())
    plan.counts["rankings_added"], plan.counts["comparisons_added"] = len(plan.slates), len(plan.votes)
    return plan


def _ranked(read: ReadRanking) -> _Ranked:
    hashed = {text_hash(each.text): each for each in read.texts}
    return _Ranked(read, content_hash(read.messages), {name: hashed[name] for name in sorted(hashed)})


def _slates_of(session: Session, hashes: Sequence[str], annotator: str) -> set[str]:
    """Those of these slates that this source ranked before."""
    ranked = (
        sa.select(col(Slate.content_hash))
        .join(Ranking, col(Ranking.slate_id) == col(Slate.id))
        .join(Annotator, col(Annotator.id) == col(Ranking.annotator_id))
        .where(col(Annotator.name) == annotator, col(Ranking.superseded_at).is_(None), _is_imported_slate())
    )
    known: set[str] = set()
    for chunk in chunks(hashes):
        known.update(session.scalars(ranked.where(col(Slate.content_hash).in_(chunk))))
    return known


def _new_votes(counts: Counter[str], said: dict[PairKey, str], ranked: _Ranked, *, again: bool) -> list[Row]:
    """What a ranking says of pairs that nobody spoke of yet; the others are counted. `said` learns of each.

    Nothing, where the source ranked these very texts before (`again`).
    """
    votes = []
    for better, other in two_by_two(list(ranked.texts.values())):
        hashes = text_hash(better.text), text_hash(other.text)
        first, second = sorted(hashes)
        key = ranked.prompt_hash, first, second
        tells = Verdict.TIE.value if better.tier == other.tier else hashes[0]
        if key in said or again:
            counts["duplicates" if said.get(key, tells) == tells else "contradictions"] += 1
        else:
            said[key] = tells
            votes.append(_vote_row(ranked, first, second, tells))
    return votes


def _vote_row(ranked: _Ranked, first: str, second: str, tells: str) -> Row:
    verdict = {first: Verdict.A, second: Verdict.B}.get(tells, Verdict.TIE)
    named = {"prompt_hash": ranked.prompt_hash, "a_hash": first, "b_hash": second, "slate_hash": ranked.slate_hash}
    return named | {
        "side_seed": draw_side_seed(ranked.prompt_hash, first, second, None),
        "verdict": verdict.value,
        "note": None,
    }


def _stage_slate(plan: RankingPlan, ranked: _Ranked) -> None:
    named = {"prompt_hash": ranked.prompt_hash, "slate_hash": ranked.slate_hash}
    seed = draw_order_seed(ranked.slate_hash, None)
    plan.slates.append(named | {"size": len(ranked.texts), "order_seed": seed, "tiers": ranked.tiers})
    plan.items += [named | {"place": place, "text_hash": hashed} for place, hashed in enumerate(ranked.texts)]


def _text_row(ranked: _Ranked, hashed: str) -> Row:
    each = ranked.texts[hashed]
    return {"prompt_hash": ranked.prompt_hash, "text_hash": hashed, "text": each.text, "maker": each.maker}


def _is_imported_slate() -> Any:
    return col(Slate.round_id).is_(None)


def _slate_of(staged: sa.Table) -> Any:
    """What joins a staged row to its slate."""
    return (col(Slate.content_hash) == staged.c.slate_hash) & _is_imported_slate()


def _insert_slates() -> sa.Insert:
    rows = (
        sa.select(col(Prompt.id), _SLATES.c.slate_hash, _SLATES.c.size, _SLATES.c.order_seed)
        .join(Prompt, col(Prompt.content_hash) == _SLATES.c.prompt_hash)
        .where(~sa.exists().where(_slate_of(_SLATES)))
        .order_by(_SLATES.c.id)
    )
    return sa.insert(Slate).from_select(["prompt_id", "content_hash", "size", "order_seed"], rows)


def _insert_items() -> sa.Insert:
    there = sa.exists().where(col(SlateItem.slate_id) == col(Slate.id), col(SlateItem.place) == _ITEMS.c.place)
    rows = (
        sa.select(col(Slate.id), _ITEMS.c.place, col(Completion.id))
        .join(Slate, _slate_of(_ITEMS))
        .join(Completion, sa.and_(*is_imported(Completion, col(Slate.prompt_id), _ITEMS.c.text_hash)))
        .where(~there)
        .order_by(_ITEMS.c.id)
    )
    return sa.insert(SlateItem).from_select(["slate_id", "place", "completion_id"], rows)


def _insert_pairs() -> sa.Insert:
    votes, a, b = staged_votes(col(Prompt.id), VOTES.c.side_seed, sa.literal(0), sa.literal(0))
    rows = votes.add_columns(a.id, b.id, col(Slate.id)).join(Slate, _slate_of(VOTES))
    names = ["prompt_id", "side_seed", "wanted", "open_slots", "completion_a_id", "completion_b_id", "slate_id"]
    return sa.insert(Pair).from_select(names, rows.where(~sa.exists().where(*is_pair(a, b))))


def _insert_rankings(annotator_id: int) -> sa.Insert:
    rows = (
        sa.select(sa.literal(annotator_id), col(Slate.id), sa.literal(Outcome.RANKED.value), _SLATES.c.tiers)
        .join(Slate, _slate_of(_SLATES))
        .order_by(_SLATES.c.id)
    )
    return sa.insert(Ranking).from_select(["annotator_id", "slate_id", "outcome", "tiers"], rows)


def _insert_comparisons(annotator_id: int) -> sa.Insert:
    votes, a, b = staged_votes(sa.literal(annotator_id), VOTES.c.verdict)
    theirs = (
        (col(Ranking.slate_id) == col(Slate.id))
        & (col(Ranking.annotator_id) == annotator_id)
        & col(Ranking.superseded_at).is_(None)
    )
    rows = (
        votes.add_columns(col(Pair.id), col(Ranking.id))
        .join(Pair, sa.and_(*is_pair(a, b)))
        .join(Slate, _slate_of(VOTES))
        .join(Ranking, theirs)
    )
    return sa.insert(Comparison).from_select(["annotator_id", "verdict", "pair_id", "ranking_id"], rows)
