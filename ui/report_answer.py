"""What a report says first: is it better and how sure is that, what it cost, and what comes next at what price.

The answer goes by the blind duels with where it began (of a round: with the checkpoint that it was trained from), whose
verdict may be looked at at any time; where these settle nothing, by all duels on one scale, which says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from dpo_core.duels import Match
from dpo_core.gate import match_words
from dpo_core.loop import RoundStory, Step
from store.checkpoints import BASE
from store.effort import KINDS
from store.models import Decision, RoundStatus, Run
from store.strengths import win_chance
from store.win_rate import DuelVerdict
from store.wording import counted
from ui.duel_words import serving_words
from ui.report_facts import Facts
from ui.story import duration, headline, percent

Named = tuple[str, str]  # a checkpoint, and which one that is
BEGAN = "where we began"
DECIDED = {"promote": "promoted", "keep": "kept back", "roll_back": "rolled back"}


def answer_words(facts: Facts) -> str:
    """Is it better than before, and how sure is that: one sentence."""
    if facts.round is None:
        if facts.serving.id == facts.base.id:
            return _base_serves(facts)
        return _compared(facts, (facts.serving.name, "which serves now"), (facts.base.name, BEGAN))
    story = facts.stories[0]
    if story.result is None:
        return f"Not known: no checkpoint was trained in round {facts.round.number} yet ({facts.round.status})."
    parent = facts.parent_of(story)
    came_from = BEGAN if parent == BASE else "which it was trained from"
    return _compared(facts, (story.result.name, f"which round {facts.round.number} came to"), (parent, came_from))


def _base_serves(facts: Facts) -> str:
    newest = facts.newest
    if newest is None or newest.result is None:
        return f"Not known: no checkpoint was trained yet, so {_shown(BASE)}, {BEGAN}, serves."
    last = next((each for each in reversed(facts.decisions) if each.action != Decision.KEEP), None)
    if last is not None:
        back = f"{last.by or 'somebody'} rolled back to it from {facts.names[last.about_id]}"
        return f"No: {_shown(BASE)}, {BEGAN}, serves again, since {back}."
    name, found = newest.result.name, _found(facts, newest)
    if newest.round.status != RoundStatus.DONE:
        return f"Not known yet: {_shown(BASE)}, {BEGAN}, serves, and nothing is decided about {name}, which {found}."
    return f"No: {_shown(BASE)}, {BEGAN}, still serves, since {name}, the newest checkpoint, was kept back: it {found}."


def _shown(name: str) -> str:
    return "the base" if name == BASE else name


def _found(facts: Facts, story: RoundStory) -> str:
    """What blind duels with its parent said of a round's checkpoint."""
    match = facts.match(story.result.name if story.result else "", facts.parent_of(story))
    if match is None:
        return "was not judged in any blind duel"
    return f"{match_words(match)} against {_shown(match.against)}"


def _compared(facts: Facts, new: Named, old: Named) -> str:
    match = facts.match(new[0], old[0])
    ours, theirs = (f"{_shown(name)}, {which}" for name, which in (new, old))
    wrong = f"a verdict like this is wrong in {percent(facts.workspace.settings.duels.alpha)} of cases at most"
    if match is not None and match.win_rate.verdict == DuelVerdict.PROMOTE:
        return f"Yes: people prefer {ours}, to {theirs}; judged blind, it {match_words(match)}, and {wrong}."
    if match is not None and match.win_rate.verdict == DuelVerdict.KEEP:
        return f"No: people prefer {theirs}, to {ours}, which, judged blind, {match_words(match)}; {wrong}."
    found = _told_from_all(facts, new, old)
    own = f"it {match_words(match)}" if match is not None else "no blind duel of the two was judged"
    if not found:
        return f"Not known yet whether {ours}, is better than {theirs}: {own}."
    return f"{found}; by their own duels it is not settled: {own}."


def _told_from_all(facts: Facts, new: Named, old: Named) -> str:
    """What all duels on one scale say where the two's own settle nothing; empty where that is nothing either."""
    found = facts.points.get(new[0])
    if old[0] != BASE or len(facts.points) < 3 or found is None or found.value is None or found.interval is None:
        return ""
    low, high = (win_chance(end) for end in found.interval)
    if low <= 0.5 <= high:
        return ""
    span = f"{percent(low)} to {percent(high)} with 95% confidence, looked at once"
    return (
        f"Probably{' not' if high < 0.5 else ''}: told from all blind duels together, {new[0]}, {new[1]}, would win "
        f"{percent(win_chance(found.value))} of its duels with {_shown(old[0])}, {old[1]} ({span})"
    )


def more_words(facts: Facts) -> str:
    """What it takes to know, where the answer is open; empty where it is not."""
    story = facts.newest
    name = facts.serving.name if facts.round is None else story.result.name if story and story.result else ""
    against = facts.base.name if facts.round is None or story is None else facts.parent_of(story)
    match = facts.match(name, against)
    if match is None or match.win_rate.verdict != DuelVerdict.UNDECIDED:
        return "" if match is not None or not name or name == against else f"To be sure: {_none_judged(name, against)}"
    return f"To be sure: {_to_decide(facts, match)}"


def _none_judged(name: str, against: str) -> str:
    return f"{name} and {_shown(against)} have to be compared in blind duels."


def _to_decide(facts: Facts, match: Match) -> str:
    both = f"{match.checkpoint} and {match.against}"
    if match.win_rate.too_close:
        return f"{both} are too close to call; more than a thousand blind duels would be needed."
    more = match.win_rate.duels_more
    if more is None:
        return f"too few duels of {both} were judged to say how many more it takes."
    price = price_words(facts, more)
    return f"about {counted(more, 'more blind duel')} of {both} would decide, if it goes on like this{price}."


def price_words(facts: Facts, verdicts: int) -> str:
    """What so many verdicts take of people's time, at the pace so far; empty where nobody measured."""
    pace = facts.effort.pace
    return f": some {duration(pace * verdicts)} at {pace:.0f} s each" if pace and verdicts else ""


def standing_lines(facts: Facts) -> Iterator[str]:
    """Who serves and by whose word, and how much was done."""
    yield more_words(facts)
    if facts.round is not None and facts.round.decision is not None:
        what = f"{facts.stories[0].result.name if facts.stories[0].result else ''} was {DECIDED[facts.round.decision]}"
        yield f"{what} by {facts.round.decided_by or 'nobody named'}."
    yield serving_words(facts.serving, facts.decisions)


def cost_rows(facts: Facts) -> list[tuple[str, str]]:
    """What it took: labels by kind, people's time, trainings, and from when to when. What is not known is left out."""
    return [(name, told) for name, told in _costs(facts) if told]


def _costs(facts: Facts) -> Iterator[tuple[str, str]]:
    effort = facts.effort
    yield "Rounds", f"{len(facts.stories)}" if facts.round is None else ""
    yield "Labels", _label_words(facts)
    imported = [
        f"{counted(count, 'comparison')} from {name.removeprefix('import:')}" for name, count in _imports(facts)
    ]
    yield "Imported", ", ".join(imported)
    timed = effort.all.timed
    part = f", measured on {timed:,} of {effort.all.pieces:,} answers" if timed < effort.all.pieces else ""
    people = counted(len(effort.by), "annotator")
    yield "Time at the screen", f"{duration(effort.all.seconds)} by {people}{part}" if timed else ""
    yield "Trainings", _training_words(facts.trainings)
    yield "From and to", _span(facts)


def _imports(facts: Facts) -> list[tuple[str, int]]:
    return sorted(facts.effort.imported.items(), key=lambda each: (-each[1], each[0]))


def _label_words(facts: Facts) -> str:
    work = facts.effort.all
    kinds = ", ".join(f"{work.kinds[kind]:,} {what}" for kind, what in KINDS.items() if work.kinds[kind])
    beside = [(work.skips, "skip"), (work.rewrites, "bettered text")]
    extra = " and ".join(counted(count, what) for count, what in beside if count)
    return f"{work.labels:,}{f': {kinds}' if kinds else ''}{f'; {extra} beside' if extra else ''}"


def _training_words(runs: list[Run]) -> str:
    figures = [each.get("train") or {} for run in runs for each in run.result.get("sweep") or [run.result]]
    seconds = sum(each.get("seconds") or 0 for each in figures)
    devices = sorted({each["machine"]["device"] for each in figures if each.get("machine")})
    how_long = f", {duration(seconds)} in all with judging" if seconds else ""
    where = f", on {', '.join(devices)}" if devices else ""
    return f"{len(figures)}{how_long}{where}" if figures else ""


def _span(facts: Facts) -> str:
    begun = min(story.round.created_at for story in facts.stories)
    ends = [story.round.decided_at for story in facts.stories if story.round.decided_at is not None]
    ends += [each.created_at for each in facts.decisions_told()]
    ends += [story.result.created_at for story in facts.stories if story.result is not None]
    last: datetime = max([begun, *ends, *([facts.effort.last] if facts.effort.last else [])])
    days = (last.date() - begun.date()).days + 1
    return f"{begun:%Y-%m-%d}" if days == 1 else f"{begun:%Y-%m-%d} to {last:%Y-%m-%d}, {days} days"


def next_lines(facts: Facts) -> Iterator[str]:
    """What comes next and what that takes of people; nothing for a round that is over."""
    state = facts.state
    over = facts.round is not None and facts.round.status == RoundStatus.DONE
    if over or (facts.round is not None and (state.round is None or state.round.id != facts.round.id)):
        return
    number = state.round.number if state.round is not None else 0
    if state.step == Step.START_ROUND:
        yield _next_round(facts, number + 1)
    elif state.step == Step.DECIDE and facts.gate is not None:
        yield from _deciding(facts)
    elif state.step == Step.COMPARE and state.round is not None:
        missing = max(0, state.round.target - state.comparisons["done"])
        price = price_words(facts, missing)
        yield f"Round {number} asks for {counted(missing, 'more comparison')} before it is trained{price}."
    else:
        yield f"{headline(state).title}. {headline(state).text}"


def _next_round(facts: Facts, number: int) -> str:
    asked, duels = facts.workspace.settings.round, facts.workspace.settings.duels
    judged = duels.against_parent + (duels.against_base if facts.serving.id != facts.base.id else 0)
    price = price_words(facts, asked.comparisons + judged) if asked.completions_per_prompt == 2 else ""
    last = facts.trainings[-1].result.get("train", {}).get("seconds") if facts.trainings else None
    trained = f" The last training took {duration(last)}." if last else ""
    judging = f" and, to judge what comes of it, up to {counted(judged, 'blind duel')}" if judged else ""
    return f"Round {number} can start. It asks for {counted(asked.comparisons, 'comparison')}{judging}{price}.{trained}"


def _deciding(facts: Facts) -> Iterator[str]:
    """What the gate says of the new checkpoint, and what it takes to know what it does not know yet."""
    gate = facts.gate
    assert gate is not None
    if gate.suggestion == Decision.PROMOTE:
        yield f"Decide about {gate.checkpoint}: everything that promotion asks is there."
    elif gate.suggestion == Decision.KEEP:
        against = next(each for each in gate.conditions if each.met is False)
        yield f"Decide about {gate.checkpoint}. Against promoting it: {against.name}: {against.found}."
    else:
        open_duels = f" {counted(gate.open_duels, 'blind duel')} still to judge." if gate.open_duels else ""
        yield f"Decide about {gate.checkpoint}, once more is known.{open_duels}"
    match = gate.matches[0] if gate.matches else None
    if match is not None and match.win_rate.prompts and match.win_rate.verdict == DuelVerdict.UNDECIDED:
        told = _to_decide(facts, match)
        yield f"{told[0].upper()}{told[1:]}"
