"""The plan of a workspace's next training: its model, its pairs, the memory that is free, how long the last one took.

`next_plan` draws it for what has been compared so far, `plan_run` for the pairs of a snapshot that was just cut. Both
give None where nothing can be said: the model is not on this machine yet, or there is nothing to train on. Importable
without torch; the arithmetic is in memory_plan.py.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from sqlmodel import Session
from tokenizers import Tokenizer

from dpo_core.base_model import weights_here
from dpo_core.chat_child import idle_memory
from dpo_core.config import ModelSettings, SamplingSettings, TrainingSettings
from dpo_core.errors import MemoryRefusedError
from dpo_core.memory_plan import MIB, MemoryPlan, Work, draw_plan, measure_texts, read_shape
from dpo_core.shares import ONE, Processes, read_launcher
from dpo_core.workspace import Workspace
from store.models import Checkpoint, RunKind, RunStatus
from store.preferences import poll_comparisons
from store.prompts import Message
from store.runs import list_runs
from store.snapshot_filter import SnapshotFilter
from store.wording import sized

log = logging.getLogger("pairloop")
LETTERS = 3  # in a token, where the tokenizer's own file cannot be read: fewer than in most languages
CGROUP = Path("/sys/fs/cgroup")
CARD_SECONDS = 5  # a driver that hangs is taken for none
Texts = tuple[Sequence[Message], str, str]  # prompt, chosen, rejected


def next_plan(
    workspace: Workspace, *, session: Session, wanted: SnapshotFilter, parent: Checkpoint, training: TrainingSettings
) -> MemoryPlan | None:
    """The plan of training `parent` on what has been compared so far."""
    poll = poll_comparisons(session=session, filter=wanted)
    found = [each for each in [*poll.preferences, *poll.ties] if not each.held_out]
    rows = [(each.prompt, each.chosen, each.rejected) for each in found]
    return plan_run(workspace, session=session, rows=rows, parent=parent, training=training)


def plan_run(
    workspace: Workspace, *, session: Session, rows: Sequence[Texts], parent: Checkpoint, training: TrainingSettings
) -> MemoryPlan | None:
    """The plan of training `parent` on these pairs."""
    weights = weights_here(workspace.settings.model.base, workspace.folder)
    if weights is None or not rows:
        return None
    try:
        shape = read_shape(weights)
    except ValueError as error:
        log.info("No plan of the memory that training needs: %s.", error)
        return None
    texts = [_as_text(*row) for row in rows]
    count_tokens = _counter(weights.folder)
    work = measure_texts(texts, count_tokens, training, context=shape.context)
    work = replace(work, written=_written(texts, count_tokens, shape.context, training, workspace.settings.sampling))
    model = workspace.settings.model
    if parent.kind == "lora":  # once an adapter, always one
        model = model.model_copy(update={"tuning": "lora"})
    launcher = workspace.settings.worker.launcher
    cards = free_on_cards()
    processes = read_launcher(launcher, cards=len(cards)) if launcher.strip() else ONE
    seconds = _seconds(session, work, training, workspace.settings.model, processes)
    available = free_memory(cards, processes.count) + (0 if cards else idle_memory(session=session))
    return draw_plan(shape, work, training, model, available=available, seconds=seconds, processes=processes)


def _written(
    texts: Sequence[tuple[str, str, str]],
    count_tokens: Callable[[str], int],
    context: int | None,
    training: TrainingSettings,
    sampling: SamplingSettings,
) -> int:
    """Tokens of one batch of answers and their prompts, when lengths are compared after training."""
    answers = min(sampling.batch_size, training.drift_samples, len(texts))
    longest = count_tokens(max((prompt for prompt, _, _ in texts), key=len)) + sampling.max_new_tokens
    return answers * min(longest, context or longest)


def _as_text(prompt: Sequence[Message], chosen: str, rejected: str) -> tuple[str, str, str]:
    """With about as many marks between the turns as a chat template puts there."""
    turns = "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    return f"{turns}\nassistant:", f"{chosen}\n", f"{rejected}\n"


def _counter(folder: Path) -> Callable[[str], int]:
    path = folder / "tokenizer.json"
    try:
        tokenizer = _tokenizer(str(path), path.stat().st_mtime_ns)
    except Exception as error:  # the library has no class of its own for a file it cannot read
        log.debug("Tokens are guessed from letters: %s", error)
        return lambda text: -(-len(text) // LETTERS)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=2)
def _tokenizer(path: str, changed: int) -> Tokenizer:
    """A model's tokenizer; a large one takes half a second to read."""
    return Tokenizer.from_file(path)


def free_memory(cards: Sequence[int], processes: int = 1) -> int:
    """Bytes that a training can have: an NVIDIA card's where torch can use one (`cards`: free on each), else RAM.

    Each process has a card of its own; what is free on the fullest counts. On a card the estimate is on the safe side:
    TRL's head has a kernel there that needs one tile, not eight.
    """
    return min(cards[:processes]) if cards else _free_on_machine()


def free_on_cards() -> list[int]:
    """What each card has free; empty without one, or with a torch that was built for the CPU alone."""
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    if _torch_version().endswith("+cpu") or shutil.which(command[0]) is None:
        return []
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=CARD_SECONDS, check=True).stdout
        return [int(word) * MIB for word in said.split() if word.isdigit()]
    except (OSError, subprocess.SubprocessError):
        return []


def _torch_version() -> str:
    return version("torch")


def _free_on_machine() -> int:
    """What a new process can have, or what is left of a container's share."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):  # no container, or one that does not say
        return free


def _seconds(
    session: Session, work: Work, training: TrainingSettings, model: ModelSettings, processes: Processes
) -> float | None:
    """As long as the last training of this kind took for each pair and epoch; None before the first.

    Processes on cards of their own share out the time; on a CPU they share its cores, and none is saved.
    """
    for run in list_runs(session=session):
        figures = run.result.get("train") or {}
        if run.kind != RunKind.TRAIN or run.status != RunStatus.DONE or not figures.get("seconds"):
            continue
        before = run.settings.get("model") or {}
        if (before.get("base"), before.get("tuning")) != (model.base, model.tuning) or not figures.get("pairs"):
            continue
        epochs = (run.settings.get("training") or {}).get("num_train_epochs") or 1
        each = figures["seconds"] / ((figures["pairs"] + figures.get("ties", 0)) * epochs)
        faster = processes.pace / int((run.settings.get("plan") or {}).get("pace", 1))
        return round(float(each * work.pairs * training.num_train_epochs) / faster, 1)
    return None


def require_fit(plan: MemoryPlan) -> None:
    """Raise MemoryRefusedError, with what to change, where a run would find too little memory."""
    if plan.fits:
        return
    raise MemoryRefusedError(
        f"This training would need about {sized(plan.total)} of memory{for_processes(plan)}; {sized(plan.available)} "
        f"are free {where_free(plan)}. Nothing was started. {change_words(plan)}\nTo start it all the same: `pairloop "
        "train --anyway`, or Train anyway on the Loop page."
    )


def for_processes(plan: MemoryPlan) -> str:
    """` for 2 processes`, or for each of them where each has a memory of its own; nothing for one."""
    count, on_cards = plan.processes.count, plan.processes.on_cards
    return f" for {'each of ' if on_cards else ''}{count} processes" if count > 1 else ""


def where_free(plan: MemoryPlan) -> str:
    """Whose memory the plan is held against."""
    return "on each one's card" if plan.processes.on_cards and plan.processes.count > 1 else "on this machine"


def change_words(plan: MemoryPlan) -> str:
    """What to change in pairloop.toml, a line for each way."""
    if not plan.changes:
        return "Close other programs, or train on a machine with more memory."
    lines = [
        f"  {change.settings}: about {sized(change.total)}{', which fits' if change.fits else ''}"
        for change in plan.changes
    ]
    return "\n".join(["In pairloop.toml, any of these makes it smaller:", *lines])


def settled(training: TrainingSettings, plan: MemoryPlan | None) -> TrainingSettings:
    """The settings that a run is queued with: "auto" decided, so that the run is the same wherever it is done again."""
    if plan is not None:
        return plan.training
    decided = training.gradient_checkpointing is True
    return training.model_copy(update={"gradient_checkpointing": decided})


def recorded(plan: MemoryPlan | None) -> dict[str, Any] | None:
    """What of the plan is kept with the run, to be held against what it really took."""
    if plan is None:
        return None
    amounts = {"mb": round(plan.total / MIB), "free_mb": round(plan.available / MIB), "seconds": plan.seconds}
    return amounts | {"processes": plan.processes.count, "pace": plan.processes.pace}


def texts_of(rows: Iterable[dict[str, Any]]) -> list[Texts]:
    """A snapshot's rows as `plan_run` takes them."""
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]
