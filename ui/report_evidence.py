"""What a report's answer rests on: how far each checkpoint came, answers side by side, blind duels, held-out accuracy.

Each section is HTML; one that there is nothing to say in is empty, and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from dpo_core.gate import match_words
from dpo_core.lineage import FEW_PAIRS
from dpo_core.loop import RoundStory
from store.held_out import LITERATURE, Ceiling
from store.models import Decision
from store.prompts import Message
from store.strengths import win_chance
from store.wording import counted
from ui.duel_words import POINTS_NOTE, STRENGTHS, strength_rows, verdict_words
from ui.judged_words import ceiling_words
from ui.report_facts import Facts
from ui.report_figures import Line, Reached, interval_figure, progress_figure
from ui.report_page import paragraphs, section, table
from ui.story import percent, trust_words

LONGEST_PROMPT, LONGEST_ANSWER = 400, 800  # characters shown
ONCE = "These are ordinary 95% intervals, for looking at once"


def progress(facts: Facts) -> str:
    """How good each checkpoint is beside the base, against what it cost; of a round alone there is no such line."""
    reached = [] if facts.round is not None else list(_reached(facts))
    if not reached:
        return ""
    rows = [(point.name, f"{point.labels:,}", point.told) for point in reached]
    return section(
        "What the labels bought",
        paragraphs(
            "How often each checkpoint would win against the base, told from all blind duels together, over the labels "
            f"that people had given before it was trained. {ONCE}. Filled dots served; hollow ones never did."
        ),
        progress_figure(reached, title="Win rate over the base"),
        table(("Checkpoint", "Labels before", "Win rate over the base"), rows, about="Win rate over the base"),
    )


def _reached(facts: Facts) -> Iterator[Reached]:
    promoted = {record.about_id for record in facts.decisions if record.action == Decision.PROMOTE}
    for story in facts.stories:
        found = facts.points.get(story.result.name) if story.result is not None else None
        if story.result is None or found is None or found.value is None or found.interval is None:
            continue
        low, high = (win_chance(end) for end in found.interval)
        name, served = story.result.name, story.result.id in promoted
        yield Reached(name, facts.labels[name], win_chance(found.value), (low, high), served)


def answers(facts: Facts) -> str:
    """The same prompts, answered by both."""
    found = facts.answers
    if found is None:
        return ""
    shown = "".join(_answered(found.new, found.old, *texts) for texts in found.texts)
    return section(
        f"In their own words: {found.old} and {found.new}",
        paragraphs(
            "Nobody picked these: they are the first held-out prompts, in the order of the hash of their content, that "
            "both answered for blind duels and about which nobody is still asked; of several answers, the earliest. "
            f"What is longer than {LONGEST_ANSWER} characters is cut."
        ),
        shown,
    )


def _answered(new: str, old: str, messages: list[Message], by_new: str, by_old: str) -> str:
    earlier = f"(after {counted(len(messages) - 1, 'earlier message')}) " if len(messages) > 1 else ""
    asked = earlier + _shortened(messages[-1]["content"], LONGEST_PROMPT)
    both = "".join(
        f'<div><h4>{escape(name)}</h4><pre dir="auto">{escape(_shortened(text, LONGEST_ANSWER))}</pre></div>'
        for name, text in ((old, by_old), (new, by_new))
    )
    return f'<pre class="asked" dir="auto">{escape(asked)}</pre><div class="answers">{both}</div>'


def _shortened(text: str, most: int) -> str:
    """The text, cut between two words where it is too long."""
    text = text.strip()
    return text if len(text) <= most else text[:most].rsplit(maxsplit=1)[0].rstrip() + " […]"


def duels(facts: Facts) -> str:
    """What people said of answers whose writers they did not know."""
    judged = [match for match in facts.matches if match.win_rate.prompts]
    if not judged:
        return section("Is it better?", paragraphs("No blind duel was judged yet, so nobody has said."))
    names = [f"{match.checkpoint} against {match.against}" for match in judged]
    lines = [
        Line(name, match.win_rate.rate or 0.0, match.win_rate.interval)
        for name, match in zip(names, judged, strict=True)
    ]
    told = [(name, match_words(match), verdict_words(match)) for name, match in zip(names, judged, strict=True)]
    strengths = strength_rows(facts.points) if len(facts.points) > 2 else []
    return section(
        "Is it better?",
        paragraphs(
            "Pairs of one answer by each checkpoint to prompts that are never trained on, mixed among all others; "
            "nobody was told which is whose. These intervals hold however often one looks (a confidence sequence at "
            f"{percent(1 - facts.workspace.settings.duels.alpha)})."
        ),
        interval_figure(lines, middle=0.5, title="Share of decided duels that the first one won"),
        table(("Match", "Duels", "Verdict"), told, about="Matches"),
        table(STRENGTHS, strengths, about="Points over the base"),
        paragraphs(f"{POINTS_NOTE} {ONCE}; the verdicts above hold however often one looks.", kind="note")
        if strengths
        else "",
    )


def accuracy(facts: Facts) -> str:
    """Whether what each checkpoint learned holds on pairs that it never saw."""
    judged = [
        (story, _metrics(story)["eval"]) for story in facts.stories if (_metrics(story).get("eval") or {}).get("pairs")
    ]
    if not judged:
        return section("Held-out accuracy", paragraphs("No comparison on a held-out prompt was there to judge by."))
    story, last = judged[-1]
    newest = _ceiling(facts, story)
    return section(
        "Held-out accuracy",
        paragraphs(
            "How often the implicit reward orders held-out pairs as people did: of the checkpoint that it was trained "
            "from (hollow), and after training (filled), on the same pairs. The band is the ceiling.",
            ceiling_words(newest),
            trust_words(last, newest),
        ),
        interval_figure(
            [_accuracy_line(facts, story, found) for story, found in judged],
            middle=0.5,
            title="Held-out accuracy, with its 95% interval",
        ),
        paragraphs(
            _not_a_trend(len(judged)), _hint(any(found["pairs"] < FEW_PAIRS for _, found in judged)), kind="note"
        ),
    )


def _accuracy_line(facts: Facts, story: RoundStory, judged: dict[str, Any]) -> Line:
    ceiling, hint = _ceiling(facts, story), ", a hint" if judged["pairs"] < FEW_PAIRS else ""
    name = f"{story.result.name if story.result else ''} on {counted(judged['pairs'], 'held-out pair')}{hint}"
    low, high = judged["interval_after"]
    before = judged.get("accuracy_before")
    return Line(name, judged["accuracy_after"], (low, high), before, (ceiling.low, ceiling.high))


def _ceiling(facts: Facts, story: RoundStory) -> Ceiling:
    found = facts.records[story.result.name].held_out if story.result is not None else None
    return found.ceiling if found is not None else Ceiling(*LITERATURE, value=None, pairs=0, told_from="literature")


def _not_a_trend(lines: int) -> str:
    if lines < 2:
        return ""
    return (
        "Each round was judged on the pairs, and against the ceiling, that there were by then: hold before and after "
        "of one line against each other, not the lines. Whether it went up over the rounds is what the duels say."
    )


def _hint(few: bool) -> str:
    return (
        f"With fewer than {FEW_PAIRS} pairs a figure is a hint: its interval is twenty points wide and more."
        if few
        else ""
    )


def _metrics(story: RoundStory) -> dict[str, Any]:
    return story.result.metrics if story.result else {}
