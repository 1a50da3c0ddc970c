"""What a press on the ranking screen does: rankings, all bad, skips; and rankings in words."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.errors import StoreError
from store.models import Comparison
from store.pairs import get_pair
from store.ranking_tables import Outcome, Ranking
from store.rankings import current_ranking, positions_of, record_ranking
from ui import attention, verdicts
from ui.state import veiled

LETTERS = "ABCDEFGHIJ"


def give_ranking(workspace: Workspace, pair_id: int, annotator_id: int, said: Any) -> None:
    """Write what the board sent, for exactly the slate that this pair stands for. One that came too soon is dropped.

    Raises StoreError for what is no ranking.
    """
    if not isinstance(said, dict) or said.get("slate") != veiled(pair_id):
        return
    _write(workspace, pair_id, annotator_id, Outcome.RANKED, tiers=_tiers(said.get("tiers")))


def call_all_bad(workspace: Workspace, pair_id: int, annotator_id: int) -> None:
    """Call all completions of this pair's slate bad."""
    _write(workspace, pair_id, annotator_id, Outcome.ALL_BAD)


def skip_slate(workspace: Workspace, pair_id: int, annotator_id: int, why: str) -> None:
    """Skip the whole slate that this pair stands for; `why` may be empty."""
    _write(workspace, pair_id, annotator_id, Outcome.SKIP, why=why)


def _tiers(sent: Any) -> list[list[int]]:
    """What a browser sent, which may be anything, as tiers."""
    if not isinstance(sent, list) or not all(isinstance(tier, list) for tier in sent):
        raise StoreError("That was no ranking. Nothing was written.")
    if not all(type(position) is int for tier in sent for position in tier):
        raise StoreError("That was no ranking. Nothing was written.")
    return sent


def _write(
    workspace: Workspace,
    pair_id: int,
    annotator_id: int,
    outcome: Outcome,
    *,
    tiers: list[list[int]] | None = None,
    why: str = "",
) -> None:
    watch = attention.watch_of_press()
    if watch.pair_id != pair_id or watch.seconds_shown() < verdicts.DWELL_SECONDS:
        return
    with writing(workspace.engine) as session:
        pair, _ = get_pair(session=session, pair_id=pair_id)
        if pair.slate_id is None:
            return
        before = current_ranking(session=session, slate_id=pair.slate_id, annotator_id=annotator_id)
        again = before is not None and verdicts.looked_at() == pair_id
        record_ranking(
            session=session,
            slate_id=pair.slate_id,
            annotator_id=annotator_id,
            outcome=outcome,
            tiers=tiers or (),
            seconds=round(watch.seconds(), 2),
            tags=(why,) if why else (),
            replace=again,
        )
    if again:
        st.session_state["notice"] = "Saved. What you said before stays in the history."
    verdicts.to_the_queue()


def said_words(workspace: Workspace, said: Comparison) -> str:
    """What was said, in words, of a pair or of a slate."""
    if said.ranking_id is None:
        return verdicts.verdict_words(said)
    with reading(workspace.engine) as session:
        return ranking_words(session.get_one(Ranking, said.ranking_id))


def ranking_words(ranking: Ranking) -> str:
    """A ranking by the letters that its annotator saw: "B, then A = C, then D"."""
    if ranking.outcome != Outcome.RANKED:
        return {Outcome.ALL_BAD.value: "All bad", Outcome.SKIP.value: "Skipped"}[ranking.outcome]
    return ", then ".join(" = ".join(LETTERS[position] for position in tier) for tier in positions_of(ranking))
