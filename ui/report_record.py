"""What a report says was done: rounds, what each checkpoint was trained on, by whom, who decided, and what to mind.

Each section is HTML; one that there is nothing to say in is empty, and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape

from dpo_core.gate import match_words
from dpo_core.lineage import changed_settings, limits
from dpo_core.loop import RoundStory
from store.effort import KINDS, Contributor
from store.models import Role
from store.snapshot_filter import drops_in_words
from store.snapshots import trained_words
from store.wording import counted
from ui import selection_words as selection
from ui.quality_words import NOTHING, overall_words
from ui.report_answer import DECIDED
from ui.report_facts import Facts
from ui.report_page import bullets, paragraphs, section, table
from ui.story import accuracy_line, duration, made_words

TRAINED_HEAD = ("Checkpoint", "Comparisons used", "Imported", "To train on", "Held out", "Left out", "Not as it comes")


def rounds(facts: Facts) -> str:
    """What was asked in each round and what it came to."""
    head = ("Round", "Written by", "Comparisons", "Checkpoint", "Held-out accuracy", "Duels with its parent", "KL")
    gone = "Comparisons of annotators who were retracted are not among them." * _anybody_retracted(facts)
    prompts = facts.prompts
    asked = f"There are {prompts['train']:,} prompts to learn from and {prompts['held_out']:,} held out to judge by."
    return section(
        "Rounds",
        table(head, [_round_row(facts, story) for story in facts.stories], about="Rounds"),
        paragraphs(f"{asked} {gone}".strip(), kind="note"),
    )


def _anybody_retracted(facts: Facts) -> bool:
    return any(each.retracted for each in facts.effort.by)


def _round_row(facts: Facts, story: RoundStory) -> tuple[str, ...]:
    metrics = story.result.metrics if story.result else {}
    name = story.result.name if story.result else NOTHING
    match, kl = facts.match(name, facts.parent_of(story)), metrics.get("kl") or {}
    return (
        str(story.round.number),
        story.checkpoint.name,
        made_words(story),
        name,
        accuracy_line(metrics.get("eval") or {}),
        match_words(match) if match is not None else NOTHING,
        f"{kl['nats']:.1f} nats" if kl else NOTHING,
    )


def learned_from(facts: Facts) -> str:
    """What each checkpoint was trained on, as its snapshot's manifest says, and with which settings."""
    rows = [_trained_row(facts, story) for story in facts.stories if story.snapshot is not None]
    return section(
        "What each was trained on",
        table(TRAINED_HEAD, rows, about="What each checkpoint was trained on"),
        paragraphs(
            "As the snapshots say that were cut for training. One holds all comparisons so far, imports too; or, where "
            'the settings say comparisons = "round", those of its round and of earlier ones that began from the same '
            "checkpoint. Pairs on held-out prompts are never trained on.",
            kind="note",
        )
        if rows
        else "",
    )


def _trained_row(facts: Facts, story: RoundStory) -> tuple[str, ...]:
    assert story.snapshot is not None
    manifest, result = story.snapshot.manifest, story.result
    teaching = facts.records[result.name].teaching if result is not None else None
    sources = [each for each in teaching.by if each.role == Role.SOURCE] if teaching is not None else []
    imported = sum(each.trained + each.held_out for each in sources)
    changed = changed_settings(result.settings) if result is not None else []
    return (
        result.name if result is not None else f"round {story.round.number}, in training",
        f"{manifest['used']:,} of {manifest['comparisons']:,}",
        f"{imported:,}" if imported else "",
        trained_words(manifest),
        counted(manifest["pairs"]["test"], "pair"),
        drops_in_words(manifest["dropped"]) or "none",
        ", ".join(f"{each.name} {json.dumps(each.value)} (not {json.dumps(each.default)})" for each in changed),
    )


def selecting(facts: Facts) -> str:
    """What selecting pairs gained, where any was selected."""
    if not facts.gains.pairs:
        return ""
    rows = selection.gain_rows(facts.gains)
    return section(
        "What selecting pairs gained",
        paragraphs(selection.gain_words(facts.gains)),
        table(selection.HEAD, rows, about="What selecting pairs gained"),
        paragraphs(selection.NOTE, kind="note") if rows else "",
    )


def contributors(facts: Facts) -> str:
    """Who did how much of what."""
    whole = facts.effort.all
    kinds = [kind for kind in KINDS if whole.kinds[kind]]
    head = ("Annotator", "Labels", *(KINDS[kind].capitalize() for kind in kinds), "Skips", "At the screen")
    return section(
        "Who contributed",
        table(head, [_contribution(each, kinds) for each in facts.effort.by], about="Who contributed"),
    )


def _contribution(each: Contributor, kinds: list[str]) -> tuple[str, ...]:
    mark = " (retracted)" if each.retracted else " (simulated)" if each.role == Role.SIMULATED else ""
    counts = [f"{each.work.kinds[kind]:,}" for kind in kinds]
    skips = f"{each.work.skips:,}" if each.work.skips else ""
    return f"{each.name}{mark}", f"{each.work.labels:,}", *counts, skips, duration(each.work.seconds)


def reliance(facts: Facts) -> str:
    """How far the comparisons can be relied on; figures that cannot be told are left to the limits."""
    known = [each for each in overall_words(facts.quality) if each.value != NOTHING]
    rows = [(each.name, each.value, each.interval, each.means) for each in known]
    there = sum(not each.retracted for each in facts.quality.annotators)
    return section(
        "How far the comparisons can be relied on",
        paragraphs(f"{counted(there, 'annotator')}, all rounds together." if rows else ""),
        table(("Figure", "Value", "95% interval", "What it says"), rows, about="Quality of the comparisons"),
    )


def decisions(facts: Facts) -> str:
    """Who decided what about which checkpoint, and what was missing then."""
    told = facts.decisions_told()
    if not told:
        return section("Decisions", paragraphs("Nothing was decided yet."))
    rows = []
    for record in told:
        asked = record.gate.get("conditions", [])
        missing = "; ".join(f"{each['name']}: {each['found']}" for each in asked if not each["met"])
        how = f"{DECIDED[record.action]}, against the gate" if record.forced else DECIDED[record.action]
        which = f"{facts.names[record.about_id]} → {facts.names[record.checkpoint_id]}"
        when = f"{record.created_at:%Y-%m-%d %H:%M} UTC"
        rows.append((when, record.by or NOTHING, how, which, (missing or "nothing") if asked else NOTHING))
    head = ("When", "By whom", "What", "About → serves from then on", "What was missing of what promotion asks")
    return section("Decisions", table(head, rows, about="Decisions"))


def known_limits(facts: Facts) -> str:
    """What speaks against relying on all this: of each checkpoint what its model card says, then of the whole."""
    found = {name: limits(record) for name, record in facts.records.items()}
    first = facts.serving.name if facts.serving.name in found else next(reversed(found), "")
    mine, others = found.pop(first, []), _shared(found)
    return section(
        "What to know before believing it",
        f"<h3>Of {escape(first)}</h3>{bullets(mine)}" if mine else "",
        f"<h3>Of the others</h3>{bullets(others)}" if others else "",
        f"<h3>Of all</h3>{bullets(list(_common_limits(facts)))}",
    )


def _shared(found: dict[str, list[str]]) -> list[str]:
    """Each sentence once, with the checkpoints that it holds of."""
    names: dict[str, list[str]] = {}
    for name, sentences in found.items():
        for sentence in sentences:
            names.setdefault(sentence, []).append(name)
    return [f"{', '.join(those)}: {sentence}" for sentence, those in names.items()]


def _common_limits(facts: Facts) -> Iterator[str]:
    if not facts.quality.agreement.count:
        yield "No pair was judged by two people, so how far they agree is not known ([round] comparisons_per_pair)."
    if not facts.quality.habits.gold.count:
        yield "No gold pair was asked, so nobody's verdicts were checked against known answers."
    yield "Preferences are those of the people who were asked, on the prompts they were asked, under their guidelines."


def guidelines(facts: Facts) -> str:
    """What annotators go by."""
    return section("Guidelines", f"<pre>{escape(facts.guidelines)}</pre>" if facts.guidelines else "")
