"""Team: how well annotators agree, what second looks came to, and the pairs in doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import streamlit as st

from dpo_core.workspace import Workspace
from store.adjudication import (
    WHY,
    DoubtfulPair,
    SaidOnce,
    adjudicate,
    list_doubtful,
    said_about,
    take_back_decision,
)
from store.answers import answers_version
from store.comparisons import Choice
from store.database import reading, writing
from store.pairs import ShownPair, shown_pair
from store.quality import Quality, read_quality
from store.second_looks import read_second_looks
from ui import components as show
from ui import quality_words as words
from ui import second_look_words as looks
from ui.model_text import plain_markdown
from ui.state import act, my_annotator_id, my_name, research_workspace, show_messages
from ui.transfer import zipped_tables

SECTIONS = ("Quality", "Second looks", "Inbox")
ALL = "all"
IN_A_ROW = 4
VERDICTS = (
    (Choice.LEFT, "Left is better", "primary"),
    (Choice.TIE, "Tie", "secondary"),
    (Choice.BOTH_BAD, "Both bad", "secondary"),
    (Choice.RIGHT, "Right is better", "primary"),
    (Choice.SKIP, "Leave this pair out", "tertiary"),
)


def main() -> None:
    """One of three sections: figures of the annotators, second looks, or the pairs in doubt."""
    workspace = research_workspace()
    show.page_head("Team")
    show_messages()
    picked = st.segmented_control("Show", SECTIONS, default=SECTIONS[0], key="team", label_visibility="collapsed")
    if picked == "Inbox":
        inbox(workspace)
    elif picked == "Second looks":
        second_looks(workspace)
    else:
        quality(workspace)


def quality(workspace: Workspace) -> None:
    """All together on top, then each annotator, then every two of them."""
    with_retracted = bool(st.session_state.get("with_retracted"))
    with reading(workspace.engine) as session:
        version = answers_version(session=session)
    found = figures(str(workspace.folder), version, with_retracted, workspace)
    if not found.annotators:
        show.empty_state("Nothing compared yet", "How well annotators agree appears here once they have compared.")
        retracted_too()
        return
    overall(found)
    show.table(words.AGREEMENT_HEAD, [words.agreement_row(each) for each in found.annotators])
    show.table(words.HABITS_HEAD, [words.habits_row(each) for each in found.annotators])
    if found.couples:
        show.table(words.COUPLE_HEAD, [words.couple_row(each) for each in found.couples])
    else:
        st.caption(words.COUPLES_NEEDED)
    st.caption(words.apart_words(found))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button("Download as CSV", lambda: zipped_tables(found), "quality.zip", "application/zip")
        retracted_too()


def retracted_too() -> None:
    """Whether what retracted annotators had said is looked at as well."""
    st.toggle("With retracted annotators", key="with_retracted")


def measure(folder: str, version: tuple[str, ...], with_retracted: bool, _workspace: Workspace) -> Quality:
    """The figures; folder and version are what a session's copy of them is known by."""
    with reading(_workspace.engine) as session:
        return read_quality(session=session, with_retracted=with_retracted)


# Computed anew only after something was said, changed or retracted.
figures: Callable[..., Quality] = st.cache_data(measure, show_spinner="Adding up", max_entries=8, ttl=600)


def second_looks(workspace: Workspace) -> None:
    """How many were overturned, beside repeats at random, and those that were answered."""
    with reading(workspace.engine) as session:
        found = read_second_looks(session=session)
    if not found.asked:
        show.empty_state("No second looks yet", looks.NONE_ASKED)
        return
    show.paragraph(looks.summary_words(found))
    metrics(looks.figures(found))
    show.paragraph(looks.verdict_words(found))
    if found.looks:
        show.table(looks.HEAD, [looks.look_row(look) for look in found.looks])
        st.caption("Overturned ones wait in the inbox, where a researcher can let the second verdict stand.")


def overall(found: Quality) -> None:
    """Each figure with its interval and what it means, or what it needs."""
    metrics(words.overall_words(found))


def metrics(told: Sequence[words.FigureWords]) -> None:
    """Figures side by side, a few in a row."""
    for start in range(0, len(told), IN_A_ROW):
        for column, figure in zip(st.columns(IN_A_ROW), told[start : start + IN_A_ROW], strict=False):
            column.metric(figure.name, figure.value)
            means = plain_markdown(figure.means)  # there are names in it
            column.caption(f"**{figure.interval}.** {means}" if figure.interval else means)


def inbox(workspace: Workspace) -> None:
    """The most doubtful pair, who said what, and the verdict that decides."""
    if not my_name():
        show.ask_name()
        return
    with reading(workspace.engine) as session:
        waiting = list_doubtful(session=session)
    undo_button(workspace)
    if not waiting:
        show.empty_state(
            "Nothing in doubt",
            "Pairs that annotators disagree on, that somebody flagged, or whose label is in doubt wait here for a "
            "verdict that decides.",
        )
        return
    waiting = chosen_reason(waiting)
    later = st.session_state.get("later", [])
    waiting = [pair for pair in waiting if pair.pair_id not in later] or waiting
    st.caption("The most doubtful first. Your verdict decides for the pair, and nothing that was said is changed.")
    decide(workspace, waiting[0])


def chosen_reason(waiting: list[DoubtfulPair]) -> list[DoubtfulPair]:
    """The pairs that wait for one reason, or all."""
    counts = Counter(reason for pair in waiting for reason in pair.why)
    picked = st.segmented_control(
        "Why",
        [ALL, *(reason for reason in WHY if counts[reason])],
        default=ALL,
        format_func=lambda reason: f"{WHY.get(reason, ALL).capitalize()}: {counts.get(reason, len(waiting)):,}",
        key="why",
        label_visibility="collapsed",
    )
    return [pair for pair in waiting if picked in pair.why] or waiting


def decide(workspace: Workspace, doubtful: DoubtfulPair) -> None:
    """One pair, and what to do about it."""
    mine = my_annotator_id(workspace)
    with reading(workspace.engine) as session:
        pair = shown_pair(session=session, pair_id=doubtful.pair_id, annotator_id=mine)
        said = said_about(session=session, pair_id=doubtful.pair_id)
    show.paragraph(why_words(doubtful))
    show.prompt_block(pair.messages)
    show.completion_panes(pair.left, pair.right)
    show.table(("Who", "Verdict", "Strength", "Why", "Marked"), [said_row(one, pair) for one in said])
    with st.container(horizontal=True, horizontal_alignment="center", key=f"decide-{pair.pair_id}"):
        for choice, label, kind in VERDICTS:
            given = (rule, workspace, pair.pair_id, mine, choice)
            st.button(label, key=f"rule-{choice}-{pair.pair_id}", type=kind, on_click=act, args=given)
        st.button("Later", key=f"later-{pair.pair_id}", type="tertiary", on_click=put_off, args=(pair.pair_id,))


def why_words(doubtful: DoubtfulPair) -> str:
    """Why a pair is here."""
    why = ", and ".join(WHY[reason] for reason in doubtful.why)
    chance = doubtful.chance
    how = "No side has a majority" if chance is None else f"The majority is right with a chance of {chance:.0%}"
    return f"{why[0].upper()}{why[1:]}. {how}."


def said_row(one: SaidOnce, pair: ShownPair) -> tuple[object, ...]:
    """What one annotator said, in terms of the sides as they stand here."""
    sides = {"a": "left", "b": "right"} if pair.left_side == "a" else {"a": "right", "b": "left"}
    marked = [f"{sides.get(side, side)}: {', '.join(wrong)}" for side, wrong in sorted(one.flags.items()) if wrong]
    verdict = sides.get(one.verdict, {"both_bad": "both bad", "skip": "skipped"}.get(one.verdict, one.verdict))
    return (
        one.annotator,
        verdict + (", asked again" if one.repeated else ""),
        one.strength or words.NOTHING,
        one.reason or words.NOTHING,
        "; ".join([*marked, *one.tags]) or words.NOTHING,
    )


def rule(workspace: Workspace, pair_id: int, annotator_id: int, choice: Choice) -> None:
    """Decide for exactly this pair."""
    with writing(workspace.engine) as session:
        decided = adjudicate(session=session, pair_id=pair_id, annotator_id=annotator_id, choice=choice)
    st.session_state["ruled"] = (decided.id, annotator_id)


def put_off(pair_id: int) -> None:
    """Show this pair again only when no other is left, as long as this session lasts."""
    st.session_state["later"] = [*st.session_state.get("later", []), pair_id]


def undo_button(workspace: Workspace) -> None:
    """Take back the decision that was made last on this page."""
    ruled = st.session_state.get("ruled")
    if ruled is not None:
        st.button(
            "Undo the last decision",
            key=f"undo-{ruled[0]}",
            type="tertiary",
            on_click=act,
            args=(undo, workspace, *ruled),
        )


def undo(workspace: Workspace, comparison_id: int, annotator_id: int) -> None:
    """The pair is in doubt again."""
    st.session_state.pop("ruled", None)
    with writing(workspace.engine) as session:
        take_back_decision(session=session, comparison_id=comparison_id, annotator_id=annotator_id)


if __name__ == "__main__":
    main()
