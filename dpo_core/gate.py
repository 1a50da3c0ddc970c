"""The gate: what a new checkpoint must show to be promoted, as [gate] of pairloop.toml says, and what it shows.

The win rate in blind duels with its parent is the one figure that people gave. Its interval may be looked at after
every label (store/win_rate.py), so that the gate may as well: it opens, or says "keep the parent", or waits for more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlmodel import Session

from dpo_core.alarms import CANARY_RISEN, Alarm, is_beyond, recorded_alarms
from dpo_core.config import GateSettings
from dpo_core.duels import Match, read_matches
from dpo_core.workspace import Workspace
from store.models import Checkpoint, Decision, RoundStatus
from store.rounds import latest_round
from store.win_rate import LEAST_PROMPTS, DuelVerdict, WinRate
from store.wording import counted


@dataclass(frozen=True)
class Condition:
    """One thing that promotion asks. `met` None: it cannot be said yet. `found` says what there is, in words.

    `by_duels`: whether it is for more duels to say.
    """

    name: str
    met: bool | None
    found: str
    by_duels: bool = False


@dataclass(frozen=True)
class Gate:
    """What promotion asks of a checkpoint, its matches, the one with its parent first, and the settings that ask it."""

    checkpoint: str
    conditions: tuple[Condition, ...]
    matches: tuple[Match, ...]
    asked: GateSettings

    @property
    def is_open(self) -> bool:
        """Whether everything that is asked is there."""
        return all(condition.met for condition in self.conditions)

    @property
    def lacking(self) -> list[Condition]:
        """What is not met, or not known yet."""
        return [condition for condition in self.conditions if not condition.met]

    @property
    def suggestion(self) -> Decision | None:
        """Promote where the gate is open, keep where a condition is not met; None: what is lacking is not known yet."""
        if any(condition.met is False for condition in self.conditions):
            return Decision.KEEP
        return Decision.PROMOTE if self.is_open else None

    @property
    def open_duels(self) -> int:
        """How many duels still want an answer."""
        return sum(match.counts.open for match in self.matches)

    def as_record(self) -> dict[str, Any]:
        """For the record of a decision."""
        conditions = [asdict(condition) for condition in self.conditions]
        matches = [match.as_record() for match in self.matches]
        return {"asked": self.asked.model_dump(), "conditions": conditions, "matches": matches}


def gate_to_pass(session: Session, workspace: Workspace) -> Gate | None:
    """What the gate says of the checkpoint that is to be decided about; None where there is none."""
    current = latest_round(session=session)
    if current is None or current.status != RoundStatus.DECIDING or current.result_checkpoint_id is None:
        return None
    return read_gate(session, workspace, session.get_one(Checkpoint, current.result_checkpoint_id))


def read_gate(session: Session, workspace: Workspace, checkpoint: Checkpoint) -> Gate:
    """What the gate says of a checkpoint by now."""
    asked = workspace.settings.gate
    matches = tuple(read_matches(session, checkpoint, alpha=workspace.settings.duels.alpha))
    shown = conditions(asked, matches, checkpoint.metrics, workspace.settings.evaluation.checks)
    return Gate(checkpoint.name, tuple(shown), matches, asked)


def conditions(
    asked: GateSettings, matches: tuple[Match, ...], metrics: dict[str, Any], checks: Sequence[str] = ()
) -> list[Condition]:
    """What is asked, and what a checkpoint's matches and its own record show of it. A function of these alone.

    `checks`: the commands that [evaluation] asks for by now.
    """
    return [*_won(asked, matches), *_shown(asked, metrics), *_checked(asked, metrics.get("checks", []), checks)]


def _won(asked: GateSettings, matches: tuple[Match, ...]) -> Iterator[Condition]:
    if asked.win_rate == "ignore" or not matches:
        return
    match = matches[0]
    wanted = {"better": "Better than", "not worse": "Not shown to be worse than"}[asked.win_rate]
    verdict = match.win_rate.verdict
    met = {DuelVerdict.PROMOTE: True, DuelVerdict.KEEP: False, DuelVerdict.UNDECIDED: None}[verdict]
    if asked.win_rate == "not worse" and met is None and _is_judged(match):
        met = True
    told = [match_words(match), _lacking(asked, match) if met is None else ""]
    yield Condition(f"{wanted} {match.against} in blind duels", met, "; ".join(filter(None, told)), by_duels=True)


def _is_judged(match: Match) -> bool:
    """Whether people had the chance to find it worse: none of its duels is open, and enough prompts were judged."""
    return not match.counts.open and match.win_rate.judged >= LEAST_PROMPTS


def _lacking(asked: GateSettings, match: Match) -> str:
    """What else a verdict waits for than for open duels; or nothing."""
    if few := too_few_words(match):
        return few
    if asked.win_rate == "not worse" and match.counts.written and not match.counts.open:
        return f"{match.win_rate.judged} of the {LEAST_PROMPTS} prompts judged that it takes"
    return ""


def too_few_words(match: Match) -> str:
    """Where there are too few held-out prompts to decide a match: that, and what to do; else nothing."""
    if not match.win_rate.too_few_prompts:
        return ""
    rate = "at this rate" if match.win_rate.prompts >= LEAST_PROMPTS else "at any rate"
    return f"{counted(match.held_out, 'held-out prompt')} cannot decide it {rate}: import more prompts"


def match_words(match: Match) -> str:
    """A match in a line: `won 62% of 24 decided duels (41% to 79%); 2 ties beside`."""
    found = match.win_rate
    if not match.counts.written:
        return "no duel was written"
    if not found.prompts:
        return f"{counted(match.counts.written, 'duel')}, none of them decided yet"
    apart = [counted(number, what) for number, what in ((found.ties, "tie"), (found.both_bad, "both bad")) if number]
    beside = f"; {' and '.join(apart)} beside" if apart else ""
    return f"{won_words(found)}{beside}"


def won_words(found: WinRate) -> str:
    """How often it won, where there are decided duels: of the duels, or on the prompts where some were judged again.

    The rate is a mean over prompts: `won 62% on 24 prompts (30 decided duels), 41% to 79%`.
    """
    low, high = (f"{100 * end:.0f}%" for end in found.interval)
    rate, duels = f"won {100 * (found.rate or 0):.0f}%", counted(found.won + found.lost, "decided duel")
    if found.won + found.lost == found.prompts:
        return f"{rate} of {duels} ({low} to {high})"
    return f"{rate} on {counted(found.prompts, 'prompt')} ({duels}), {low} to {high}"


def change_words(judged: dict[str, Any]) -> str:
    """How held-out accuracy changed: `+12 points (-3 to +27)`; empty where its interval is not known."""
    if not judged.get("change_interval"):
        return ""
    change, low, high = (100 * each for each in (judged["change"], *judged["change_interval"]))
    return f"{change:+.0f} points ({low:+.0f} to {high:+.0f})"


def _counts(alarm: Alarm) -> bool:
    """Whether it is an alarm that the gate asks not to be there: how far the canary may rise is asked by itself."""
    return alarm.level == "warning" and alarm.name != CANARY_RISEN


def _shown(asked: GateSettings, metrics: dict[str, Any]) -> Iterator[Condition]:
    """What the training's own record shows.

    A round has some ten held-out pairs: accuracy is clearly worse only where the whole interval of its change, pair by
    pair, lies below 0; a smaller difference is more often chance than not.
    """
    judged = metrics.get("eval", {})
    if asked.held_out == "not worse" and judged.get("pairs"):
        before, after = judged["accuracy_before"], judged["accuracy_after"]
        told = f"{100 * before:.0f}% → {100 * after:.0f}% on {counted(judged['pairs'], 'held-out pair')}"
        interval, change = judged.get("change_interval"), change_words(judged) or "too few to tell a change from chance"
        met = interval is None or interval[1] >= 0
        yield Condition("Held-out accuracy not clearly worse", met, f"{told}: {change}")
    if asked.alarms == "none":
        found = [alarm.title for alarm in recorded_alarms(metrics) if _counts(alarm)]
        yield Condition("No alarm", not found, ", ".join(found) or "none")
    canary = metrics.get("canary")
    if asked.canary and canary and not is_beyond(canary):
        rise = canary["perplexity_after"] / canary["perplexity_before"] - 1
        told = f"perplexity {canary['perplexity_before']:.1f} → {canary['perplexity_after']:.1f} ({100 * rise:+.0f}%)"
        yield Condition(f"Canary text at most {100 * asked.canary:.0f}% harder", rise <= asked.canary, told)


def _checked(asked: GateSettings, done: Sequence[dict[str, Any]], checks: Sequence[str]) -> Iterator[Condition]:
    """The user's own commands; those that were asked for after the training did not run."""
    if asked.checks == "ignore" or not (done or checks):
        return
    failed = [check["command"] for check in done if not check["passed"]]
    missing = [command for command in checks if command not in {check["command"] for check in done}]
    told = [f"{len(done) - len(failed)} of {len(done)} passed"] if done else []
    told += [f"failed: {', '.join(failed)}"] if failed else []
    told += [f"not run on this checkpoint: {', '.join(missing)}"] if missing else []
    met = False if failed else None if missing else True
    yield Condition("Your own checks", met, "; ".join(told))
