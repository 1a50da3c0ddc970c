"""What a checkpoint was found to be worth, in words and rows: slices of its held-out accuracy, and what stands beside.

Only words, for pages and commands alike. Importable without Streamlit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dpo_core.alarms import CLEAR_SHARE, RISE, is_beyond
from store.held_out import KINDS, Ceiling, HeldOut, Slice
from store.intervals import Estimate
from store.wording import counted
from ui.story import canary_line, check_line, percent

SLICES_HEAD = ("Where", "Before", "After", "Judged")
BESIDE_HEAD = ("Beside the accuracy", "", "")
MOST_SLICES = 8  # of a kind: a file of prompts may have come from hundreds of places
LABELS = {
    "strength": "called {}",
    "annotator": "chosen by {}",
    "source": "prompts of {}",
    "criterion": "better in {}",
}
LITTLE_KL, MUCH_KL = 1.0, 10.0  # nats an answer: as far as the best of 6 and of some 60,000 answers
NOTHING = "–"
CHART_WORDS = "It is the shaded band. The lines are 95% intervals; the dashed one is a coin toss."


def labelled_slices(found: HeldOut) -> Iterator[tuple[str, Slice]]:
    """All pairs, then whatever can be told apart, each with what to call it. A kind of one slice says nothing new."""
    yield found.pairs.name, found.pairs
    for kind in KINDS:
        slices = found.by[kind]
        if len(slices) > 1 or kind == "criterion":
            yield from ((LABELS[kind].format(each.name), each) for each in slices[:MOST_SLICES])


def left_out_words(found: HeldOut) -> str:
    """How many slices are not shown; empty for none."""
    more = sum(max(0, len(found.by[kind]) - MOST_SLICES) for kind in KINDS)
    return f"The {MOST_SLICES} largest of each kind; {counted(more, 'more slice')} not shown." if more else ""


def slice_rows(found: HeldOut) -> list[tuple[str, str, str, str]]:
    """A line for each slice, as SLICES_HEAD has it."""
    return [
        (label, estimate_words(each.before), estimate_words(each.after), f"{each.after.count:,}")
        for label, each in labelled_slices(found)
    ]


def estimate_words(found: Estimate) -> str:
    """`67% (39% to 86%)`; a dash where there is nothing to tell it from."""
    if found.value is None or found.interval is None:
        return NOTHING
    low, high = found.interval
    return f"{percent(found.value)} ({percent(low)} to {percent(high)})"


def ceiling_words(ceiling: Ceiling) -> str:
    """What the ceiling is and where it comes from."""
    if ceiling.value is None:
        return (
            f"The ceiling, {percent(ceiling.low)} to {percent(ceiling.high)}, is from the literature: so often do "
            "people agree with each other. Too few pairs here were judged by two annotators to tell how often yours do "
            "(comparisons_per_pair and overlap have more of them judged twice)."
        )
    where = {
        "held_out": "held-out pairs",
        "round": "pairs of the round (too few held-out pairs were judged twice)",
    }[ceiling.told_from]
    return (
        f"The ceiling is how often two of your annotators agree: on {percent(ceiling.value)} "
        f"({percent(ceiling.low)} to {percent(ceiling.high)}) of {ceiling.pairs:,} {where}."
    )


def beside_rows(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Lengths, KL, canary and checks of a checkpoint's metrics: name, figure, and whether that is much."""
    lengths, kl, canary = (metrics.get(name) or {} for name in ("lengths", "kl", "canary"))
    rows = []
    if lengths:
        span = f"{lengths['before']:.0f} → {lengths['after']:.0f}"
        rows.append(("Tokens an answer", span, length_words(lengths)))
    if kl:
        interval = f" ({kl['low']:.1f} to {kl['high']:.1f})" if "low" in kl else ""
        rows.append(("KL to its parent", f"{kl['nats']:.1f} nats an answer{interval}", kl_words(kl["nats"])))
    if canary:
        rows.append((f"Perplexity on {canary['text']}", canary_line(canary), canary_words(canary)))
    rows += [(f"Check: {each['command']}", *_outcome(each)) for each in metrics.get("checks") or []]
    return rows


def _outcome(check: dict[str, Any]) -> tuple[str, str]:
    outcome, _, said = check_line(check).partition(": ")
    return outcome, said


def length_words(lengths: dict[str, float]) -> str:
    """Whether the answers' length changed much."""
    change = lengths["after"] / max(1.0, lengths["before"]) - 1
    if abs(change) < 0.05:
        return "Hardly changed."
    how = f"{abs(change):.0%} {'longer' if change > 0 else 'shorter'}"
    if abs(change) <= CLEAR_SHARE:
        return f"{how}: not much."
    return f"{how}: much, unless people asked for it. Read some answers."


def kl_words(nats: float) -> str:
    """Whether the answers are far from what the parent would write.

    Choosing the best of n answers moves a model by ln n - (n - 1) / n nats (Stiennon et al. 2020, appendix G.3).
    """
    if nats < LITTLE_KL:
        return "Little: it writes almost as its parent does."
    if nats <= MUCH_KL:
        return f"Moderate: as far as picking the best of some {best_of(nats):,} answers each time."
    return "Much: it writes what its parent hardly ever would. Read some answers; a higher beta keeps it closer."


def best_of(nats: float) -> int:
    """The n whose ln n - (n - 1) / n comes to so many nats, to two digits."""
    n = math.exp(nats + 1)  # the limit for large n
    for _ in range(50):
        n = math.exp(nats + (n - 1) / n)
    return int(float(f"{n:.2g}"))


def canary_words(canary: dict[str, Any]) -> str:
    """Whether the checkpoint predicts ordinary text worse than its parent."""
    if is_beyond(canary):
        return "Tells nothing: the parent predicts this text no better than by guessing."
    change = math.exp(min(canary["after"] - canary["before"], 14.0)) - 1
    if change > RISE:
        return f"{change:,.0%} more: much. It may have lost some of what it could do."
    if change < -RISE:
        return f"{-change:.0%} less: it predicts this text better than its parent."
    return f"{change:+.0%}: it predicts ordinary text as well as its parent."
