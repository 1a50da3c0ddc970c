"""Lineage: which checkpoint came from which, who taught it and how, and which of them somebody touched."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dpo_core.lineage import CheckpointRecord, limits, read_record
from dpo_core.model_card import model_card
from dpo_core.workspace import Workspace
from store.ancestry import Ancestry, read_ancestry
from store.annotators import list_annotators
from store.database import reading
from store.snapshots import rounds_of
from ui import components as show
from ui import lineage_words as words
from ui.model_text import message_markdown
from ui.state import research_workspace, show_messages
from ui.story import DATA_PAGE, LOOP_PAGE, RUNS_PAGE
from ui.touching import who_touched

FRESH_SECONDS = 20  # for which a record is not read again: with large snapshots that takes a second


def main() -> None:
    """The family, one of its checkpoints, and what somebody's comparisons went into."""
    workspace = research_workspace()
    show.page_head("Lineage")
    show_messages()
    with reading(workspace.engine) as session:
        family = read_ancestry(session=session)
    chosen = choose(family)
    name = st.query_params.get(words.NAME_PARAMETER, "")
    st.graphviz_chart(words.tree_drawing(family, chosen.name, name), width="content")
    with st.expander("As a table"):
        show.table(words.TREE_HEAD, words.tree_rows(family))
    about(workspace, family, chosen)
    touched(workspace)


def choose(family: list[Ancestry]) -> Ancestry:
    """The checkpoint that the page is about: the newest, unless another is chosen or in the address."""
    by_name = {each.name: each for each in reversed(family)}
    if st.session_state.get("lineage_of") not in by_name:
        asked = st.query_params.get(words.CHECKPOINT_PARAMETER, "")
        st.session_state["lineage_of"] = asked if asked in by_name else family[-1].name
    chosen = by_name[str(st.selectbox("Checkpoint", list(by_name), key="lineage_of"))]
    st.query_params[words.CHECKPOINT_PARAMETER] = chosen.name  # so that a reload, or whoever is sent it, finds this one
    return chosen


def _read_record(folder: str, name: str, decisions: int, _workspace: Workspace) -> CheckpointRecord:
    return read_record(_workspace, name)


_record: Callable[[str, str, int, Workspace], CheckpointRecord] = st.cache_data(
    _read_record, ttl=FRESH_SECONDS, show_spinner=False
)


def about(workspace: Workspace, family: list[Ancestry], chosen: Ancestry) -> None:
    """One checkpoint's card: what it came from, what it is worth, what was decided, and the ways on."""
    decisions = sum(len(each.decisions) for each in family)  # another's promotion ends this one's service
    record = _record(str(workspace.folder), chosen.name, decisions, workspace)
    st.subheader(chosen.name, anchor=False)
    ways_on(chosen)
    drawing = words.origin_drawing(record, st.query_params.get(words.NAME_PARAMETER, ""))
    if drawing:
        st.graphviz_chart(drawing, width="content")
    show.table(("What is on record", ""), words.facts(record))
    data_and_settings(record)
    people(record)
    found = limits(record)
    if found:
        st.markdown("**Limits**")
        for each in found:
            show.paragraph(each)
    name = f"{chosen.name}-card.md"
    st.download_button("Model card", model_card(record), name, "text/markdown", icon=":material/download:")


def ways_on(chosen: Ancestry) -> None:
    """The parent, what was trained from it, the run that trained it, its snapshot, and its round."""
    with st.container(horizontal=True):
        relatives = [(chosen.parent, "Parent")] if chosen.parent else []
        relatives += [(name, "Trained from it") for name in chosen.children]
        for name, what in relatives:
            st.button(f"{what}: {name}", key=f"to-{name}", on_click=go_to, args=(name,))
        if chosen.run is not None:
            st.button(f"Run {chosen.run.id}", key="to-run", on_click=go_to_run, args=(chosen.run.id,))
        if chosen.round is not None:
            st.page_link(LOOP_PAGE, label=f"Round {chosen.round.number}", icon=":material/sync:")
            cut_from = rounds_of(chosen.snapshot.manifest) if chosen.snapshot is not None else []
            for number in cut_from or [chosen.round.number]:
                to_data(f"Comparisons of round {number}", round=f"{number}")
        if chosen.snapshot is not None:
            to_data(f"Snapshot {chosen.snapshot.hash[:12]}", snapshot=chosen.snapshot.hash[:12])
    if st.session_state.pop("leave_for_runs", False):
        st.switch_page(RUNS_PAGE)


def people(record: CheckpointRecord) -> None:
    """The way to what each of those said whom it learned from."""
    by = record.teaching.by if record.teaching is not None else []
    many = len(by) > words.SHOWN_PEOPLE
    with st.expander("What each of them said") if many else st.container(), st.container(horizontal=True):
        for each in by:
            to_data(f"Comparisons by {each.annotator}", by=each.annotator)


def to_data(label: str, **asked: str) -> None:
    """A link to a place on the Data page."""
    asked = words.data_parameters(st.query_params.get(words.NAME_PARAMETER, ""), **asked)
    st.page_link(DATA_PAGE, label=message_markdown(label), icon=":material/database:", query_params=asked)


def go_to(name: str | None) -> None:
    """Choose another checkpoint."""
    st.session_state["lineage_of"] = name


def go_to_run(number: int | None) -> None:
    """Choose a run on the Runs page and go there."""
    st.session_state["run"] = number
    st.session_state["all_runs"] = True  # it may be none of the latest
    st.session_state["leave_for_runs"] = True


def data_and_settings(record: CheckpointRecord) -> None:
    """Whose comparisons it was trained on, and the settings that are not as they come."""
    people, settings = words.teaching_rows(record), words.setting_rows(record)
    if people:
        note = "Comparisons on held-out prompts judge a checkpoint and are never trained on."
        show.table(words.TEACHING_HEAD, people, note)
    if settings:
        show.table(words.SETTINGS_HEAD, settings)
    elif record.ancestry.snapshot is not None:
        st.caption("All settings are as they come.")


def touched(workspace: Workspace) -> None:
    """Choose somebody, or an imported source, and see which checkpoints learned from them."""
    with reading(workspace.engine) as session:
        people = [who.name for who in list_annotators(session=session)]
    st.subheader("Touched by", anchor=False)
    name = st.selectbox("Annotator or source", people, index=None, key="touched_by", placeholder="Choose")
    if name is None:
        st.caption("Whose comparisons are in which checkpoints, by training or by descent.")
        return
    found = who_touched(workspace, name)
    show.paragraph(words.touched_words(name, found))
    if found:
        show.table(words.TOUCH_HEAD, words.touch_rows(found))


if __name__ == "__main__":
    main()
