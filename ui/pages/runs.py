"""Runs: what the worker does, how far it is, and how training went."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dpo_core.alarms import run_alarms
from dpo_core.loop import cancel, retry
from dpo_core.progress import read_metrics
from dpo_core.workspace import Workspace
from store.database import reading
from store.models import Run, RunStatus, Worker
from store.runs import OPEN, get_run, list_runs
from store.workers import live_workers
from ui import components as show
from ui import story
from ui.charts import sweep_chart, training_charts, training_phases
from ui.judgement import held_out_of_run
from ui.model_text import message_markdown
from ui.plan import planned_and_used
from ui.state import act, errors_in_words, log_tail, my_name, research_workspace, show_messages

SIGNS = {
    RunStatus.QUEUED: "waiting",
    RunStatus.RUNNING: "running",
    RunStatus.DONE: "done",
    RunStatus.FAILED: "failed",
    RunStatus.CANCELLED: "cancelled",
}
KINDS = {"sample": "Write pairs", "train": "Train", "evaluate": "Evaluate", "duel": "Write duels"}
LISTED = 12


def main() -> None:
    """The list of runs, and the chosen one beside it."""
    workspace = research_workspace()
    show.page_head("Runs")
    show_messages()
    with reading(workspace.engine) as session:
        runs = list_runs(session=session)
    if not runs:
        show.empty_state(
            "No runs yet", "Writing pairs and training happen in runs. The first begins with the first round."
        )
        if st.button("Go to the loop", type="primary"):
            st.switch_page(story.LOOP_PAGE)
        return
    left, right = st.columns([1, 3], gap="large")
    with left:
        chosen = choose_run(runs)
    with right:
        watch(workspace, chosen)


def choose_run(runs: list[Run]) -> Run:
    """The newest, unless another is picked."""
    shown = runs if st.session_state.get("all_runs") else runs[:LISTED]
    by_id = {run.id: run for run in shown}
    picked = st.radio(
        "Runs",
        list(by_id),
        format_func=lambda number: f"{KINDS.get(by_id[number].kind, by_id[number].kind)} · run {number}",
        captions=[SIGNS[RunStatus(run.status)] for run in shown],
        label_visibility="collapsed",
        key="run",
    )
    if len(runs) > LISTED:
        st.toggle(f"All {len(runs)}", key="all_runs")
    return by_id[picked]


def watch(workspace: Workspace, run: Run) -> None:
    """One run; drawn anew every two seconds until it is over."""
    assert run.id is not None
    number, drawn = run.id, what_can_be_done(run)
    st.subheader(f"{KINDS.get(run.kind, run.kind)} · run {run.id}", anchor=False)
    buttons(workspace, run)

    def live() -> None:
        with errors_in_words():
            with reading(research_workspace().engine) as session:
                fresh, workers = get_run(session=session, run_id=number), live_workers(session=session)
            if what_can_be_done(fresh) != drawn:
                st.rerun()
            report(workspace, fresh, workers)

    st.fragment(live, run_every=2 if run.status in OPEN else None)()


def what_can_be_done(run: Run) -> tuple[object, ...]:
    """All of a run that its buttons depend on. They stay out of the part drawn anew by itself, as on the Loop page."""
    return run.status, run.cancel_requested, run.attempt


def report(workspace: Workspace, run: Run, workers: list[Worker]) -> None:
    """All there is to say about a run."""
    assert run.id is not None
    folder = workspace.run_folder(run.id)
    st.caption(" · ".join(facts(run)))
    show.worker_warning(workers, run)
    if run.status == RunStatus.FAILED:
        why = run.error or "It failed without saying why; its log may tell."
        st.error(message_markdown(why), icon=":material/error:")
    if run.status in OPEN:
        show.run_progress(run)
    if run.status == RunStatus.DONE:
        outcome(run)
        held_out_of_run(workspace, run)
    else:
        latest_figures(run)
    show.alarms(run_alarms(run))
    sweep(run)
    metrics = read_metrics(folder)
    if not training_charts(metrics, chosen_phase(metrics)) and run.kind == "train" and run.status in OPEN:
        st.caption("Charts appear with the first training step.")
    with st.expander("Log"):
        st.code(log_tail(folder) or "Nothing written yet.", language=None)
    with st.expander("Settings"):
        st.json(run.settings)


def sweep(run: Run) -> None:
    """What became of each point, where the run was a sweep."""
    results = run.result.get("sweep")
    if results:
        st.markdown("**What the sweep came to**")
        show.table(story.SWEEP_HEAD, story.sweep_rows(results))
        sweep_chart(results)
        st.caption("Which of them goes on is picked on the Loop page.")


def chosen_phase(metrics: list[dict[str, Any]]) -> str:
    """Whose curves are drawn: of a sweep, the latest training's unless another is picked."""
    phases = training_phases(metrics)
    if len(phases) < 2:
        return phases[0] if phases else "train"
    return str(st.selectbox("Curves of", phases, index=len(phases) - 1, key="curves"))


def facts(run: Run) -> list[str]:
    """Status, who asked, how long it took."""
    found = [SIGNS[RunStatus(run.status)] + (", stopping" if run.cancel_requested and run.status in OPEN else "")]
    found.append(f"asked for by {run.requested_by or 'nobody'} on {run.created_at:%Y-%m-%d %H:%M} UTC")
    if run.started_at and run.finished_at:
        found.append(f"took {story.duration((run.finished_at - run.started_at).total_seconds()) or '0 s'}")
    if told := planned_and_used(run):
        found.append(told)
    if run.attempt > 1:
        found.append(f"attempt {run.attempt}: resumed from what was on disk")
    return found


def outcome(run: Run) -> None:
    """What a run that is done came to."""
    show.table(("What it came to", ""), list(story.result_facts(run).items()))


def latest_figures(run: Run) -> None:
    """The latest figures that the run reported."""
    names = ("loss", "rewards/margins", "rewards/accuracies")
    figures = {name: (run.progress.get("metrics") or {}).get(name) for name in names}
    if any(isinstance(value, int | float) for value in figures.values()):
        for column, (name, value) in zip(st.columns(len(names)), figures.items(), strict=True):
            column.metric(name, "–" if value is None else f"{value:.3f}")


def buttons(workspace: Workspace, run: Run) -> None:
    """Cancel what is open, try again what failed."""
    if run.status in OPEN and not run.cancel_requested:
        with st.popover("Cancel"):
            st.write("It stops at its next step. What it has on disk stays, and it can be tried again.")
            given = {"run_id": run.id, "by": my_name()}
            key = f"cancel-{run.id}"
            st.button("Cancel this run", type="primary", key=key, on_click=act, args=(cancel, workspace), kwargs=given)
    elif run.status in (RunStatus.FAILED, RunStatus.CANCELLED):
        number = {"run_id": run.id}
        key = f"retry-{run.id}"
        st.button("Try again", type="primary", key=key, on_click=act, args=(retry, workspace), kwargs=number)


if __name__ == "__main__":
    main()
