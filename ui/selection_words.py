"""What selecting pairs gained, in words and tables, for the Loop page and `pairloop rounds`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from store.intervals import Estimate, Interval
from store.models import SelectedBy
from store.selected import BY_A_RULE, FEWEST, Gain, Gains, Side
from store.wording import counted

HEAD = ("Round", "Verdicts", "Became preferences", "Median seconds", "Policy guessed wrong")
NOTE = (
    "Each cell: pairs that were selected, pairs left to chance (random_share in [selection] of pairloop.toml), and the "
    "95% interval of the difference. Preferences and seconds are what a label yields, not what is learned from it. "
    "Policy guessed wrong: people preferred the completion to which the checkpoint that wrote both had given less "
    "implicit reward. That is what the rule does, and nothing gained: near asks where the policy cannot tell, far "
    "where it is sure."
)
NAMES = {  # ways to select, after a number of pairs
    SelectedBy.SLICE: "left to chance",
    SelectedBy.HELD_OUT: "left to chance on held-out prompts",
    SelectedBy.RANDOM: "at random, with nothing to select by",
    SelectedBy.NEAR: "near in reward",
    SelectedBy.FAR: "far apart in reward",
    SelectedBy.DIVERSE: "diverse",
}
NOTHING = "–"
YIELD = "That is what a label yields, not what was learned from it."


def ways_words(pairs: dict[str, int]) -> str:
    """`30 near in reward, 10 left to chance`."""
    return ", ".join(f"{count:,} {NAMES[SelectedBy(how)]}" for how, count in pairs.items())


def gain_words(found: Gains) -> str:
    """What verdicts on selected pairs yield, beside those on others, in sentences; "" where none was selected."""
    if not found.pairs:
        return ""
    if not any(how in found.pairs for how in BY_A_RULE):
        return (
            "No pair was selected by a rule yet, so nothing can be said of what that gains: the base has no rewards to "
            'go by (or `by` in [selection] is "random").'
        )
    selected, by_chance = found.all.selected, found.all.by_chance
    if not found.all.is_told:
        return (
            "Too early to say what selecting pairs yields: there are verdicts on "
            f"{counted(selected.prompts, 'prompt')} whose pair was selected and on {by_chance.prompts} left to chance; "
            f"it takes {FEWEST} of each."
        )
    parts = [
        f"{_share(selected.preferences)} of verdicts on selected pairs became preferences, and "
        f"{_share(by_chance.preferences)} of those on pairs left to chance ({_points(found.all.preferences)})"
    ]
    if selected.seconds.value is not None and by_chance.seconds.value is not None:
        parts.append(
            f"a verdict took {selected.seconds.value:.1f} and {by_chance.seconds.value:.1f} seconds (median; "
            f"{_told(found.all.seconds, '{:+.1f} to {:+.1f} seconds')})"
        )
    return "; ".join(parts) + f". {YIELD}{_guess_words(selected, by_chance)}"


def _guess_words(selected: Side, by_chance: Side) -> str:
    """What the rule does; "" where the policy guessed on one side only."""
    if selected.guessed_wrong.value is None or by_chance.guessed_wrong.value is None:
        return ""
    return (
        f" The policy's own guess was wrong in {_share(selected.guessed_wrong)} of the preferences on selected pairs "
        f"and in {_share(by_chance.guessed_wrong)} of the others: that is which pairs the rule takes, and nothing "
        "gained."
    )


def gain_rows(found: Gains) -> list[tuple[str, ...]]:
    """A line for each round, and one for all where there are several, under HEAD."""
    every = [*reversed(found.rounds), *([found.all] if len(found.rounds) > 1 else [])]
    return [_row(each) for each in every]


def _row(gain: Gain) -> tuple[str, ...]:
    selected, by_chance = gain.selected, gain.by_chance
    return (
        "all" if gain.round is None else str(gain.round),
        f"{selected.verdicts:,} and {by_chance.verdicts:,}",
        _cell(_share(selected.preferences), _share(by_chance.preferences), _span(gain.preferences)),
        _cell(_time(selected.seconds), _time(by_chance.seconds), _span(gain.seconds, "{:+.1f} to {:+.1f}", by=1)),
        _cell(_share(selected.guessed_wrong), _share(by_chance.guessed_wrong), ""),
    )


def _cell(selected: str, by_chance: str, span: str) -> str:
    return f"{selected} and {by_chance}{f' ({span})' if span else ''}"


def _share(found: Estimate) -> str:
    return NOTHING if found.value is None else f"{found.value:.0%}"


def _time(found: Estimate) -> str:
    return NOTHING if found.value is None else f"{found.value:.1f}"


def _span(interval: Interval | None, form: str = "{:+.0f} to {:+.0f}", *, by: float = 100) -> str:
    return "" if interval is None else form.format(by * interval[0], by * interval[1])


def _points(interval: Interval | None) -> str:
    percent = None if interval is None else (100 * interval[0], 100 * interval[1])
    return _told(percent, "{:+.0f} to {:+.0f} percentage points")


def _told(interval: Interval | None, form: str) -> str:
    if interval is None:
        return "too few to tell apart"
    low, high = interval
    return f"{form.format(low, high)}: {'more' if low > 0 else 'less' if high < 0 else 'not told apart'}"


def as_record(found: Gains) -> dict[str, Any]:
    """Plain figures for scripts."""
    return {"pairs": found.pairs, "rounds": [_record(each) for each in found.rounds], "all": _record(found.all)}


def _record(gain: Gain) -> dict[str, Any]:
    more = {"preferences": gain.preferences, "seconds": gain.seconds}
    sides = {"selected": _side(gain.selected), "by_chance": _side(gain.by_chance)}
    return {"round": gain.round} | sides | {"more": more, "told": gain.is_told}


def _side(side: Side) -> dict[str, Any]:
    return {
        "verdicts": side.verdicts,
        "prompts": side.prompts,
        "preferences": asdict(side.preferences),
        "seconds": asdict(side.seconds),
        "guessed_wrong": asdict(side.guessed_wrong),
    }
