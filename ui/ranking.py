"""The ranking screen: several completions of one prompt on cards, and the board that puts them into an order.

draw_cards    the texts, each on a card with its letter and its key
draw_board    the board, at the bottom where the verdicts are for pairs
KEYS          every key of this screen

The Label page shows it in the place of two panes wherever the next pair stands for a slate.
"""

from __future__ import annotations

import streamlit as st

from dpo_core.workspace import Workspace
from store.comparisons import Choice
from store.database import reading
from store.pairs import ShownPair
from store.slates import ShownSlate, comparisons_in, shown_slate
from ui import rankings_said, verdicts
from ui.model_text import render_model_text
from ui.ranking_board import board
from ui.reading_aids import text_scale
from ui.state import act, veiled

KEYS = (
    ("1 2 3 …", "This one is next: first the best, then the next best"),
    ("T", "The last one placed ties with the one before it; T again parts them"),
    ("Backspace", "Take the last one back"),
    ("Enter", "Save; where only one is left, it goes last"),
    ("← →", "On a letter that has its place: half a step better or worse"),
    ("B", "All are bad"),
    ("S", "Skip; then a number for why, or S again"),
    ("U", "Undo: take the last ranking back, as a whole"),
    ("P, N, Q", "Look back (earlier), later, back to the queue"),
    ("?", "This sheet"),
)


def draw_cards(workspace: Workspace, pair: ShownPair, annotator_id: int) -> None:
    """The completions as cards, in the order that was drawn for this annotator."""
    slate = _slate(workspace, pair, annotator_id)
    lengths = workspace.settings.label.lengths
    cards = "".join(_card(place, text, lengths) for place, text in enumerate(slate.texts))
    size = len(slate.texts)
    st.html(f'<div class="pl-cards pl-of-{size}" data-mark="{slate.mark}">{cards}</div>{_CSS}')
    st.caption(
        f"Rank all {size}, best first. It counts as {comparisons_in(size)} comparisons for the round, "
        "and once for your day."
    )


def _card(place: int, text: str, lengths: bool) -> str:
    letter = rankings_said.LETTERS[place]
    note = f'<span class="pl-quiet">{len(text.split()):,} words</span>' if lengths else ""
    return (
        f'<section class="pl-card" role="region" aria-label="Completion {letter}" data-card="{place}">'
        f'<div class="pl-card-head"><button type="button" class="pl-grip" data-grip="{place}" '
        f'aria-label="{letter}: place it next, or take it out">{letter}</button>'
        f'<kbd aria-hidden="true">{place + 1}</kbd><span class="pl-place"></span></div>'
        f'<div style="font-size:{text_scale():g}em">{render_model_text(text)}</div>{note}</section>'
    )


def draw_board(workspace: Workspace, pair: ShownPair, annotator_id: int) -> None:
    """The board, which sends the ranking once. The slate's name is in its own, so no other can be meant."""
    slate = _slate(workspace, pair, annotator_id)
    key = f"board-{veiled(pair.pair_id)}"

    def save() -> None:
        sent = st.session_state[key]["ranking"]
        act(rankings_said.give_ranking, workspace, pair.pair_id, annotator_id, sent)

    board(
        key=key,
        data={
            "slate": veiled(pair.pair_id),
            "mark": slate.mark,
            "size": len(slate.texts),
            "said": slate.said,
            "scale": text_scale(),  # with it the cards are drawn anew, and have to be told their places again
        },
        on_ranking_change=save,
    )


def _slate(workspace: Workspace, pair: ShownPair, annotator_id: int) -> ShownSlate:
    assert pair.slate_id is not None
    with reading(workspace.engine) as session:
        return shown_slate(session=session, slate_id=pair.slate_id, annotator_id=annotator_id)


def all_bad_button(workspace: Workspace, pair: ShownPair, annotator_id: int) -> None:
    """Every completion is bad: one key."""
    st.button(
        "All bad",
        key=f"{Choice.BOTH_BAD}-{veiled(pair.pair_id)}",
        shortcut=verdicts.BOTH_BAD.shortcut,
        on_click=act,
        args=(rankings_said.call_all_bad, workspace, pair.pair_id, annotator_id),
    )


_CSS = """<style>
.pl-cards { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1rem; align-items: stretch; }
.pl-cards.pl-of-4 { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.pl-card { border: 1px solid rgba(128,128,128,.3); border-radius: 8px; padding: .8rem 1rem; }
.pl-card.pl-placed { border-color: var(--pl-accent); }
.pl-card-head { display: flex; align-items: center; gap: .6rem; margin-bottom: .5rem; }
.pl-card-head kbd { font: inherit; font-size: .8rem; opacity: .78; background: none; color: inherit; padding: 0; }
.pl-card .pl-grip { font: inherit; font-weight: 650; color: inherit; background: rgba(128,128,128,.12); cursor: grab;
  border: 1px solid rgba(128,128,128,.45); border-radius: 8px; min-width: 2.5rem; min-height: 2.5rem;
  touch-action: none; user-select: none; -webkit-user-select: none; }
.pl-card .pl-grip:hover { border-color: var(--pl-accent); }
.pl-card .pl-grip:focus-visible { outline: 3px solid var(--pl-accent); outline-offset: 2px; }
.pl-place { margin-left: auto; font-weight: 650; color: var(--pl-accent); }
@media (max-width: 1000px) { .pl-cards { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 640px) { .pl-cards, .pl-cards.pl-of-4 { grid-template-columns: minmax(0, 1fr); gap: .7rem; }
  .pl-card { padding: .6rem .8rem; } .pl-card-head kbd { display: none; } }
</style>"""
