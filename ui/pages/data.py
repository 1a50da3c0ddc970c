"""Data: prompts in, comparisons to look at, snapshots and exports out."""

from __future__ import annotations

import streamlit as st

from dpo_core.filters import snapshot_filter
from dpo_core.workspace import Workspace
from store.comparisons import count_comparisons
from store.database import reading, writing
from store.exporting import FILE_FORMATS, STYLES
from store.models import Snapshot
from store.prompts import count_prompts
from store.snapshot_filter import REASONS
from store.snapshots import cut_snapshot, list_snapshots
from store.wording import counted
from ui import components as show
from ui.comparisons import PARAMETER, browse
from ui.presets import asks_for_comparisons, asks_for_snapshot, preset_snapshot
from ui.state import act, errors_in_words, research_workspace, show_messages
from ui.transfer import ENDINGS, export_to_workspace, import_upload, zipped

TABS = ("Import", "Comparisons", "Snapshots and export")


def main() -> None:
    """Counts on top; below them what comes in, what was said, what goes out."""
    workspace = research_workspace()
    show.page_head("Data")
    show_messages()
    with reading(workspace.engine) as session:
        prompts, said = count_prompts(session=session), count_comparisons(session=session)
        snapshots = list_snapshots(session=session)
    counts(prompts, said, snapshots)
    importing, comparing, cutting = st.tabs(TABS, default=TABS[place_asked_for()])
    with importing:
        import_files(workspace, sum(prompts.values()))
    with comparing:
        browse()
    with cutting:
        snapshots_and_export(workspace, snapshots)


def place_asked_for() -> int:
    """Which tab the address leads to."""
    return 2 if asks_for_snapshot() else int(PARAMETER in st.query_params or asks_for_comparisons())


def counts(prompts: dict[str, int], said: dict[str, int], snapshots: list[Snapshot]) -> None:
    """How much there is of everything. A skip is no comparison, here as on the Loop page."""
    apart = f", {counted(said['skips'], 'skip')} apart" if said["skips"] else ""
    figures = (
        ("Prompts", prompts["train"] + prompts["held_out"], f"{prompts['held_out']} held out"),
        ("Comparisons", said["comparisons"], f"by {counted(said['annotators'], 'annotator')}{apart}"),
        ("Snapshots", len(snapshots), ""),
    )
    for column, (label, value, note) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(label, f"{value:,}")
        column.caption(note)


def import_files(workspace: Workspace, prompts: int) -> None:
    """A file of prompts, or of preferences or rankings that others made."""
    if not prompts:
        st.markdown("**Begin here:** bring in the prompts that the model is to answer.")
    left, right = st.columns([3, 2], gap="large")
    with left:
        drop_file(workspace)
    with right:
        st.html(
            '<div class="pl-quiet"><p><b>Prompts</b>: one a line, as text or as '
            '<code>{"prompt": "…"}</code> or <code>{"messages": […]}</code>.</p><p><b>Preferences</b>: columns '
            "<code>prompt</code>, <code>chosen</code>, <code>rejected</code>, as TRL and Argilla write "
            "them.</p><p><b>Rankings</b>: <code>prompt</code>, a list <code>completions</code>, and as many "
            "<code>ranks</code> or <code>scores</code>; or as Nectar and UltraFeedback have them.</p>"
            "<p>What is known already is not added twice. A part of the prompts is held out, to judge "
            "checkpoints with.</p></div>"
        )


def drop_file(workspace: Workspace) -> None:
    """Choose a file, then import it."""
    number = st.session_state.setdefault("uploads", 0)
    uploaded = st.file_uploader("A file of prompts, preferences or rankings", type=ENDINGS, key=f"upload-{number}")
    if uploaded is not None and st.button(f"Import {uploaded.name}", type="primary", key="import"):
        with errors_in_words(), st.spinner("Importing"):
            report = import_upload(workspace, name=uploaded.name, content=uploaded.getvalue())
            st.session_state["imported"] = report.summary()
            st.session_state["uploads"] = number + 1
            st.rerun()
    if "imported" in st.session_state:
        st.success(st.session_state["imported"], icon=":material/check:")


def snapshots_and_export(workspace: Workspace, snapshots: list[Snapshot]) -> None:
    """Cut a snapshot; look at one; take it elsewhere."""
    st.caption(
        "A snapshot is a fixed preference dataset, cut from the comparisons that stand at that moment. "
        "Training cuts its own; cut one here to take the data elsewhere."
    )
    kind = "secondary" if snapshots else "primary"
    st.button("Cut a snapshot now", type=kind, key="cut", on_click=act, args=(cut, workspace), kwargs={"said": "Cut."})
    if not snapshots:
        return
    names = {snapshot.hash: snapshot for snapshot in snapshots}
    preset_snapshot(names)
    chosen = st.selectbox("Snapshot", list(names), format_func=lambda name: label(names[name]), key="snapshot")
    left, right = st.columns(2, gap="large")
    with left:
        manifest(names[chosen])
    with right:
        export(workspace, names[chosen])


def label(snapshot: Snapshot) -> str:
    """A snapshot in a list."""
    pairs = snapshot.manifest["pairs"]
    return f"{snapshot.hash[:12]} · {snapshot.created_at:%Y-%m-%d %H:%M} · {pairs['train']} + {pairs['test']} held out"


def cut(workspace: Workspace) -> None:
    """Cut a snapshot of all that was compared so far."""
    with writing(workspace.engine) as session:
        cut_snapshot(session=session, folder=workspace.folder, filter=snapshot_filter(workspace))


def manifest(snapshot: Snapshot) -> None:
    """What is in it, and what was left out and why."""
    held = snapshot.manifest
    rows: list[tuple[object, object]] = [
        ("Pairs to train on", held["pairs"]["train"]),
        *([("Ties to train on", held["pairs"]["ties"])] if "ties" in held["pairs"] else []),
        ("Pairs held out", held["pairs"]["test"]),
        ("Comparisons looked at", held["comparisons"]),
        ("of these used", held["used"]),
    ]
    rows += [
        (f"left out: {REASONS.get(reason, reason)}", number) for reason, number in held["dropped"].items() if number
    ]
    show.table(("What is in it", ""), rows)


def export(workspace: Workspace, snapshot: Snapshot) -> None:
    """Write it as a dataset folder, and offer that as a download."""
    style = st.radio("Style", STYLES, horizontal=True, key="style")
    file_format = st.radio("Files", FILE_FORMATS, horizontal=True, key="format")
    wanted = {"snapshot": snapshot.hash, "style": style, "file_format": file_format}
    ready = st.session_state.get("export")
    if ready is None or ready[0] != wanted:
        st.button("Export", type="primary", key="export_button", on_click=act, args=(prepare, workspace, wanted))
        return
    folder = ready[1]
    st.download_button(
        f"Download {folder.name}.zip", lambda: zipped(folder), f"{folder.name}.zip", "application/zip", type="primary"
    )
    st.caption(f"It is also in {folder}, and opens with `datasets.load_dataset`.")


def prepare(workspace: Workspace, wanted: dict[str, str]) -> None:
    """Export, and remember where to."""
    st.session_state["export"] = (wanted, export_to_workspace(workspace, **wanted))


if __name__ == "__main__":
    main()
