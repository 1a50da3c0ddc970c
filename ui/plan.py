"""A training's plan as people read it: one line, its parts, and what was planned beside what a run really took.

Only words, for pages and commands alike. Importable without Streamlit.
"""

from __future__ import annotations

from typing import Any

from dpo_core.memory_plan import MemoryPlan
from dpo_core.run_plan import for_processes, where_free
from store.models import Run
from store.wording import counted, sized
from ui.story import duration

PARTS = {
    "process": "Python and its libraries",
    "weights": "Weights",
    "optimizer": "Optimizer",
    "gradients": "Gradients",
    "exchange": "What processes send each other",
    "activations": "Activations of one batch",
    "head": "Logits of one batch",
    "judging": "Judging, before and after training",
    "writing": "Writing samples, after training",
}
UNKNOWN = "How much memory training needs cannot be told before the model is on this machine and pairs were compared."


def plan_line(plan: MemoryPlan) -> str:
    """`Needs about 1.2 GB of the 23 GB that are free, and about 40 s.`"""
    time = f", and about {duration(plan.seconds)}" if plan.seconds else ""
    room = "" if plan.fits else ": too little"
    unknown = f" {_unknown(plan)}" if plan.processes.unknown else ""
    needed = f"{sized(plan.total)}{for_processes(plan)}{',' if plan.processes.count > 1 else ''}"
    return f"Needs about {needed} of the {sized(plan.available)} that are free{time}{room}.{unknown}"


def plan_facts(plan: MemoryPlan) -> dict[str, str]:
    """What the plan is for, and its parts."""
    batch = plan.work.longest[: plan.training.batch_size]  # cut where training cuts them
    tokens = sum(pair.unique for pair in batch)
    checkpointing = "on" if plan.training.gradient_checkpointing else "off"
    return {
        "Pairs": f"{plan.work.pairs:,}, {counted(tokens, 'token')} in the largest batch of {len(batch)}",
        **_processes(plan),
        "Gradient checkpointing": checkpointing,
        **{name: sized(getattr(plan.needs, part)) for part, name in PARTS.items() if _is_there(part, plan)},
        f"At once, at most{for_processes(plan)}": sized(plan.total),
        f"Free {where_free(plan)}": sized(plan.available),
        "Time": f"about {duration(plan.seconds)}" if plan.seconds else "not known before the first training",
    }


def _is_there(part: str, plan: MemoryPlan) -> bool:
    return part != "exchange" or plan.processes.count > 1


def _processes(plan: MemoryPlan) -> dict[str, str]:
    """How many processes the plan is for, where a launcher is set."""
    processes = plan.processes
    if processes.unknown:
        return {"Processes": _unknown(plan)}
    if processes.count == 1:
        return {}
    split = f"{', '.join(processes.split)} split between them" if processes.split else "each with the whole model"
    return {"Processes": f"{processes.count}, {split}; what follows is for each"}


def _unknown(plan: MemoryPlan) -> str:
    return f"Planned for one process: what the launcher starts cannot be told ({plan.processes.unknown})."


def plan_json(plan: MemoryPlan) -> dict[str, Any]:
    """The plan for scripts, in bytes and seconds."""
    return {
        "fits": plan.fits,
        "total": plan.total,
        "available": plan.available,
        "seconds": plan.seconds,
        "parts": {part: getattr(plan.needs, part) for part in PARTS},
        "pairs": plan.work.pairs,
        "processes": plan.processes,
        "training": plan.training,
        "changes": plan.changes,
    }


def planned_and_used(run: Run) -> str:
    """`planned 1.2 GB and 40 s, used 1.1 GB and 43 s`; what is not known is left out, and empty without a plan.

    A run measures the first of its processes only.
    """
    plan, used = run.settings.get("plan") or {}, run.result.get("train") or {}
    if not plan:
        return ""
    count = plan.get("processes", 1)
    verbs = (f"for {count} processes planned", "the first used") if count > 1 else ("planned", "used")
    amounts = ((plan.get("mb"), plan.get("seconds")), (used.get("peak_mb"), used.get("seconds")))
    return ", ".join(filter(None, (_amounts(verb, *both) for verb, both in zip(verbs, amounts, strict=True))))


def _amounts(verb: str, megabytes: float | None, seconds: float | None) -> str:
    amounts = [sized(megabytes * 2**20) if megabytes else "", duration(seconds)]
    said = " and ".join(filter(None, amounts))
    return f"{verb} {said}" if said else ""
