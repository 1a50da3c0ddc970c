"""`pairloop sample`, `train`, `evaluate`, `runs`: the work that takes time.

A run is put in the queue. Where a worker is alive it carries the run out, and its progress is followed here; where none
is, the run is carried out by this very process. Either way the run survives: what was done is kept, and it goes on.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from dpo_core.alarms import run_alarms
from dpo_core.carry_out import carry_out_here
from dpo_core.changing_settings import read_assignments
from dpo_core.errors import RunCancelled, RunError
from dpo_core.loop import (
    cancel,
    plan_training,
    queue_evaluation,
    read_loop,
    retry,
    sample_more,
    start_round,
    start_training,
)
from dpo_core.memory_plan import MemoryPlan
from dpo_core.run_plan import change_words
from dpo_core.workspace import Workspace, open_workspace
from store.database import reading
from store.held_out import HeldOut, read_held_out
from store.models import Run, RunKind, RunStatus
from store.runs import get_run, list_runs
from store.snapshots import get_snapshot
from store.workers import live_workers
from ui.commands.options import HERE, DetachOption, JsonOption, WorkspaceOption, only_one, this_person
from ui.commands.printing import RunBar, figure, print_facts, print_json, print_table, remark, say
from ui.judged_words import SLICES_HEAD, beside_rows, ceiling_words, slice_rows
from ui.plan import UNKNOWN, plan_facts, plan_json, plan_line, planned_and_used
from ui.story import SWEEP_HEAD, alarm_words, sweep_rows, warnings_first

POLL_SECONDS = 0.5
JUDGING = (RunKind.TRAIN, RunKind.EVALUATE)
OVER = (RunStatus.DONE, RunStatus.FAILED, RunStatus.CANCELLED)


def sample(
    more: Annotated[
        int | None, typer.Option("--more", min=1, metavar="N", help="N more pairs for the open round.")
    ] = None,
    comparisons: Annotated[
        int | None, typer.Option("--comparisons", min=2, help="How many comparisons the new round asks for.")
    ] = None,
    detach: DetachOption = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Start a round: the serving checkpoint writes pairs of completions to be compared.

    \b
    Example:
      pairloop sample --comparisons 60
      pairloop sample --more 20
    """
    if more and comparisons:
        raise typer.BadParameter("--more adds to the open round, --comparisons is for a new one: give one of them.")
    opened = open_workspace(workspace)
    if more:
        run = sample_more(opened, pairs=more, by=this_person())
    else:
        start_round(opened, by=this_person(), comparisons=comparisons)
        run = _open_run(opened)
    see_through(opened, run, detach=detach, as_json=as_json)


def _open_run(workspace: Workspace) -> Run:
    """The sample run that the round just started with."""
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None
    return run


def train(
    early: Annotated[bool, typer.Option("--early", help="Before the round has all its comparisons.")] = False,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A training setting for this run alone; may be repeated."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep", metavar="KEY=VALUES", help="Train once for each value, as in beta=0.1,0.3; may be repeated."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it would need in memory and time, and start nothing.")
    ] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Start it even if memory seems too small for it.")] = False,
    detach: DetachOption = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Train the next checkpoint: cut a snapshot of the comparisons, train on it, judge it on held-out pairs.

    \b
    Example:
      pairloop train
      pairloop train --early --set beta=0.2 --set num_train_epochs=2
      pairloop train --sweep beta=0.05,0.1,0.3 --sweep lr=1e-6,5e-6
      pairloop train --plan
    """
    only_one(plan=plan, anyway=anyway)
    only_one(plan=plan, detach=detach)
    opened = open_workspace(workspace)
    asked = read_assignments(changes or [])
    if plan:
        _print_plan(plan_training(opened, changes=asked), as_json)
        return
    run = start_training(opened, by=this_person(), early=early, changes=asked, force=anyway, sweep=sweep or ())
    see_through(opened, run, detach=detach, as_json=as_json)


def _print_plan(plan: MemoryPlan | None, as_json: bool) -> None:
    if as_json:
        print_json({"plan": plan_json(plan) if plan else None})
    elif plan is None:
        say(UNKNOWN)
    else:
        print_facts(plan_facts(plan))
        say(plan_line(plan) if plan.fits else f"{plan_line(plan)} {change_words(plan)}")


def evaluate(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Which checkpoint is judged.", show_default="the newest one")
    ] = None,
    snapshot: Annotated[
        str,
        typer.Option(
            "--snapshot", metavar="HASH", help="Whose held-out pairs it is judged on (the hash's start will do)."
        ),
    ] = "latest",
    detach: DetachOption = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Judge a checkpoint, beside its parent, on comparisons that were never trained on.

    \b
    Example:
      pairloop evaluate round-2 --snapshot latest
    """
    opened = open_workspace(workspace)
    with reading(opened.engine) as session:
        judged_on = get_snapshot(session=session, name=snapshot)
    run = queue_evaluation(opened, checkpoint=checkpoint, snapshot=judged_on, by=this_person())
    see_through(opened, run, detach=detach, as_json=as_json)


def runs(
    number: Annotated[int | None, typer.Argument(help="One run, in full.", show_default="a list of all")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its progress until it is over.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print its log.")] = False,
    cancel_it: Annotated[bool, typer.Option("--cancel", help="Ask it to stop; what it saved is kept.")] = False,
    retry_it: Annotated[bool, typer.Option("--retry", help="Queue it again, to go on from what it saved.")] = False,
    detach: DetachOption = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Background runs: all of them, or one in full, followed, cancelled or tried again.

    \b
    Example:
      pairloop runs
      pairloop runs 3 --follow
      pairloop runs 3 --retry
    """
    only_one(follow=follow, log=log, cancel=cancel_it, retry=retry_it)
    only_one(follow=follow, log=log, cancel=cancel_it, detach=detach)
    if detach and not retry_it:
        raise typer.BadParameter("--detach goes with --retry: nothing else here puts a run in the queue.")
    if number is None and (follow or log or cancel_it or retry_it):
        raise typer.BadParameter("Say which run, as in `pairloop runs 3 --follow`.")
    opened = open_workspace(workspace)
    if number is None:
        _list_runs(opened, as_json)
    elif retry_it:
        see_through(opened, retry(opened, run_id=number), detach=detach, as_json=as_json)
    elif follow:
        _report(opened, _follow(opened, number), as_json)
    elif cancel_it:
        _show(opened, cancel(opened, run_id=number, by=this_person()), log=False, as_json=as_json)
    else:
        _show(opened, _fetch(opened, number), log=log, as_json=as_json)


def _fetch(workspace: Workspace, number: int) -> Run:
    with reading(workspace.engine) as session:
        return get_run(session=session, run_id=number)


def _list_runs(workspace: Workspace, as_json: bool) -> None:
    with reading(workspace.engine) as session:
        found = list_runs(session=session)
    if as_json:
        print_json({"runs": found})
    elif found:
        print_table(("run", "kind", "status", "how far", "asked by", "since"), [run_row(run) for run in found])
    else:
        say("There are no runs yet. `pairloop sample` starts a round.")


def run_row(run: Run) -> tuple[Any, ...]:
    """A run as a line of a table."""
    far = (run.error or "").partition("\n")[0] or _how_far(run)
    return run.id, run.kind, run.status, far, run.requested_by, run.created_at


def _how_far(run: Run) -> str:
    progress = run.progress
    return f"{progress['phase']} {progress['step']}/{progress['total']}" if progress else ""


def _show(workspace: Workspace, run: Run, *, log: bool, as_json: bool) -> None:
    assert run.id is not None
    folder = workspace.run_folder(run.id)
    if as_json:
        print_json(
            {"run": run, "folder": folder} | _held_out_json(workspace, run) | ({"log": _log(folder)} if log else {})
        )
    elif log:
        print(_log(folder), end="")
    else:
        _print_run(workspace, run)


def _held_out(workspace: Workspace, run: Run) -> HeldOut | None:
    """What a run that is done found on held-out pairs; None where it judged nothing."""
    if run.status != RunStatus.DONE:
        return None
    with reading(workspace.engine) as session:
        return read_held_out(session=session, run=run)


def _held_out_json(workspace: Workspace, run: Run) -> dict[str, Any]:
    return {"held_out": _held_out(workspace, run)} if run.kind in JUDGING else {}


def _print_judged(workspace: Workspace, run: Run) -> None:
    """Held-out accuracy in slices, its ceiling, and what stands beside it."""
    found = _held_out(workspace, run)
    if found is not None:
        say("")
        print_table([name.lower() for name in SLICES_HEAD], slice_rows(found))
        say(ceiling_words(found.ceiling))
    rows = beside_rows(run.result)
    if rows:
        say("")
        print_table(("beside the accuracy", "", ""), rows)


def _log(folder: Path) -> str:
    path = folder / "log.txt"
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _print_run(workspace: Workspace, run: Run) -> None:
    asked_to_stop = " (asked to stop)" if run.cancel_requested and run.status not in OVER else ""
    told = {
        "How far": "" if run.status == RunStatus.DONE else _how_far(run),
        "Error": run.error,
        "Memory and time": planned_and_used(run),
    }
    print_facts(
        {"Run": f"{run.id}, {run.kind}", "Status": f"{run.status}{asked_to_stop}", "Asked by": run.requested_by}
        | {"Queued": run.created_at, "Started": run.started_at, "Finished": run.finished_at, "Attempts": run.attempt}
        | {name: value for name, value in told.items() if value}
        | _flat(run.result)
    )
    if "sweep" in run.result:
        print_table(SWEEP_HEAD, sweep_rows(run.result["sweep"]))
    if run.status == RunStatus.DONE:
        _print_judged(workspace, run)
    for alarm in warnings_first(run_alarms(run)):
        say(f"\n{alarm.level.capitalize()}: {alarm.whole_text}")


def _flat(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a run made, one level deep, without lists."""
    flat: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name} ")
        elif not isinstance(value, list):
            flat[f"{prefix}{name}"] = value
    return flat


def see_through(workspace: Workspace, run: Run, *, detach: bool, as_json: bool) -> None:
    """Wait for a run that was queued, or carry it out here if nobody else will."""
    assert run.id is not None
    if detach:
        _report(workspace, run, as_json)
        return
    with reading(workspace.engine) as session:
        somebody_works = bool(live_workers(session=session))
    ended = _follow(workspace, run.id) if somebody_works else _carry_out(workspace, run.id)
    if ended.kind == RunKind.TRAIN and ended.status == RunStatus.DONE and not somebody_works:
        _write_duels(workspace)
    _report(workspace, ended, as_json)


def _write_duels(workspace: Workspace) -> None:
    """Carry out the run that a training leaves in the queue. What becomes of it does not change the training's."""
    with reading(workspace.engine) as session:
        waiting = read_loop(session=session).open_run
    if waiting is None or waiting.kind != RunKind.DUEL or waiting.id is None:
        return
    ended = _carry_out(workspace, waiting.id)
    if ended.status != RunStatus.DONE:
        remark(f"No duels were written ({ended.error or ended.status}). Again: `pairloop runs {ended.id} --retry`.")


def _carry_out(workspace: Workspace, number: int) -> Run:
    """Carry the run out in this process, and show its progress."""
    prepare_to_work()
    try:
        with RunBar() as bar:
            return carry_out_here(workspace, number, bar)
    except KeyboardInterrupt:
        remark(
            f"Run {number} waits in the queue, and what it saved is kept. Go on: `pairloop worker --once` (or "
            f"`pairloop up`). Call it off: `pairloop runs {number} --cancel`."
        )
        raise


def prepare_to_work() -> None:
    """Let runs in this process write their log."""
    logging.getLogger("pairloop").setLevel(logging.INFO)


def _follow(workspace: Workspace, number: int) -> Run:
    """Show the progress of a run that a worker carries out, until it is over."""
    try:
        with RunBar() as bar:
            while True:
                with reading(workspace.engine) as session:
                    run = get_run(session=session, run_id=number)
                    workers = live_workers(session=session)
                bar(run.progress)
                if run.status in OVER:
                    return run
                if not workers:
                    raise RunError(f"No worker is left to carry out run {number}. Start one: `pairloop worker`.")
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        remark(f"The run goes on. See it with `pairloop runs {number} --follow`, stop it with --cancel.")
        raise


def _report(workspace: Workspace, run: Run, as_json: bool) -> None:
    """Say what became of a run. Raises RunError where it failed, RunCancelled where it was cancelled."""
    if as_json:
        print_json({"run": run} | _held_out_json(workspace, run))
    if run.status == RunStatus.FAILED:
        raise RunError(f"Run {run.id} ({run.kind}) failed. {run.error}\nTry again: `pairloop runs {run.id} --retry`.")
    if run.status == RunStatus.CANCELLED:
        raise RunCancelled(f"Run {run.id} ({run.kind}) was cancelled. Go on: `pairloop runs {run.id} --retry`.")
    if not as_json:
        say(_outcome(run))
    if not as_json and run.kind == RunKind.EVALUATE:
        _print_judged(workspace, run)


def _outcome(run: Run) -> str:
    if run.status != RunStatus.DONE:
        return f"Run {run.id} ({run.kind}) is {run.status}. See it with `pairloop runs {run.id} --follow`."
    made = ", ".join(f"{name} {figure(value)}" for name, value in _flat(run.result).items())
    following = {
        RunKind.SAMPLE: "compare them (`pairloop up`)",
        RunKind.TRAIN: "judge its duels (`pairloop up`), then decide (`pairloop rounds`)",
        RunKind.DUEL: "judge them (`pairloop up`), then decide (`pairloop rounds`)",
    }
    after = following.get(RunKind(run.kind))
    alarms = alarm_words(run_alarms(run))
    told = f"\n{alarms} (`pairloop runs {run.id}` tells more)." if alarms else ""
    return f"Run {run.id} ({run.kind}) is done: {made}.{told}" + (f"\nNext: {after}." if after else "")
