"""What simulations came to, in tables and sentences, for `pairloop simulate` and the benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpo_core.over_seeds import GOAL, Verdicts, Whole
from store.models import Decision
from store.wording import counted
from ui.story import percent

if TYPE_CHECKING:
    from dpo_core.simulate import Measured, RoundReport

ROUND_HEAD = (
    "Seed",
    "Round",
    "Held out",
    "Duels",
    "Won",
    "Truth",
    "Verdict",
    "Decision",
    "Over the base",
    "Labels",
)
ROUND_NOTE = (
    "Held out: accuracy on held-out pairs. Won: of the new checkpoint's blind duels with its parent, with their "
    "interval; beside it the truth, what such annotators would come to in the end, and whether the interval held it. "
    "Over the base: the true win rate of what serves then, from fresh duels on held-out prompts. Labels: all verdicts "
    "so far, duels too."
)
STAGE_HEAD = ("Round", "Labels (mean)", "Over the base (mean)", "95% interval over seeds")


def round_row(seed: int, report: RoundReport) -> tuple[object, ...]:
    """One simulated round under ROUND_HEAD."""
    return (
        seed,
        report.round,
        percent(report.held_out_accuracy),
        *_measured(report.measured),
        "promoted" if report.decision == Decision.PROMOTE else "kept back",
        _with_interval(report.win_rate, report.interval),
        report.labels,
    )


def _measured(found: Measured | None) -> tuple[object, ...]:
    """What blind duels with the parent said, and whether their interval holds the truth."""
    if found is None or found.rate is None:
        return 0, "–", "–", "–"
    held = {True: ", held", False: ", missed", None: ""}[found.covered]
    return found.duels, _with_interval(found.rate, found.interval), f"{percent(found.truth)}{held}", found.verdict


def _with_interval(share: float, interval: tuple[float, float]) -> str:
    return f"{percent(share)} ({100 * interval[0]:.0f} to {percent(interval[1])})"


def stage_rows(whole: Whole) -> list[tuple[object, ...]]:
    """All seeds after each round, under STAGE_HEAD."""
    return [
        (
            stage.round,
            round(stage.labels),
            percent(stage.win_rate.value),
            "" if stage.win_rate.interval is None else " to ".join(_end(end) for end in stage.win_rate.interval),
        )
        for stage in whole.stages
    ]


def _end(share: float) -> str:
    """An end of an interval; that of few seeds reaches beyond what a share can be."""
    return percent(min(1.0, max(0.0, share)))


def goal_words(whole: Whole) -> str:
    """How many labels it took to come to GOAL."""
    came = f"{whole.reached} of {counted(whole.simulations, 'simulation')} came there"
    if whole.labels_to_goal is None:
        return f"Labels to a true win rate of {percent(GOAL)} over the base: more than were given; {came}."
    return f"Labels to a true win rate of {percent(GOAL)} over the base: {whole.labels_to_goal:.0f} (median; {came})."


def verdicts_words(found: Verdicts) -> str:
    """How often blind duels told the truth."""
    if not found.matches:
        return "No blind duels were judged."
    return (
        f"Blind duels of {counted(found.matches, 'new checkpoint')} with their parents, {found.duels:,} in all: the "
        f"interval held the truth in {found.covered}. Promote: {found.promoted}, {found.falsely_promoted} of them "
        f"falsely (no better than the parent). Keep: {found.kept}, {found.falsely_kept} of them falsely (no worse). "
        f"Undecided: {found.undecided}."
    )
