"""A report of the whole effort, or of one round, as one HTML file that needs nothing else: to send, print or keep.

Written from the record alone: what was asked, what people said, what was trained on it, whether it is better, by whose
word it serves, and how far all that can be believed. Importable without Streamlit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from dpo_core.alarms import recorded_alarms
from dpo_core.duels import Match, all_matches
from dpo_core.errors import RunError
from dpo_core.gate import won_words
from dpo_core.loop import RoundStory, round_stories
from dpo_core.standings import read_standings
from dpo_core.workspace import Workspace
from store.database import reading
from store.decision_tables import DecisionRecord
from store.decisions import list_decisions, serving_checkpoint
from store.guidelines import guidelines_in_force
from store.intervals import Estimate
from store.models import Checkpoint, now
from store.prompts import count_prompts
from store.quality import Quality, read_quality
from store.snapshots import trained_words
from store.wording import counted
from ui.duel_words import STRENGTHS, serving_words, strength_rows, verdict_words
from ui.quality_words import overall_words
from ui.story import accuracy_span, made_words, percent, warnings

Row = tuple[str, float, float, float]  # a name, a figure, and the ends of its interval


@dataclass(frozen=True)
class Facts:
    """All that a report tells, read at one moment."""

    workspace: Workspace
    at: datetime
    stories: list[RoundStory]
    prompts: dict[str, int]
    matches: list[Match]
    parents: dict[int, Match | None]  # by round: the new checkpoint against its parent
    points: dict[str, Estimate]
    serving: Checkpoint
    decisions: list[DecisionRecord]
    quality: Quality
    guidelines: str


def write_report(workspace: Workspace, *, round_number: int | None = None) -> str:
    """The report as HTML; `round_number`: of that round alone. Raises RunError where nothing was done yet."""
    facts = read_facts(workspace)
    if round_number is not None:
        facts = _of_round(facts, round_number)
    if not facts.stories:
        raise RunError("There is nothing to report yet: no round was started. `pairloop sample` starts one.")
    return _page(facts, "".join(_sections(facts)), round_number)


def read_facts(workspace: Workspace) -> Facts:
    """Everything that a report of the whole effort tells."""
    with reading(workspace.engine) as session:
        stories = round_stories(session=session)
        matches = all_matches(session, alpha=workspace.settings.duels.alpha)
        met = {(match.checkpoint, match.against): match for match in matches}
        parents = {
            entry.round.number: met.get((entry.result.name, session.get_one(Checkpoint, entry.result.parent_id).name))
            for entry in stories
            if entry.result is not None and entry.result.parent_id is not None
        }
        guidelines = guidelines_in_force(session=session)
        return Facts(
            workspace=workspace,
            at=now(),
            stories=stories,
            prompts=count_prompts(session=session),
            matches=matches,
            parents=parents,
            points=read_standings(session),
            serving=serving_checkpoint(session=session),
            decisions=list_decisions(session=session),
            quality=read_quality(session=session),
            guidelines=guidelines.text if guidelines else "",
        )


def _of_round(facts: Facts, number: int) -> Facts:
    stories = [entry for entry in facts.stories if entry.round.number == number]
    if not stories:
        raise RunError(f"There is no round {number}; there are {len(facts.stories)}.")
    names = {entry.result.name for entry in stories if entry.result is not None}
    ids = {entry.round.id for entry in stories}
    return Facts(
        **vars(facts)
        | {
            "stories": stories,
            "parents": {each: match for each, match in facts.parents.items() if each == number},
            "matches": [match for match in facts.matches if match.checkpoint in names],
            "decisions": [record for record in facts.decisions if record.round_id in ids],
        }
    )


def _sections(facts: Facts) -> Iterator[str]:
    yield _summary(facts)
    yield _section("Is it better?", _duels(facts))
    yield _section("Held-out accuracy", _accuracy(facts))
    yield _section("Rounds", _rounds(facts))
    yield _section("How far the comparisons can be relied on", _people(facts))
    yield _section("Decisions", _decisions(facts))
    yield _section("What to know before believing it", _limits(facts))


def _summary(facts: Facts) -> str:
    said = sum(entry.comparisons["done"] for entry in facts.stories)
    duels = sum(entry.comparisons["duels"] for entry in facts.stories)
    asked = f"{facts.prompts['train']:,} prompts to learn from and {facts.prompts['held_out']:,} held out to judge by"
    lines = [
        serving_words(facts.serving, facts.decisions),
        f"{counted(len(facts.stories), 'round')}: {counted(said, 'comparison')} to learn from, "
        f"{counted(duels, 'verdict')} on blind duels. {asked}.",
    ]
    decided = [match for match in facts.matches if match.checkpoint == facts.serving.name and match.win_rate.prompts]
    lines += [f"{match.checkpoint} against {match.against}: {_won(match)}. {verdict_words(match)}" for match in decided]
    return f'<div class="summary">{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>'


def _won(match: Match) -> str:
    found = match.win_rate
    return f"{won_words(found)}; {counted(found.ties, 'tie')} and {found.both_bad} both bad beside"


def _duels(facts: Facts) -> str:
    judged = [match for match in facts.matches if match.win_rate.prompts]
    if not judged:
        return "<p>No blind duel was judged yet, so nobody has said.</p>"
    rows = [
        (f"{match.checkpoint} against {match.against}", match.win_rate.rate or 0.0, *match.win_rate.interval)
        for match in judged
    ]
    told = [
        (f"{match.checkpoint} against {match.against}", _won(match), verdict_words(match), _span(match.at_equal_length))
        for match in judged
    ]
    strengths = strength_rows(facts.points) if len(facts.points) > 2 else []
    return (
        "<p>Pairs of one answer by each checkpoint to prompts that are never trained on, mixed among all others; "
        "nobody was told which is whose. The intervals hold however often one looks (confidence sequence at "
        f"{percent(1 - facts.workspace.settings.duels.alpha)}).</p>"
        + interval_figure(rows, middle=0.5, title="Share of decided duels that the first one won")
        + _table(("Match", "Duels", "Verdict", "At equal length"), told)
        + (_table(STRENGTHS, strengths) if strengths else "")
    )


def _accuracy(facts: Facts) -> str:
    rows = []
    for entry in facts.stories:
        judged = _metrics(entry).get("eval") or {}
        if judged.get("pairs"):
            name = f"{entry.result.name if entry.result else ''} (n={judged['pairs']})"
            rows.append((name, judged["accuracy_after"], *judged["interval_after"]))
    if not rows:
        return "<p>No comparison on a held-out prompt was there to judge by.</p>"
    return (
        "<p>How often a checkpoint's implicit reward orders held-out pairs as people did. People agree with each "
        "other on 63 to 77% of such pairs: more than that is not to be expected.</p>"
        + interval_figure(rows, middle=0.5, title="Held-out accuracy, with its 95% interval")
    )


def _rounds(facts: Facts) -> str:
    head = ("Round", "Written by", "Comparisons", "Trained on", "Checkpoint", "Held-out accuracy", "Won of duels", "KL")
    return _table(head, [_round_row(facts, entry) for entry in facts.stories])


def _round_row(facts: Facts, entry: RoundStory) -> tuple[str, ...]:
    metrics, match = _metrics(entry), facts.parents.get(entry.round.number)
    judged, kl = metrics.get("eval") or {}, metrics.get("kl") or {}
    return (
        str(entry.round.number),
        entry.checkpoint.name,
        made_words(entry),
        trained_words(entry.snapshot.manifest) if entry.snapshot else "–",
        entry.result.name if entry.result else "–",
        accuracy_span(judged) if judged else "–",
        _won(match) if match is not None and match.win_rate.prompts else "–",
        f"{kl['nats']:.1f} nats" if kl else "–",
    )


def _metrics(entry: RoundStory) -> dict[str, Any]:
    return entry.result.metrics if entry.result else {}


def _people(facts: Facts) -> str:
    there = [each for each in facts.quality.annotators if not each.retracted]
    figures = [(each.name, each.value, each.interval, each.means) for each in overall_words(facts.quality)]
    return f"<p>{counted(len(there), 'annotator')}, all rounds together.</p>" + _table(
        ("Figure", "Value", "95% interval", "What it says"), figures
    )


def _decisions(facts: Facts) -> str:
    if not facts.decisions:
        return "<p>Nothing was decided yet.</p>"
    rows = []
    for record in facts.decisions:
        asked = record.gate.get("conditions", [])
        missing = [f"{each['name']}: {each['found']}" for each in asked if not each["met"]]
        what = {"promote": "promoted", "keep": "kept back", "roll_back": "rolled back"}[record.action]
        how = f"{what}, against the gate" if record.forced else what
        rows.append((f"{record.created_at:%Y-%m-%d %H:%M} UTC", record.by or "–", how, "; ".join(missing) or "nothing"))
    return _table(("When", "By whom", "What", "What was missing of what promotion asks"), rows)


def _limits(facts: Facts) -> str:
    items = list(_known_limits(facts))
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _known_limits(facts: Facts) -> Iterator[str]:
    for entry in facts.stories:
        name = entry.result.name if entry.result else f"round {entry.round.number}"
        for alarm in warnings(recorded_alarms(_metrics(entry))):
            yield f"{name}: {alarm.title}. {alarm.whole_text}"
        judged = (_metrics(entry).get("eval") or {}).get("pairs", 0)
        if entry.result is not None and judged < 30:
            yield f"{name} was judged on {counted(judged, 'held-out pair')} only: its accuracy is a hint."
    if not facts.quality.agreement.count:
        yield "No pair was judged by two people, so how far they agree is not known ([round] comparisons_per_pair)."
    if not facts.quality.habits.gold.count:
        yield "No gold pair was asked, so nobody's verdicts were checked against known answers."
    yield "Preferences are those of the people who were asked, on the prompts they were asked, under their guidelines."


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _span(found: Estimate) -> str:
    if found.value is None or found.interval is None:
        return "–"
    return f"{percent(found.value)} ({percent(found.interval[0])} to {percent(found.interval[1])})"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def interval_figure(rows: Sequence[Row], *, middle: float, title: str) -> str:
    """A dot with its interval for each row, shares from 0 to 1, as an SVG that any browser draws and a reader hears."""
    left, width, line = 250, 420, 30
    height = line * len(rows) + 34

    def x(share: float) -> float:
        return left + width * share

    marks = "".join(
        f'<text x="{left - 12}" y="{line * at + 25}" text-anchor="end">{escape(name)}</text>'
        f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{line * at + 20}" y2="{line * at + 20}" class="whisker"/>'
        f'<circle cx="{x(value):.1f}" cy="{line * at + 20}" r="5"/>'
        f'<text x="{left + width + 10}" y="{line * at + 25}">{percent(value)}</text>'
        for at, (name, value, low, high) in enumerate(rows)
    )
    ends = "".join(
        f'<text x="{x(share):.1f}" y="{height - 4}" text-anchor="middle" class="axis">{percent(share)}</text>'
        for share in (0, middle, 1)
    )
    heard = "; ".join(
        f"{name}: {percent(value)} ({percent(low)} to {percent(high)})" for name, value, low, high in rows
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {left + width + 60} {height}" role="img" '
        f'aria-label="{escape(f"{title}. {heard}")}"><line x1="{x(middle)}" x2="{x(middle)}" y1="4" y2="{height - 20}" '
        f'class="middle"/>{marks}{ends}</svg></figure>'
    )


def _page(facts: Facts, body: str, round_number: int | None) -> str:
    name = facts.workspace.folder.name
    title = f"{name}, round {round_number}" if round_number else name
    guidelines = (
        f"<section><h2>Guidelines</h2><pre>{escape(facts.guidelines)}</pre></section>" if facts.guidelines else ""
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: pairloop report</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head><body><main>'
        f'<h1>{escape(title)}</h1><p class="quiet">pairloop report, {facts.at:%Y-%m-%d %H:%M} UTC</p>{body}{guidelines}'
        "</main></body></html>\n"
    )


_CSS = """
:root { color-scheme: light dark; --ink: #222; --paper: #fdfcfa; --quiet: #5c5c5c; --line: #d8d6d2; --accent: #1d6b58; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --paper: #191918; --quiet: #aaa; --line: #444;
  --accent: #6cc3ab; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; } .quiet { color: var(--quiet); margin-top: .2rem; }
.summary { border-left: 4px solid var(--accent); padding: .2rem 1rem; margin-top: 1.5rem; font-size: 1.05rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .75rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; } figure { margin: 1rem 0; } figcaption { font-weight: 600; }
svg { width: 100%; max-width: 46rem; font-size: 14px; } svg text { fill: var(--ink); } svg .axis { fill: var(--quiet); }
svg .whisker { stroke: var(--accent); stroke-width: 3; opacity: .55; } svg circle { fill: var(--accent); }
svg .middle { stroke: var(--quiet); stroke-dasharray: 4 4; } pre { white-space: pre-wrap; font: inherit; }
@media print { body { background: #fff; color: #000; } section { break-inside: avoid; } }
"""
