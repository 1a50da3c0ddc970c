"""Second looks in words and tables, for the Team page and `pairloop quality`."""

from __future__ import annotations

from typing import Any

from store.intervals import Estimate, Interval
from store.models import Verdict
from store.second_looks import SecondLook, SecondLooks
from store.wording import counted
from ui.quality_words import FigureWords, interval_words, shown

HEAD = ("Prompt", "First verdict", "Second verdict", "Asked of", "Margin", "")
WIDTH = 60  # letters of a text
NONE_ASKED = (
    "After a training, comparisons that the new checkpoint finds most unlikely can be asked again, blind: set "
    "`second_looks` in [queue] of pairloop.toml to how many."
)


def summary_words(found: SecondLooks) -> str:
    """How many were asked, answered, confirmed and overturned."""
    answered, overturned = found.overturned.count, found.overturned_count
    return (
        f"{counted(found.asked, 'comparison')} went back into the queue: those that a checkpoint found most unlikely, "
        "of ten times as many of its training pairs. "
        f"{answered} {'was' if answered == 1 else 'were'} answered: {answered - overturned} confirmed, "
        f"{overturned} overturned."
    )


def figures(found: SecondLooks) -> list[FigureWords]:
    """The shares that were overturned, and what chance gives."""
    return [
        _figure("Overturned", found.overturned, "Of all second looks that were answered."),
        _figure("By the same person", found.by_same, "Of those that were asked of who had given the first verdict."),
        _figure(
            "Repeats at random",
            found.at_random,
            "How often people say something else of a pair they had named a side on, where chance picked it: the "
            "yardstick. (They come sooner after the first verdict than second looks do, which wait for a training.)",
        ),
    ]


def _figure(name: str, found: Estimate, means: str) -> FigureWords:
    return FigureWords(name, shown(found), interval_words(found), means)


def verdict_words(found: SecondLooks) -> str:
    """Whether the policy's doubts tell more than chance."""
    if found.more is None:
        asked = "second looks that the same person answered"
        needed = asked if found.by_same.value is None else "repeats at random (`repeats` in [queue])"
        return f"Whether that is more than chance gives is told once there are {needed}."
    low, high = found.more
    between = f"({_points(low)} to {_points(high)} percentage points)"
    if low > 0:
        return f"What the checkpoint doubts is overturned more often than repeats at random {between}."
    if high < 0:
        return f"What the checkpoint doubts is overturned less often than repeats at random {between}."
    return f"That is not told apart from repeats at random yet {between}."


def _points(share: float) -> str:
    return f"{100 * share:+.0f}"


def look_row(look: SecondLook) -> tuple[Any, ...]:
    """One that was answered, under HEAD."""
    return (
        _short(look.prompt),
        _said(look, look.first),
        _said(look, look.second),
        "the same person" if look.by_same else "somebody else",
        f"{look.margin:+.2f}",
        "overturned" if look.overturned else "confirmed",
    )


def _said(look: SecondLook, verdict: str) -> str:
    texts = {Verdict.A.value: look.texts[0], Verdict.B.value: look.texts[1]}
    return _short(texts[verdict]) if verdict in texts else verdict.replace("_", " ")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def as_record(found: SecondLooks) -> dict[str, Any]:
    """Plain figures for scripts."""
    return {
        "asked": found.asked,
        "answered": found.overturned.count,
        "confirmed": found.overturned.count - found.overturned_count,
        "overturned": found.overturned_count,
        "share": _estimate(found.overturned),
        "by_same": _estimate(found.by_same),
        "at_random": _estimate(found.at_random),
        "more": _interval(found.more),
        "looks": [
            {
                "pair": look.pair_id,
                "prompt": look.prompt,
                "first": look.first,
                "second": look.second,
                "margin": look.margin,
                "by_same": look.by_same,
                "overturned": look.overturned,
            }
            for look in found.looks
        ],
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "interval": _interval(found.interval), "count": found.count}


def _interval(found: Interval | None) -> list[float] | None:
    return None if found is None else list(found)
