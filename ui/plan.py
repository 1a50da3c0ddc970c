"""A training's plan as people read it: one line, its parts, and what was planned beside what a run really took.

Only words, for pages and commands alike. Importable without Streamlit.
"""

from __future__ import annotations

from typing import Any

from dpo_core.memory_plan import MemoryPlan
from store.models import Run
from store.wording import counted, sized
from ui.story import duration

PARTS = {
    "process": "Python and its libraries",
    "weights": "Weights",
    "optimizer": "Optimizer",
    "gradients": "Gradients",
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
    return f"Needs about {sized(plan.total)} of the {sized(plan.available)} that are free{time}{room}."


def plan_facts(plan: MemoryPlan) -> dict[str, str]:
    """What the plan is for, and its parts."""
    batch = plan.work.longest[: plan.training.batch_size]  # cut where training cuts them
    tokens = sum(pair.unique for pair in batch)
    checkpointing = "on" if plan.training.gradient_checkpointing else "off"
    return {
        "Pairs": f"{plan.work.pairs:,}, {counted(tokens, 'token')} in the largest batch of {len(batch)}",
        "Gradient checkpointing": checkpointing,
        **{name: sized(getattr(plan.needs, part)) for part, name in PARTS.items()},
        "At once, at most": sized(plan.total),
        "Free on this machine": sized(plan.available),
        "Time": f"about {duration(plan.seconds)}" if plan.seconds else "not known before the first training",
    }


def plan_json(plan: MemoryPlan) -> dict[str, Any]:
    """The plan for scripts, in bytes and seconds."""
    return {
        "fits": plan.fits,
        "total": plan.total,
        "available": plan.available,
        "seconds": plan.seconds,
        "parts": {part: getattr(plan.needs, part) for part in PARTS},
        "pairs": plan.work.pairs,
        "training": plan.training,
        "changes": plan.changes,
    }


def planned_and_used(run: Run) -> str:
    """`planned 1.2 GB and 40 s, used 1.1 GB and 43 s`; what is not known is left out, and empty without a plan."""
    plan, used = run.settings.get("plan") or {}, run.result.get("train") or {}
    if not plan:
        return ""
    both = [_amounts("planned", plan.get("mb"), plan.get("seconds"))]
    both.append(_amounts("used", used.get("peak_mb"), used.get("seconds")))
    return ", ".join(filter(None, both))


def _amounts(verb: str, megabytes: float | None, seconds: float | None) -> str:
    amounts = [sized(megabytes * 2**20) if megabytes else "", duration(seconds)]
    said = " and ".join(filter(None, amounts))
    return f"{verb} {said}" if said else ""
