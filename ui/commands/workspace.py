"""`pairloop init`, `status`, `backup`: the workspace as a whole."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from dpo_core.automatic import Act, Plan, read_plan
from dpo_core.backup import back_up, wanted_checkpoints
from dpo_core.base_model import BaseReport, check_base
from dpo_core.config import ModelSettings, Settings, TrainingSettings
from dpo_core.guidelines import write_guidelines
from dpo_core.loop import LoopState, Step, read_loop
from dpo_core.serving import misled
from dpo_core.workspace import create_workspace, open_workspace
from store.database import reading
from store.models import Round
from store.reading_files import read_rows
from store.rounds import is_paused
from store.runs import list_runs
from store.wording import counted
from store.workers import live_workers
from ui.commands.data import import_all, print_reports
from ui.commands.options import HERE, JsonOption, WorkspaceOption
from ui.commands.printing import print_facts, print_json, print_table, say
from ui.commands.runs import run_row
from ui.story import plan_words

# What the loop waits for, and the command that does it.
NEXT: dict[Step, tuple[str, str]] = {
    Step.IMPORT_PROMPTS: ("Bring in prompts for the model to answer.", "pairloop import prompts.jsonl"),
    Step.START_ROUND: ("Let {checkpoint} write pairs for the next round.", "pairloop sample"),
    Step.WAIT_FOR_PAIRS: ("{checkpoint} is writing the pairs.", "pairloop runs {run} --follow"),
    Step.COMPARE: ("Compare: {done} of {target} done, {open} still to compare.", "pairloop up"),
    Step.TRAIN: ("The comparisons are there: train on them.", "pairloop train"),
    Step.WAIT_FOR_TRAINING: ("The next checkpoint is being trained.", "pairloop runs {run} --follow"),
    Step.DECIDE: (
        "Judge the new checkpoint's duels (`pairloop duels` tells how they stand), then decide about it.",
        "pairloop rounds --promote (or --keep)",
    ),
    Step.MEND_RUN: ("Run {run} did not finish: {error}", "pairloop runs {run} --retry (or pairloop rounds --reopen)"),
}


def init(
    folder: Annotated[
        Path | None, typer.Argument(help="Where the workspace is made.", show_default="--workspace")
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="PATH_OR_ID", help="Any Hugging Face causal LM: a folder or a hub id."),
    ] = ...,  # type: ignore[assignment]  # Typer's way to say that the option is required
    lora: Annotated[bool, typer.Option("--lora", help="Train a LoRA adapter rather than all weights.")] = False,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="Import these prompts as well.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Make a workspace for a model of your own.

    The model is looked at first: it must be there and have a tokenizer. Its chat template is used where it has one, and
    a plain format where not. The settings go into a commented pairloop.toml.

    \b
    Example:
      pairloop init my-workspace --model Qwen/Qwen3-0.6B --lora
      cd my-workspace && pairloop up
    """
    folder = folder or workspace
    base = str(Path(model).expanduser().resolve()) if Path(model).expanduser().is_dir() else model
    facts = check_base(base, folder)
    if prompts:
        next(read_rows(prompts), None)  # raises for a file that cannot be read, before there is a workspace
    settings = Settings(
        model=ModelSettings(base=base, tuning="lora" if lora else "full"), training=_training_for(facts)
    )
    made = create_workspace(folder, settings)
    write_guidelines(made.folder)
    imported = import_all(made, [prompts], kind=None, source=None) if prompts else []
    if as_json:
        print_json({"workspace": made.folder, "base": base, "model": facts, "imports": imported})
        return
    say(f"Made a workspace in {made.folder}, its settings explained in pairloop.toml.\n{_model_words(facts)}")
    say("What annotators are told to go by is in guidelines.md: make it yours.")
    print_reports(imported)
    steps = ["pairloop sample", "pairloop up"] if imported else ["pairloop import prompts.jsonl"]
    steps = steps if made.folder == Path.cwd() else [f"cd {shlex.quote(str(folder))}", *steps]
    say(f"Next: {', then '.join(f'`{step}`' for step in steps)}")


def _training_for(facts: BaseReport) -> TrainingSettings:
    """The defaults, with no more tokens than the model has positions for."""
    usual = TrainingSettings()
    return usual.model_copy(update={"max_length": min(usual.max_length, facts.context_length or usual.max_length)})


def _model_words(facts: BaseReport) -> str:
    size = f"{facts.parameters / 1e6:,.1f}M parameters, " if facts.parameters else ""
    template = (
        "its own chat template" if facts.has_chat_template else "no chat template: a plain User / Assistant format"
    )
    return f"Model: {facts.architecture}, {size}{template}."


def status(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """Where the loop stands and which command is next.

    \b
    Example:
      pairloop status --workspace pairloop-demo
    """
    opened = open_workspace(workspace)
    with reading(opened.engine) as session:
        state = read_loop(session=session)
        workers = live_workers(session=session)
        runs = list_runs(session=session)[:5]
        link = misled(session, opened)
    plan = read_plan(opened) if opened.settings.automatic.on else None
    text, command = next_step(state, somebody_works=bool(workers), plan=plan)
    if as_json:
        facts = {"workspace": opened.folder, "state": state, "next": {"text": text, "command": command}}
        facts |= {"automatic": {"on": plan is not None, "plan": plan}, "workers": workers, "runs": runs}
        print_json(facts | {"link_trouble": link or None})
        return
    automatic = {"Automatic rounds": f"on. {plan_words(plan)}"} if plan is not None else {}
    print_facts({"Workspace": opened.folder} | _standing(state) | automatic | {"Workers": _workers(workers)})
    if runs:
        print_table(("run", "kind", "status", "how far", "asked by", "since"), [run_row(run) for run in runs])
    if link:
        say(f"\n{link}")
    say(f"\nNext: {text}" + (f"\n      {command}" if command else ""))


def next_step(state: LoopState, *, somebody_works: bool, plan: Plan | None = None) -> tuple[str, str]:
    """What the loop waits for, in a sentence, and the command that does it; none where it goes on by itself.

    `plan`: what automatic rounds do next, where they are on.
    """
    text, command = NEXT[state.step]
    if plan is not None and plan.act not in (Act.WAIT, Act.STOP):
        return f"Nothing: automatic rounds go on. {plan.why}", "" if somebody_works else "pairloop up"
    if is_paused(state.round) and state.open_run is None:
        text, command = "Round {round} is paused: nobody is shown a pair.", "pairloop queue --resume"
    elif state.step in (Step.WAIT_FOR_PAIRS, Step.WAIT_FOR_TRAINING) and not somebody_works:
        text, command = "Run {run} ({kind}) waits for a worker, and there is none.", "pairloop up"
    elif state.step == Step.DECIDE and state.open_run is not None:
        text, command = "Duels of the new checkpoint are being written.", "pairloop runs {run} --follow"
        if not somebody_works:
            text, command = "Run {run} ({kind}) waits for a worker, and there is none.", "pairloop up"
    elif state.step == Step.DECIDE and not (state.pairs.get("open_duels") or state.prompts["held_out"]):
        text = "Decide about the new checkpoint. No prompt is held out, so no duels tell whether it is better."
    elif state.step == Step.COMPARE and not state.pairs["open"]:
        text, command = _more_pairs(state)
    elif state.step == Step.START_ROUND and state.imported:
        command += " (or pairloop train)"
    facts = {
        "checkpoint": state.checkpoint.name,
        "run": state.run.id if state.run else "",
        "kind": state.run.kind if state.run else "",
        "error": (state.run.error or f"it was {state.run.status}.") if state.run else "",
        "done": state.comparisons.get("done", 0),
        "target": state.round.target if state.round else 0,
        "round": state.round.number if state.round else 0,
        "open": counted(state.pairs.get("open", 0), "pair"),
    }
    return text.format(**facts), command.format(**facts)


def _more_pairs(state: LoopState) -> tuple[str, str]:
    """What is next where the round wants comparisons and no pair is left for them."""
    if state.open_run is not None:
        return "{checkpoint} is writing more pairs: {done} of {target} compared.", "pairloop runs {run} --follow"
    assert state.round is not None
    early = " (or pairloop train --early)" if state.comparisons["done"] else ""
    missing = state.round.target - state.comparisons["done"]
    return "No pair is left to compare: {done} of {target} done.", f"pairloop sample --more {missing}{early}"


def _standing(state: LoopState) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "Checkpoint": state.checkpoint.name,
        "Prompts": f"{state.prompts['train']} to train on, {state.prompts['held_out']} held out",
    }
    if state.round is not None:
        paused = ", paused" if is_paused(state.round) else ""
        facts["Round"] = f"{state.round.number} ({state.round.status}{paused})"
    if state.round is not None and state.comparisons:
        facts |= _asked(state, state.round)
    elif state.imported:
        facts["To train on"] = counted(state.imported, "imported comparison")
    return facts


def _asked(state: LoopState, current: Round) -> dict[str, Any]:
    if state.imported:
        return {"Comparisons": f"{state.imported} imported"}
    late = f", {state.late} of them since training began" if state.late else ""
    return {
        "Comparisons": f"{state.comparisons['done']} of {current.target}{late}",
        "Pairs": f"{state.pairs['pairs']}, {state.pairs['open']} still open",
    }


def _workers(workers: Any) -> str:
    names = ", ".join(f"{worker.name} ({worker.doing or 'waiting'})" for worker in workers)
    return names or "none (`pairloop up` or `pairloop worker` starts one)"


def backup(
    target: Annotated[Path, typer.Argument(help="A new folder, or a file that ends in .zip.", show_default=False)],
    with_checkpoints: Annotated[
        bool | None,
        typer.Option(
            "--with-checkpoints/--without-checkpoints",
            help="The weights of all checkpoints, or of none.",
            show_default="those that the loop goes on with",
        ),
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Copy a workspace safely while it is in use: database, pairloop.toml, snapshots, and the weights to go on with.

    Those are the weights of the checkpoint that writes now, and of one that is still to be decided about. Without them
    (for large models) the copy holds all that people said, but cannot sample or train until they are put back.
    The copy is complete or not there at all. It is a workspace itself: to restore it, unpack it and work in it.

    \b
    Example:
      pairloop backup ~/backups/helpful-2026-03-01.zip
    """
    opened = open_workspace(workspace)
    names = wanted_checkpoints(opened, with_checkpoints=with_checkpoints)
    written = back_up(opened, target, names)
    size = sum(path.stat().st_size for path in [written, *written.rglob("*")] if path.is_file())
    if as_json:
        print_json({"backup": written, "bytes": size, "checkpoints": names})
        return
    weights = f"with the weights of {', '.join(names)}" if names else "without any checkpoint's weights"
    say(f"Wrote {written} ({size / 1e6:.1f} MB), {weights}.")
