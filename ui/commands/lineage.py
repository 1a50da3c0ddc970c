"""`pairloop lineage` and `reproduce`: where checkpoints come from, and whether the record brings them about again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from dpo_core.export import export_checkpoint
from dpo_core.lineage import CheckpointRecord, limits, read_record
from dpo_core.model_card import model_card
from dpo_core.workspace import Workspace, open_workspace
from store.ancestry import read_ancestry
from store.database import reading
from store.teaching import touched_by
from store.wording import counted
from ui import lineage_words as words
from ui.commands.options import HERE, JsonOption, WorkspaceOption, only_one
from ui.commands.printing import RunBar, print_facts, print_json, print_table, say

NOT_THE_SAME = 1  # exit code


def lineage(
    checkpoint: Annotated[str | None, typer.Argument(help="One of them.", show_default="all")] = None,
    touched: Annotated[
        str | None, typer.Option("--touched-by", metavar="NAME", help="Those that this annotator or source touched.")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="Print the checkpoint's model card, as Markdown.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FOLDER", help="Write its weights, tokenizer and model card.")
    ] = None,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Where each checkpoint comes from: its parent, its snapshot, whose comparisons, which settings, whose decision.

    --touched-by finds the checkpoints that were trained on somebody's comparisons, and all that descend from these,
    before or after they are retracted. --export writes a folder that `from_pretrained` opens, with a model card from
    the record (of an adapter on a local model, the card says what to fill in first); nothing there is written over.

    \b
    Example:
      pairloop lineage
      pairloop lineage round-3
      pairloop lineage --touched-by Lea
      pairloop lineage round-3 --export my-model
    """
    only_one(**{"touched-by": touched, "card": card, "export": export})
    opened = open_workspace(workspace)
    if touched is not None:
        _touched(opened, touched, as_json)
    elif checkpoint is None and (card or export):
        raise typer.BadParameter("Say which checkpoint: `pairloop lineage` lists them.")
    elif checkpoint is None:
        _all(opened, as_json)
    elif export is not None:
        _export(opened, checkpoint, export, as_json)
    else:
        _one(read_record(opened, checkpoint), card, as_json)


def _touched(workspace: Workspace, name: str, as_json: bool) -> None:
    with reading(workspace.engine) as session:
        found = touched_by(session=session, folder=workspace.folder, name=name)
    if as_json:
        print_json({"touched": found})
        return
    if found:
        print_table([each.lower() for each in words.TOUCH_HEAD], words.touch_rows(found))
    say(words.touched_words(name, found))


def _all(workspace: Workspace, as_json: bool) -> None:
    with reading(workspace.engine) as session:
        found = read_ancestry(session=session)
    if as_json:
        print_json({"checkpoints": found})
    else:
        print_table([each.lower() for each in words.TREE_HEAD], words.tree_rows(found))


def _one(record: CheckpointRecord, card: bool, as_json: bool) -> None:
    if as_json:
        print_json({"checkpoint": record, "limits": limits(record), "card": model_card(record)})
    elif card:
        print(model_card(record), end="")
    else:
        print_facts(dict(words.facts(record)))
        for head, rows in ((words.TEACHING_HEAD, words.teaching_rows(record)), _settings(record)):
            if rows:
                say("")
                print_table([each.lower() for each in head], rows)
        for each in limits(record):
            say(f"- {each}")


def _settings(record: CheckpointRecord) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return words.SETTINGS_HEAD, [*words.setting_rows(record)]


def _export(workspace: Workspace, name: str, target: Path, as_json: bool) -> None:
    written = export_checkpoint(workspace, name, target)
    if as_json:
        print_json({"export": {"checkpoint": name, "target": written}})
    else:
        say(f"Wrote {written}: weights, tokenizer and the model card, README.md. Read its limits before you share it.")


def reproduce(
    which: Annotated[str, typer.Argument(metavar="ROUND", help="A round's number, or a checkpoint's name.")],
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest difference of a weight that still counts as the same.")
    ] = 0.0,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Train a round's checkpoint once more from its record, and compare the weights.

    It starts from the parent's weights, the snapshot as it was cut and the settings on record; the checkpoint on disk
    stays as it is, and nothing is registered. On the machine and with the versions of then the weights should be the
    same to the last bit; otherwise it says by how much they differ, and what is not as it was. What several processes
    trained is trained by one, on the same pairs at each step, and comes near: give a --tolerance. Exit code 0: the
    same, or within --tolerance; 1: not.

    \b
    Example:
      pairloop reproduce 3
      pairloop reproduce round-3-beta-0.3 --tolerance 1e-6
    """
    from dpo_core.reproduce import reproduce as train_once_more  # loads torch, which takes seconds

    logging.getLogger("pairloop").setLevel(logging.WARNING)
    opened = open_workspace(workspace)
    with RunBar() as bar:
        found = train_once_more(opened, which, bar)
    same = found.weights.within(tolerance)
    if as_json:
        print_json({"reproduction": found, "tolerance": tolerance, "same": same})
    else:
        _tell(found, tolerance, same)
    if not same:
        raise typer.Exit(NOT_THE_SAME)


def _tell(found: Any, tolerance: float, same: bool) -> None:
    weights = found.weights
    if weights.within(0):
        say(f"{found.checkpoint}: identical, all {counted(weights.tensors, 'tensor')} to the last bit.")
    elif weights.apart:
        say(f"{found.checkpoint}: not the same model. Tensors that only one has: {', '.join(weights.apart[:5])}.")
    else:
        say(
            f"{found.checkpoint}: {weights.differing} of {counted(weights.tensors, 'tensor')} differ, by "
            f"{weights.largest:.3g} at most (in {weights.worst}). "
            f"{'Within' if same else 'More than'} the tolerance of {tolerance:g}."
        )
    if found.moved and not weights.within(0):
        say(f"The training moved weights by up to {found.moved:.3g}.")
    if not weights.within(0):
        for note in found.notes:
            say(note)
    if found.facts:
        print_table(("not as it was", "then", "now"), [(each.name, each.then, each.now) for each in found.facts])
    elif not weights.within(0):
        say("Versions and machine are as they were, as far as that is on record.")
