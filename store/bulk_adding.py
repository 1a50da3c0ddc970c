"""Imported prompts and preferences -> the tables, in bulk: what is known is looked up first, the rest inserted.

Called inside one transaction by `importing.py`. Two texts of one prompt are one pair, whichever was chosen: `a` is the
one whose hash comes first, so the chosen one stands on either side about equally often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import Session, col, select

from store.annotators import get_or_add_annotator
from store.errors import StateError
from store.hashing import content_hash, text_hash
from store.models import Annotator, Comparison, Completion, Pair, Prompt, Purpose, Role, Verdict
from store.pairs import draw_side_seed
from store.prompts import Message, is_held_out
from store.row_shapes import ReadPreference

CHUNK = 500  # SQLite binds a limited number of values in one statement
Progress = Callable[[str, int, int], None]  # phase ("reading", "writing prompts", ...), done, in all (0: unknown)
Item = TypeVar("Item")
PairKey = tuple[int, str, str]  # prompt id, and the two text hashes in their own order


@dataclass
class Origin:
    """Where imported rows come from, and what became of them: `counts` has the names of ImportReport's fields."""

    source: str
    held_out_share: float
    import_id: int | None
    report_progress: Progress
    counts: Counter[str] = field(default_factory=Counter)


def _chunks(items: Sequence[Item], size: int = CHUNK) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def add_prompts(session: Session, origin: Origin, found: list[list[Message]]) -> None:
    """Add the prompts that are new; `origin.counts` says how many."""
    hashes = [content_hash(messages) for messages in found]
    _add_prompts(session, origin, dict(zip(hashes, found, strict=True)))
    origin.counts["duplicates"] = len(found) - origin.counts["prompts_added"]


def _add_prompts(
    session: Session, origin: Origin, prompts: dict[str, list[Message]]
) -> tuple[dict[str, int], set[int]]:
    """Add the prompts that are new. Returns every prompt's id by hash, and the ids of those known before."""
    ids: dict[str, int] = {}
    for hashes in _chunks(list(prompts)):
        found = session.exec(select(Prompt.content_hash, Prompt.id).where(col(Prompt.content_hash).in_(hashes)))
        ids |= {hashed: _saved(prompt_id) for hashed, prompt_id in found}
    known = set(ids.values())
    new = [_prompt_row(origin, hashed, messages) for hashed, messages in prompts.items() if hashed not in ids]
    returned = col(Prompt.content_hash), col(Prompt.id)
    for done, rows in enumerate(_chunks(new)):
        origin.report_progress("writing prompts", done * CHUNK, len(new))
        ids |= dict(_insert(session, Prompt, rows, *returned))
    origin.counts["prompts_added"] = len(new)
    origin.counts["held_out"] = sum(row["held_out"] for row in new)
    return ids, known


def _prompt_row(origin: Origin, hashed: str, messages: list[Message]) -> dict[str, Any]:
    held_out = is_held_out(hashed, share=origin.held_out_share)
    return {
        "content_hash": hashed,
        "messages": messages,
        "source": origin.source,
        "import_id": origin.import_id,
        "held_out": held_out,
    }


def _saved(identity: int | None) -> int:
    assert identity is not None  # a row that is in the database has an id
    return identity


def _insert(session: Session, table: type[Any], rows: Sequence[dict[str, Any]], *returned: Any) -> Iterable[Any]:
    """Insert rows in bulk and hand back some columns of each, in no particular order."""
    return session.execute(sa.insert(table).returning(*returned), list(rows)).all() if rows else []


@dataclass(frozen=True)
class _Vote:
    """A preference with its hashes; `a` is the completion whose text hash comes first, whichever was chosen."""

    prompt_id: int
    chosen: str
    rejected: str
    chosen_hash: str
    rejected_hash: str

    @property
    def key(self) -> PairKey:
        first, second = sorted((self.chosen_hash, self.rejected_hash))
        return self.prompt_id, first, second


def add_preferences(session: Session, origin: Origin, found: list[ReadPreference], *, own_opinion: bool) -> None:
    """Add the preferences that are new, as comparisons by the source; `origin.counts` says how many.

    With `own_opinion` only what this source said before is known, else what anybody said. Raises StateError for a
    source that was retracted.
    """
    annotator = _source_annotator(session, origin.source)
    hashes = [content_hash(preference.messages) for preference in found]
    messages = {hashed: preference.messages for hashed, preference in zip(hashes, found, strict=True)}
    prompt_ids, known = _add_prompts(session, origin, messages)
    said = _known_verdicts(session, known, annotator if own_opinion else None)
    votes = [_vote(prompt_ids[hashed], preference) for hashed, preference in zip(hashes, found, strict=True)]
    fresh = _new_votes(origin, said, votes)
    pairs = _known_pairs(session, known)
    completions = _known_completions(session, known)
    for done, chunk in enumerate(_chunks(fresh)):
        origin.report_progress("writing", done * CHUNK, len(fresh))
        _add_completions(session, origin, completions, chunk)
        _add_pairs(session, pairs, completions, chunk)
        _add_comparisons(session, pairs, completions, chunk, _saved(annotator.id))
    origin.report_progress("writing", len(fresh), len(fresh))
    origin.counts["comparisons_added"] = len(fresh)
    origin.counts["joined_turns"] = sum(preference.joined_turns for preference in found)


def _source_annotator(session: Session, source: str) -> Annotator:
    annotator = get_or_add_annotator(session=session, name=f"import:{source}"[:80], role=Role.SOURCE)
    if annotator.retracted_at is not None:
        raise StateError(f"{annotator.name!r} was retracted. Nothing was imported; name another source.")
    return annotator


def _vote(prompt_id: int, preference: ReadPreference) -> _Vote:
    chosen, rejected = preference.chosen, preference.rejected
    return _Vote(prompt_id, chosen, rejected, text_hash(chosen), text_hash(rejected))


def _new_votes(origin: Origin, said: dict[PairKey, str], votes: Sequence[_Vote]) -> list[_Vote]:
    """The votes on pairs nobody voted on yet; the others are counted. `said` learns of each."""
    fresh = []
    for vote in votes:
        before = said.setdefault(vote.key, "")
        if not before:
            said[vote.key] = vote.chosen_hash
            fresh.append(vote)
        else:
            origin.counts["duplicates" if before == vote.chosen_hash else "contradictions"] += 1
    return fresh


def _known_verdicts(session: Session, prompt_ids: Iterable[int], annotator: Annotator | None) -> dict[PairKey, str]:
    """What stands on pairs of these prompts, as the chosen text's hash; by anybody not retracted, or by one."""
    a, b = Completion.__table__.alias(), Completion.__table__.alias()  # type: ignore[attr-defined]
    query = (
        sa.select(col(Pair.prompt_id), a.c.text_hash, b.c.text_hash, col(Comparison.verdict))
        .join(Pair, col(Pair.id) == col(Comparison.pair_id))
        .join(Annotator, col(Annotator.id) == col(Comparison.annotator_id))
        .join(a, a.c.id == col(Pair.completion_a_id))
        .join(b, b.c.id == col(Pair.completion_b_id))
        .where(col(Comparison.superseded_at).is_(None), col(Comparison.verdict).in_([Verdict.A, Verdict.B]))
        .where(col(Annotator.retracted_at).is_(None) if annotator is None else col(Annotator.id) == annotator.id)
        .order_by(col(Comparison.id).desc())  # so that the first one said is the one that stays in the dictionary
    )
    known: dict[PairKey, str] = {}
    for chunk in _chunks(sorted(prompt_ids)):
        for prompt_id, hash_a, hash_b, verdict in session.execute(query.where(col(Pair.prompt_id).in_(chunk))):
            first, second = sorted((hash_a, hash_b))
            known[prompt_id, first, second] = hash_a if verdict == Verdict.A else hash_b
    return known


CompletionIds = dict[tuple[int, str], int]  # (prompt id, text hash) -> id
PairIds = dict[tuple[int, int], int]  # (id of a, id of b) -> id


def _known_completions(session: Session, prompt_ids: Iterable[int]) -> CompletionIds:
    known: CompletionIds = {}
    for chunk in _chunks(sorted(prompt_ids)):
        rows = session.exec(
            select(Completion.prompt_id, Completion.text_hash, Completion.id).where(
                col(Completion.prompt_id).in_(chunk), col(Completion.checkpoint_id).is_(None)
            )
        )
        known |= {(prompt_id, hashed): _saved(identity) for prompt_id, hashed, identity in rows}
    return known


def _known_pairs(session: Session, prompt_ids: Iterable[int]) -> PairIds:
    known: PairIds = {}
    for chunk in _chunks(sorted(prompt_ids)):
        rows = session.exec(
            select(Pair.completion_a_id, Pair.completion_b_id, Pair.id).where(
                col(Pair.prompt_id).in_(chunk), col(Pair.round_id).is_(None), Pair.purpose == Purpose.TRAIN
            )
        )
        known |= {(a_id, b_id): _saved(identity) for a_id, b_id, identity in rows}
    return known


def _add_completions(session: Session, origin: Origin, known: CompletionIds, votes: Sequence[_Vote]) -> None:
    new: dict[tuple[int, str], str] = {}
    for vote in votes:
        new[vote.prompt_id, vote.chosen_hash] = vote.chosen
        new[vote.prompt_id, vote.rejected_hash] = vote.rejected
    rows = [
        {"prompt_id": prompt_id, "text": text, "text_hash": hashed, "source": origin.source}
        for (prompt_id, hashed), text in new.items()
        if (prompt_id, hashed) not in known
    ]
    returned = col(Completion.prompt_id), col(Completion.text_hash), col(Completion.id)
    for prompt_id, hashed, identity in _insert(session, Completion, rows, *returned):
        known[prompt_id, hashed] = identity


def _sides(completions: CompletionIds, vote: _Vote) -> tuple[int, int]:
    prompt_id, first, second = vote.key
    return completions[prompt_id, first], completions[prompt_id, second]


def _add_pairs(session: Session, known: PairIds, completions: CompletionIds, votes: Sequence[_Vote]) -> None:
    rows = []
    for vote in votes:
        a_id, b_id = _sides(completions, vote)
        if (a_id, b_id) not in known and (b_id, a_id) not in known:
            seed = draw_side_seed(vote.key[1], vote.key[2], None)
            row = {"prompt_id": vote.prompt_id, "completion_a_id": a_id, "completion_b_id": b_id, "side_seed": seed}
            rows.append(row | {"wanted": 0, "open_slots": 0})
    returned = col(Pair.completion_a_id), col(Pair.completion_b_id), col(Pair.id)
    for a_id, b_id, identity in _insert(session, Pair, rows, *returned):
        known[a_id, b_id] = identity


def _add_comparisons(
    session: Session, pairs: PairIds, completions: CompletionIds, votes: Sequence[_Vote], annotator_id: int
) -> None:
    rows = []
    for vote in votes:
        a_id, b_id = _sides(completions, vote)
        if (a_id, b_id) not in pairs:
            a_id, b_id = b_id, a_id
        chosen_id = completions[vote.prompt_id, vote.chosen_hash]
        verdict = Verdict.A if chosen_id == a_id else Verdict.B
        rows.append({"pair_id": pairs[a_id, b_id], "annotator_id": annotator_id, "verdict": verdict})
    session.execute(sa.insert(Comparison), rows)
