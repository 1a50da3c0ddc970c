"""Duels, the gate and who serves, in a person's words, for pages and commands alike. Importable without Streamlit."""

from __future__ import annotations

from collections.abc import Sequence

from dpo_core.duels import Match
from dpo_core.gate import Gate, too_few_words
from store.decision_tables import DecisionRecord
from store.intervals import Estimate
from store.models import Checkpoint, Decision
from store.win_rate import DuelVerdict
from store.wording import counted
from ui.story import percent

STRENGTHS = ("Checkpoint", "Points over the base", "95% interval", "Duels")
POINTS_NOTE = "Points as in chess: 100 more means winning 64% of the duels."
VAGUE = 0.9  # an interval this wide says nothing
SIGNS = {True: "✓", False: "✗", None: "…"}


def verdict_words(match: Match) -> str:
    """What the duels say so far, and how many more it takes."""
    found, open_duels = match.win_rate, match.counts.open
    left = f" {counted(open_duels, 'duel')} still to judge." if open_duels else ""
    if found.verdict == DuelVerdict.PROMOTE:
        return f"People prefer {match.checkpoint}. The interval holds however often you look.{_equal_length(match)}"
    if found.verdict == DuelVerdict.KEEP:
        return f"People prefer {match.against}. The interval holds however often you look.{_equal_length(match)}"
    if few := too_few_words(match):
        return f"Undecided: {few}.{left}{_equal_length(match)}"
    if found.too_close:
        return f"Too close to call: more than a thousand duels would be needed.{left}{_equal_length(match)}"
    if found.duels_more is not None:
        more = f"about {counted(found.duels_more, 'comparison')} more would decide, if it goes on like this"
        return f"Undecided: {more}.{left}{_equal_length(match)}"
    return f"Undecided.{left}"


def _equal_length(match: Match) -> str:
    found = match.at_equal_length
    if found.value is None or found.interval is None:
        return ""
    low, high = found.interval
    if high - low > VAGUE:
        return " What it would be at equal length cannot be told yet."
    return f" At equal length: {percent(found.value)} ({percent(low)} to {percent(high)})."


def serving_words(serving: Checkpoint, decisions: Sequence[DecisionRecord]) -> str:
    """Which checkpoint serves, and by whose word."""
    if not decisions:
        return f"{serving.name} serves: nothing was promoted yet."
    last = next((entry for entry in reversed(decisions) if entry.action != Decision.KEEP), None)
    if last is None:
        return f"{serving.name} serves: nothing was promoted yet."
    return f"{serving.name} serves: {_let_serve(last)}."


def served_words(checkpoint: Checkpoint, decisions: Sequence[DecisionRecord]) -> str:
    """Since when, and by whose word, a checkpoint served that does not now."""
    own = [entry for entry in decisions if entry.checkpoint_id == checkpoint.id and entry.action != Decision.KEEP]
    return _let_serve(own[-1]) if own else "it began with this"


def _let_serve(record: DecisionRecord) -> str:
    how = {"promote": "promoted", "roll_back": "rolled back to"}[record.action]
    forced = ", against the gate" if record.forced else ""
    return f"{how} {decided_words(record)}{forced}"


def decided_words(record: DecisionRecord) -> str:
    """By whom something was decided, and when."""
    return f"by {record.by or 'nobody named'} on {record.created_at:%Y-%m-%d %H:%M} UTC"


def gate_table(gate: Gate) -> list[tuple[str, str, str]]:
    """The conditions as lines: sign, name, what there is."""
    return [(SIGNS[each.met], each.name, each.found) for each in gate.conditions]


def strength_rows(points: dict[str, Estimate]) -> list[tuple[str, str, str, int]]:
    """A line for each checkpoint whose strength can be told, the strongest first, as STRENGTHS has it."""
    known = [(name, entry) for name, entry in points.items() if entry.value is not None and entry.interval is not None]
    return [
        (name, f"{entry.value or 0:+.0f}", "{:+.0f} to {:+.0f}".format(*(entry.interval or (0, 0))), entry.count)
        for name, entry in sorted(known, key=lambda item: -(item[1].value or 0))
    ]
