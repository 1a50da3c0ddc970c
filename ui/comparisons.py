"""The Data page's comparisons: searched, filtered and sorted by the database, a page at a time; and one, opened."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pandas as pd
import streamlit as st
from sqlmodel import Session

from dpo_core.workspace import Workspace
from store.annotators import list_annotators
from store.database import reading
from store.hashing import content_hash
from store.lineage import Lineage, Said, SnapshotUse, snapshots_with, trace_comparison
from store.models import Checkpoint, Comparison, Completion, Purpose, SelectedBy, Verdict
from store.over_time import read_agreement, read_choices
from store.ranking_tables import Outcome, Ranking
from store.rounds import list_rounds
from store.searching import Found, Search, Sort, count_found, find_comparisons, read_pace, write_csv
from store.wording import counted
from ui import components as show
from ui.charts import agreement_chart, choices_charts, pace_chart
from ui.model_text import render_model_text
from ui.presets import asks_for_comparisons, preset_filters
from ui.selection_words import NAMES
from ui.state import errors_in_words, research_workspace

PAGE = 50
COUNT_SECONDS = 15  # how long the number that a text was found is kept
PARAMETER = "comparison"  # in the address: opens one
WORDS = {"tie": "tie", "both_bad": "both bad", "skip": "skipped"}
IMPORTED = 0
NOT_COUNTED = "Imports, practice, decisions of researchers and what retracted people said are not counted."
NO_SIDES = "Nor are rankings: nothing stands left or right in them."


def browse() -> None:
    """Filters on top, the page that was found below, and the one that is opened. Only this part is drawn anew."""

    def part() -> None:
        with errors_in_words():
            workspace = research_workspace()
            st.session_state["opened"] = None
            search = filters(workspace)
            total = how_many(workspace, search)
            if total:
                listed(workspace, search, total)
            elif search == Search():
                show.empty_state("Nothing compared yet", "What annotators say appears here, newest first.")
            else:
                show.empty_state("Nothing found", "No comparison is as asked for. Take a filter away.")
            opened(workspace)

    st.fragment(part)()


def how_many(workspace: Workspace, search: Search) -> int:
    """How many are found. A text is looked for in all texts, which takes a moment: not again for each page."""
    if search.text:
        return _count_texts(str(workspace.folder), replace(search, sort=Sort.NEWEST), workspace)
    with reading(workspace.engine) as session:
        return count_found(session=session, search=search)


def _counted_anew(folder: str, search: Search, _workspace: Workspace) -> int:
    with reading(_workspace.engine) as session:
        return count_found(session=session, search=search)


_count_texts: Callable[[str, Search, Workspace], int] = st.cache_data(
    _counted_anew, ttl=COUNT_SECONDS, show_spinner=False
)


def filters(workspace: Workspace) -> Search:
    """What is asked for."""
    with reading(workspace.engine) as session:
        names = {who.id: who.name for who in list_annotators(session=session)}
        rounds = {None: "all rounds", IMPORTED: "imported"}
        rounds |= {entry.id: f"round {entry.number}" for entry in list_rounds(session=session)}
    preset_filters(names, rounds)
    text, order = st.columns([4, 1])
    said = text.text_input("Search", key="find_text", placeholder="In prompts, completions and reasons")
    sort = order.selectbox("Order", list(Sort), key="find_sort", format_func=lambda sort: sort.value)
    with st.expander("Filters", expanded=asks_for_comparisons()):
        first, second, third = st.columns(3)
        who = first.multiselect("Annotator", list(names), key="find_who", format_func=lambda number: names[number])
        verdicts = second.multiselect("Verdict", list(Verdict), key="find_verdict", format_func=verdict_name)
        purposes = third.multiselect("Purpose", list(Purpose), key="find_purpose", format_func=str)
        of_round = first.selectbox("Round", list(rounds), key="find_round", format_func=lambda number: rounds[number])
        days = second.date_input("From and to (UTC)", (), key="find_days")
        marked = third.checkbox("With flags, tags, criteria or a reason", key="find_marked")
        superseded = third.checkbox("What was taken back or changed too", key="find_superseded")
    since, until = span(days)
    return Search(
        said.strip(), tuple(who), tuple(verdicts), tuple(purposes), of_round, marked, since, until, superseded, sort
    )


def span(days: Any) -> tuple[date | None, date | None]:
    """First and last day of what was picked; while only one is picked, from that one on."""
    picked = days if isinstance(days, tuple | list) else (days,)
    return (picked[0] if picked else None), (picked[1] if len(picked) > 1 else None)


def verdict_name(verdict: str) -> str:
    """A verdict in words, as the filter lists it."""
    return WORDS.get(verdict, f"{verdict} is better")


def listed(workspace: Workspace, search: Search, total: int) -> None:
    """One page of the list, with its CSV and its charts."""
    mark = content_hash(repr(search))[:8]  # another search begins at its first page, with nothing opened
    pages = -(-total // PAGE)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(counted(total, "verdict"))
        page = st.pagination(pages, key=f"page-{mark}") if pages > 1 else 1
        st.download_button("CSV", csv_of(workspace, search), "comparisons.csv", "text/csv", icon=":material/download:")
    with reading(workspace.engine) as session:
        found = find_comparisons(session=session, search=search, limit=PAGE, offset=PAGE * (page - 1))
    picked = st.dataframe(
        frame_of(found),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"found-{mark}-{page}",
        row_height=36,
    )
    rows = picked["selection"]["rows"]
    st.session_state["opened"] = found[rows[0]].comparison.id if rows else None
    over_time(workspace, search)


def over_time(workspace: Workspace, search: Search) -> None:
    """What was found as charts over time: its pace, what was chosen, how far people agreed."""
    asked = st.segmented_control("Over time", list(OVER_TIME), key="over_time")
    if asked is not None:
        with reading(workspace.engine) as session:
            OVER_TIME[asked](session, search)


def pace(session: Session, search: Search) -> None:
    """Who compared how many."""
    pace_chart(*read_pace(session=session, search=search))


def choices(session: Session, search: Search) -> None:
    """What was chosen."""
    unit, rows = read_choices(session=session, search=search)
    if rows:
        choices_charts(unit, rows)
        st.caption(f"{NOT_COUNTED} {NO_SIDES}")
    else:
        show.empty_state("No choices to draw", f"{NOT_COUNTED} {NO_SIDES}")


def agreement(session: Session, search: Search) -> None:
    """How far people agreed."""
    unit, rows = read_agreement(session=session, search=search)
    if rows:
        agreement_chart(unit, rows)
        st.caption(f"With 95% intervals. {NOT_COUNTED}")
        return
    why = "Agreement needs pairs that two people judged: set comparisons_per_pair in [round] of pairloop.toml."
    alone = " Or take the annotator filter away: only those who are picked there are held against each other."
    show.empty_state("No agreement to draw", why + (alone if search.annotator_ids else ""))


OVER_TIME: dict[str, Callable[[Session, Search], None]] = {
    "Pace": pace,
    "Choices": choices,
    "Agreement": agreement,
}


def csv_of(workspace: Workspace, search: Search) -> Callable[[], bytes]:
    """What makes the CSV, once somebody asks for it."""

    def made() -> bytes:
        stream = io.StringIO(newline="")
        with reading(workspace.engine) as session:
            write_csv(session=session, search=search, stream=stream)
        return stream.getvalue().encode()

    return made


def frame_of(found: list[Found]) -> pd.DataFrame:
    """A page of the list as a table."""
    columns = ["When (UTC)", "Who", "Prompt", "Verdict", "Seconds", "Round", "Beside it"]
    return pd.DataFrame([line(entry) for entry in found], columns=columns)


def line(entry: Found) -> tuple[object, ...]:
    """One comparison as a line."""
    said = entry.comparison
    asked = entry.messages[-1]["content"]
    return (
        f"{said.created_at:%Y-%m-%d %H:%M}",
        entry.annotator,
        asked if len(asked) <= 160 else asked[:159] + "…",
        verdict_words(said) + (" (superseded)" if said.superseded_at else ""),
        said.seconds if said.seconds is None else round(said.seconds, 1),
        "imported" if entry.round_number is None else f"{entry.round_number} ({entry.purpose})",
        beside(said),
    )


def verdict_words(said: Comparison) -> str:
    """A verdict by the side that was seen; by its completion where nobody saw any side."""
    return f"decided: {_verdict_words(said)}" if said.adjudicates else _verdict_words(said)


def _verdict_words(said: Comparison) -> str:
    if said.verdict in WORDS:
        return WORDS[said.verdict]
    return ("left" if said.verdict == said.left_side else "right") if said.left_side else said.verdict


def beside(said: Comparison) -> str:
    """What was said beside the verdict."""
    flags = [f"{side}: {', '.join(marks)}" for side, marks in said.flags.items() if marks]
    criteria = [f"{name}: {side}" for name, side in said.criteria.items()]
    strength = [f"strength {said.strength}"] if said.strength else []
    ranking = [f"ranking {said.ranking_id}"] if said.ranking_id else []
    return " · ".join([*ranking, *strength, *said.tags, *flags, *criteria, *([said.reason] if said.reason else [])])


def opened(workspace: Workspace) -> None:
    """The one that was picked in the list, or that the address names."""
    number = st.session_state.get("opened") or st.query_params.get(PARAMETER, "")
    if not number:
        return
    if not str(number).isdecimal():
        st.error(f"{number} is no comparison's number.")
        return
    with reading(workspace.engine) as session:
        lineage = trace_comparison(session=session, comparison_id=int(number))
        uses = snapshots_with(session=session, folder=workspace.folder, lineage=lineage)
    with st.container(border=True, key="opened_comparison"):
        st.subheader(f"Comparison {number}", anchor=False)
        st.caption(f"To show it to somebody of your team: the address of this page with ?{PARAMETER}={number}")
        show.prompt_block(lineage.prompt.messages)
        texts(lineage)
        st.markdown("**All verdicts on this pair**")
        show.table(
            ("When (UTC)", "Who", "Verdict", "Seconds", "Beside it", "Until"),
            [history_row(said) for said in lineage.history],
        )
        where_from(lineage, uses)


def texts(lineage: Lineage) -> None:
    """Both completions, with who wrote them: here nobody judges any more."""
    for side, column in zip("ab", st.columns(2), strict=True):
        written = lineage.completions[side]
        chosen = " · chosen" if lineage.comparison.verdict == side else ""
        with column.container(border=True, height="stretch"):
            st.html(
                f'<section role="region" aria-label="Completion {side}"><span class="pl-role">{side}{chosen}</span>'
                f"{render_model_text(written.text)}</section>"
            )
            st.caption(maker_words(written, lineage.makers[side]))


def maker_words(written: Completion, maker: Checkpoint | None) -> str:
    """Who or what wrote a completion."""
    if maker is None:
        return "rewritten by an annotator" if written.rewrite_of else f"imported from {written.source or 'a file'}"
    run = f", run {written.run_id}" if written.run_id else ""
    seed = "" if written.seed is None else f", seed {written.seed}"
    length = "" if written.tokens is None else f", {counted(written.tokens, 'token')}"
    return f"{maker.name}{run}{seed}{length}, ended by {written.finish_reason}"


def history_row(said: Said) -> tuple[object, ...]:
    """One verdict on the pair, whoever's."""
    comparison = said.comparison
    ended = f"{comparison.superseded_at:%Y-%m-%d %H:%M}" if comparison.superseded_at else "stands"
    by_side = f" ({comparison.verdict})" if comparison.left_side and comparison.verdict in ("a", "b") else ""
    return (
        f"{comparison.created_at:%Y-%m-%d %H:%M:%S}",
        said.annotator.name + (" (retracted)" if said.annotator.retracted_at else ""),
        verdict_words(comparison) + by_side,
        "–" if comparison.seconds is None else f"{comparison.seconds:.1f}",
        beside(comparison),
        ended,
    )


def where_from(lineage: Lineage, uses: list[SnapshotUse]) -> None:
    """The pair, its round, and the snapshots that it went into."""
    pair, left = lineage.pair, lineage.comparison.left_side
    rows: list[tuple[object, object]] = [
        ("Pair", f"{pair.id}, {pair.purpose}" + (f", repeats pair {pair.repeats}" if pair.repeats else "")),
        ("Round", lineage.round.number if lineage.round else "none: it was imported"),
        ("Prompt", f"{lineage.prompt.id}, from {lineage.prompt.source}" + held_out(lineage)),
        ("Stood left", left or "nothing: nobody saw it here"),
    ]
    if pair.selected_by is not None:
        rows.append(("Selected", selected_words(SelectedBy(pair.selected_by), pair.selected_margin)))
    if lineage.ranking is not None:
        rows[3] = ("Comes of", ranking_words(lineage.ranking))
    rows += [("In snapshot", use_words(use)) for use in uses]
    show.table(("Where it comes from, where it went", ""), rows)
    if lineage.ranking is not None:
        ranked_together(lineage, lineage.ranking)
    if not uses:
        st.caption("No snapshot that was cut while this verdict stood holds the pair.")


def selected_words(how: SelectedBy, margin: float | None) -> str:
    """How a pair was selected, and the policy's rewards of it at that moment."""
    return NAMES[how] + ("" if margin is None else f"; reward of a less that of b: {margin:+.3g}")


def ranking_words(ranking: Ranking) -> str:
    """What a ranking was, in a few words."""
    said = {Outcome.ALL_BAD: "all called bad", Outcome.SKIP: "skipped"}.get(Outcome(ranking.outcome))
    seconds = "" if ranking.seconds is None else f", in {ranking.seconds:.1f} seconds"
    ended = f", superseded {ranking.superseded_at:%Y-%m-%d %H:%M}" if ranking.superseded_at else ""
    size = len(ranking.shown) or sum(map(len, ranking.tiers))
    return f"ranking {ranking.id} of {size}{f', {said}' if said else ''}{seconds}{ended}"


def ranked_together(lineage: Lineage, ranking: Ranking) -> None:
    """All that was ranked, the best first; where nothing was put in order, as it stood on the screen."""
    st.markdown("**The ranking it comes of**")
    sides = {written.id: side for side, written in lineage.completions.items()}
    ranked, tiers = lineage.ranked, ranking.tiers or [ranking.shown]
    rows = [
        (
            str(1 + sum(map(len, tiers[:number]))) if ranking.tiers else "–",
            sides.get(ranked[place].id, ""),
            cut(ranked[place].text),
        )
        for number, tier in enumerate(tiers)
        for place in tier
    ]
    show.table(("Place", "In this pair", "Completion"), rows)


def cut(text: str) -> str:
    """The beginning of a text, for a line of a table."""
    return text if len(text) <= 240 else text[:239] + "…"


def held_out(lineage: Lineage) -> str:
    """Whether the prompt is one that nothing is ever trained on."""
    return ", held out" if lineage.prompt.held_out else ""


def use_words(use: SnapshotUse) -> str:
    """What a snapshot made of the pair."""
    part = {"train": f"{use.chosen} chosen, to train on", "test": f"{use.chosen} chosen, held out", "ties": "a tie"}
    trained = f"; trained: {', '.join(use.trained)}" if use.trained else ""
    return f"{use.snapshot.hash[:12]} ({part.get(use.split, use.split)}){trained}"
