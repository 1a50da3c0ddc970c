"""The loop's state in a person's words, and figures as people read them, for pages and commands alike.

Only words: what is next is decided by dpo_core.loop. Importable without Streamlit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpo_core.alarms import Alarm, figured, recorded_alarms
from dpo_core.automatic import Act, Plan
from dpo_core.filters import Earlier
from dpo_core.gate import change_words
from dpo_core.loop import LoopState, RoundStory, Step
from dpo_core.sweep import point_words
from store.held_out import LITERATURE, Ceiling
from store.models import Run, RunKind, RunStatus
from store.rounds import is_paused
from store.wording import counted, numbered
from ui.selection_words import ways_words

LABEL_PAGE, LOOP_PAGE, RUNS_PAGE, DATA_PAGE = "pages/label.py", "pages/loop.py", "pages/runs.py", "pages/data.py"
STAGES = ("Write pairs", "Compare", "Train", "Decide")
_STAGE = {
    Step.IMPORT_PROMPTS: -1,
    Step.START_ROUND: -1,
    Step.WAIT_FOR_PAIRS: 0,
    Step.COMPARE: 1,
    Step.TRAIN: 2,
    Step.WAIT_FOR_TRAINING: 2,
    Step.DECIDE: 3,
}


@dataclass(frozen=True)
class Words:
    """A heading, a sentence, and where to go from here (no page: wait)."""

    title: str
    text: str
    button: str = ""
    page: str = ""


PATIENCE = Words(
    "Nothing to compare for now", "Your team's researchers prepare what comes next. This page goes on by itself."
)

NOT_ASKED = Words(
    "You are not asked any more",
    "Your team's researchers let you compare no more. What you said before stays. If that is a mistake, tell them, and "
    "reload this page once they have let you come again.",
)


NOT_YOURS = "What is left to compare is on other people's screens, or you skipped it."


def stage_of(state: LoopState) -> int:
    """Which of STAGES the open round is in; -1 for none."""
    if state.step == Step.MEND_RUN:
        return 0 if state.run is not None and state.run.kind == "sample" else 2
    return _STAGE[state.step]


def waiting_words(state: LoopState, *, done_for_today: bool = False) -> Words:
    """Why there is nothing to compare. Never says which checkpoint writes what."""
    number = state.round.number if state.round is not None else 0
    asks = state.step in (Step.COMPARE, Step.WAIT_FOR_PAIRS) or bool(state.pairs.get("open"))
    if asks and paused(state):
        return Words(
            f"Round {number} is paused",
            "Nobody is shown a pair until it is resumed. What was compared is kept, and this page goes on by itself.",
        )
    if state.step == Step.COMPARE and done_for_today:
        return Words("That is all for today", "You have made your comparisons for today. Thank you; more tomorrow.")
    simple = {
        Step.IMPORT_PROMPTS: Words(
            "No prompts yet",
            "Bring in some prompts first: they are what the model is asked.",
            "Import prompts",
            DATA_PAGE,
        ),
        Step.START_ROUND: Words(
            f"Round {number + 1} has not started",
            "Starting it asks the model to write pairs of completions. The first are here to compare within moments.",
        ),
        Step.WAIT_FOR_PAIRS: Words(f"Round {number} is being written", "The first pair appears here by itself."),
        Step.MEND_RUN: Words(
            "A run has stopped",
            "Nothing you said is lost. The Loop page says what happened.",
            "See the Loop page",
            LOOP_PAGE,
        ),
        Step.TRAIN: Words(
            f"Round {number} is complete",
            f"{_what_is_there(state)} Next: training.",
            "Train",
            LOOP_PAGE,
        ),
        Step.WAIT_FOR_TRAINING: Words(
            f"Round {number} is training",
            "There is nothing to compare until it is done.",
            "See how far it is",
            LOOP_PAGE,
        ),
        Step.DECIDE: Words(
            f"Round {number} is trained",
            f"{f'{NOT_YOURS} ' if state.pairs.get('open') else ''}Next: decide which checkpoint goes on.",
            "Decide",
            LOOP_PAGE,
        ),
    }
    return simple.get(state.step) or _no_pair_left(state)


def paused(state: LoopState) -> bool:
    """Whether nobody is shown a pair for the time being."""
    return is_paused(state.round)


def _what_is_there(state: LoopState) -> str:
    if state.imported:
        return f"It asks for nothing: {counted(state.imported, 'imported comparison')} can be trained on."
    return "Every comparison it asked for is made."


def _no_pair_left(state: LoopState) -> Words:
    if state.open_run is not None:
        return Words("More pairs are being written", "The next one appears here by itself.")
    if state.pairs.get("open"):
        return Words(
            "No pair for you just now",
            f"{NOT_YOURS} One that is given back appears by itself.",
        )
    missing = state.round.target - state.comparisons["done"] if state.round is not None else 0
    return Words(
        "All pairs are compared",
        f"The round still wants {counted(missing, 'comparison')}: ask for more pairs, or train on what there is.",
        "See the Loop page",
        LOOP_PAGE,
    )


def headline(state: LoopState) -> Words:
    """Where the loop stands, for the researcher."""
    number = state.round.number if state.round is not None else 0
    name, done = state.checkpoint.name, state.comparisons.get("done", 0)
    target, pairs = state.round.target if state.round is not None else 0, state.pairs.get("pairs", 0)
    learns = f"{name} learns from them and becomes round-{number}."
    texts = {
        Step.IMPORT_PROMPTS: ("No prompts yet", "A round needs prompts to ask. Import some to begin."),
        Step.START_ROUND: (
            f"Round {number + 1} can start",
            f"{name} writes two completions for each prompt that is drawn, out of "
            f"{counted(sum(state.prompts.values()), 'prompt')} in all.",
        ),
        Step.WAIT_FOR_PAIRS: (
            f"Round {number}: {name} is writing pairs",
            "Comparing can begin with the first of them.",
        ),
        Step.COMPARE: (
            f"Round {number}: {done} of {target} comparisons",
            f"{counted(pairs, 'pair')} written by {name}, {state.pairs.get('open', 0)} of them still to compare."
            f"{_naming_words(state.naming_makers)}",
        ),
        Step.TRAIN: (
            f"Round {number} is ready to train",
            f"{_given_words(state, done, target)} {learns}",
        ),
        Step.WAIT_FOR_TRAINING: (
            f"Round {number} is training",
            f"{name} learns from {'the imported' if state.imported else 'the'} comparisons.",
        ),
        Step.DECIDE: (f"Round {number} is trained", _decide_words(state)),
        Step.MEND_RUN: (f"Round {number}: a run has stopped", "Nothing compared so far is lost."),
    }
    title, text = texts[state.step]
    return Words(title, text + " It is paused: nobody is shown a pair, and automatic rounds wait." * paused(state))


def _decide_words(state: LoopState) -> str:
    """Which checkpoint is to write the next round, and who is to say so."""
    if state.open_run is not None:
        return "Both checkpoints write answers to held-out prompts, to be compared blind: which is better?"
    judged, written = state.comparisons.get("duels", 0), state.pairs.get("duels", 0)
    if state.pairs.get("open_duels"):
        return (
            f"Is it better than its parent? {judged} of {counted(written, 'blind duel')} are judged, on the Label page."
        )
    return "Which checkpoint writes the next round?"


def _given_words(state: LoopState, done: int, target: int) -> str:
    """What there is to train on, once it is all there."""
    if state.imported:
        return f"{counted(state.imported, 'imported comparison')} {'is' if state.imported == 1 else 'are'} there."
    asked = f"; the round asked for {target}" if done != target else ""
    return f"{counted(done, 'comparison')} {'is' if done == 1 else 'are'} there{asked}."


def _naming_words(pairs: int) -> str:
    """What to know about pairs that are not quite blind; empty for none."""
    if not pairs:
        return ""
    return (
        f" In {counted(pairs, 'pair')} a completion names the model that wrote it: comparing those is not quite blind."
    )


_LEADS = {Act.WAIT: "Waiting: ", Act.STOP: "Stopped: "}


def plan_words(plan: Plan) -> str:
    """What automatic rounds do next, wait for, or why they stopped."""
    return f"{_LEADS.get(plan.act, 'Next: ')}{plan.why}"


def as_well_words(earlier: Earlier, parent: str) -> str:
    """What a training uses beside its round's own comparisons; empty for nothing."""
    rounds = [f"those of {numbered('round', earlier.rounds)}"] if earlier.rounds else []
    used = [*rounds, *["the imported ones"] * earlier.imports]
    if not used:
        return ""
    return f"Beside these comparisons training uses {' and '.join(used)}: {parent} has not learned from them either."


def late_words(state: LoopState, *, they_count: bool) -> str:
    """How many comparisons came after the training's snapshot was cut, and what becomes of them; empty for none.

    `they_count` is what `dpo_core.filters.late_ones_count` says.
    """
    begun = stage_of(state) >= STAGES.index("Train") and state.step != Step.TRAIN
    if not begun or not (state.late or state.pairs.get("open")):
        return ""
    made = f"{counted(state.late, 'more comparison')} since training began." if state.late else "Comparing can go on."
    anew = " If this training is given up, the one begun in its place uses it all." * (state.step == Step.MEND_RUN)
    return f"{made} {fate_words(they_count)}{anew}"


def fate_words(they_count: bool) -> str:
    """What becomes of a comparison that is made after its round's snapshot was cut."""
    if they_count:
        return "What is compared now counts from the next round on."
    return (
        "What is compared now is kept and exported, but a training uses it only if this round's parent is trained "
        "again: here, a checkpoint learns from the rounds that began from it, as they stood when training began."
    )


def made_words(entry: RoundStory) -> str:
    """How many comparisons a round was trained on or asks for."""
    if entry.on_imports:
        return f"{entry.round.target:,} imported"
    return f"{entry.comparisons['done']} of {entry.round.target}"


def accuracy_line(evaluation: dict[str, Any]) -> str:
    """Held-out accuracy before and after, in short; a dash where there was nothing to judge by."""
    if not evaluation.get("pairs"):
        return "–"
    before, after = percent(evaluation.get("accuracy_before")), percent(evaluation.get("accuracy_after"))
    return f"{before} → {after} (n={evaluation['pairs']})"


NO_DUELS = "none to be asked: by then, another checkpoint went on"
SWEEP_HEAD = ("Checkpoint", "Settings", "Held-out accuracy", "Margin", "KL to its parent", "Tokens an answer", "Alarms")


def sweep_rows(results: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each point of a sweep, as SWEEP_HEAD has it; KL in nats an answer."""
    return [
        (
            result["checkpoint"],
            point_words(result["point"]),
            accuracy_span(result["eval"]),
            _number(result["eval"].get("margin"), 3),
            _number(result.get("kl", {}).get("nats"), 1),
            _number(result.get("lengths", {}).get("after"), 0),
            ", ".join(alarm.title for alarm in warnings(recorded_alarms(result))) or "–",
        )
        for result in results
    ]


def accuracy_span(evaluation: dict[str, Any]) -> str:
    """Held-out accuracy with its interval: `67% (39% to 86%)`; a dash where there was nothing to judge by."""
    if not evaluation.get("pairs"):
        return "–"
    low, high = evaluation["interval_after"]
    return f"{percent(evaluation['accuracy_after'])} ({percent(low)} to {percent(high)})"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def result_facts(run: Run) -> dict[str, str]:
    """What a run that is done came to, for a small table; empty for any other."""
    told = {RunKind.SAMPLE: _written, RunKind.TRAIN: _trained, RunKind.EVALUATE: _judged, RunKind.DUEL: _duels}
    return told[RunKind(run.kind)](run) if run.status == RunStatus.DONE else {}


def _written(run: Run) -> dict[str, str]:
    reasons = {"skipped_identical": "both texts the same", "skipped_long": "prompt too long"}
    skipped = [f"{run.result[key]} ({reason})" for key, reason in reasons.items() if run.result.get(key)]
    how = ways_words(run.result.get("selected", {}))
    return {
        "Pairs written": f"{run.result.get('pairs', 0):,}",
        **({"Selected": how} if how else {}),
        "Prompts skipped": ", ".join(skipped) or "none",
    }


def _duels(run: Run) -> dict[str, str]:
    against = ", ".join(f"{name} ({len(prompts)})" for name, prompts in run.settings["against"].items())
    return {
        "Checkpoint": str(run.settings["checkpoint"]),
        "Against": against,
        "Duels written": f"{run.result.get('duels', 0):,}" if run.result.get("duels") else NO_DUELS,
        "Prompts skipped": f"{run.result['skipped']} (no two different texts)" if run.result.get("skipped") else "none",
    }


def _trained(run: Run) -> dict[str, str]:
    found = run.result
    kl, lengths = found.get("kl") or {}, found.get("lengths") or {}
    return {
        "Checkpoint": str(found.get("checkpoint") or run.settings["name"]),
        "Pairs trained on": _trained_on(found.get("train") or {}),
        "Computed in": str((found.get("train") or {}).get("precision", "–")),
        **_judged_facts(found.get("eval") or {}),
        "KL to its parent": f"{kl['nats']:.1f} nats an answer" if kl else "–",
        "Tokens an answer": f"{lengths['before']:.0f} → {lengths['after']:.0f}" if lengths else "–",
        **_examined(found),
    }


def _examined(found: dict[str, Any]) -> dict[str, str]:
    """The canary and the checks, where the run had them."""
    canary = found.get("canary") or {}
    told = {f"Perplexity on {canary['text']}": canary_line(canary)} if canary else {}
    return told | {f"Check: {check['command']}": check_line(check) for check in found.get("checks") or []}


def canary_line(canary: dict[str, Any]) -> str:
    """`18.2 → 18.5`."""
    return f"{figured(canary['perplexity_before'])} → {figured(canary['perplexity_after'])}"


def check_line(check: dict[str, Any]) -> str:
    """`passed in 12 s: 41 of 50 right`."""
    said = f": {check['said']}" if check["said"] else ""
    return f"{'passed' if check['passed'] else 'failed'} in {duration(max(1, check['seconds']))}{said}"


def _trained_on(figures: dict[str, Any]) -> str:
    ties = figures.get("ties")
    return f"{figures.get('pairs', 0):,}" + (f" and {counted(ties, 'tie')}" if ties else "")


def _judged(run: Run) -> dict[str, str]:
    name = str(run.settings.get("checkpoint", "–"))
    return {"Checkpoint": name, **_judged_facts(run.result), **_examined(run.result)}


def _judged_facts(evaluation: dict[str, Any]) -> dict[str, str]:
    pairs = int(evaluation.get("pairs") or 0)
    before = f"{percent(evaluation.get('accuracy_before'))} → " if pairs else ""
    changed = {"Change": change_words(evaluation)} if evaluation.get("change_interval") else {}
    told = {"Held-out accuracy": before + accuracy_span(evaluation)}
    return told | changed | {"Judged on": counted(pairs, "held-out pair")}


def trust_words(evaluation: dict[str, Any], ceiling: Ceiling | None = None) -> str:
    """How far the held-out accuracy can be believed, in plain words. No `ceiling`: what is known from elsewhere."""
    pairs = int(evaluation.get("pairs") or 0)
    if not pairs:
        return "No comparison was on a held-out prompt, so there is nothing to judge the new checkpoint by."
    low, high = evaluation.get("interval_after") or (0.0, 1.0)
    span = (
        f"With {counted(pairs, 'held-out pair')} the true figure lies anywhere from {percent(low)} to {percent(high)}"
    )
    most = ceiling.high if ceiling is not None else LITERATURE[1]
    if low > 0.5 and evaluation["accuracy_after"] > most:
        return (
            f"{span}. That is higher than {agreement_words(ceiling, bracketed=True)}: look for a "
            "shortcut that all chosen texts share, such as length, before you believe it (see the alarms, if any)."
        )
    if low > 0.5:
        agree = agreement_words(ceiling)
        return f"{span}: better than a coin toss. {agree[0].upper()}{agree[1:]}; expect no more."
    if high < 0.5:
        return f"{span}: worse than a coin toss. Look at the comparisons and the settings before you promote it."
    return f"{span}, a coin toss (50%) included. Take it as a hint; more rounds, or more held-out prompts, sharpen it."


def agreement_words(ceiling: Ceiling | None, *, bracketed: bool = False) -> str:
    """How often people agree with each other, as a clause: your annotators where enough was judged twice."""
    if ceiling is None or ceiling.value is None:
        share = "63–77% of such pairs"
        return (
            f"people usually agree with each other ({share})"
            if bracketed
            else f"people agree with each other on {share}"
        )
    what = "held-out pairs" if ceiling.told_from == "held_out" else "the round's pairs"
    share = f"{percent(ceiling.value)} of {what}, {percent(ceiling.low)} to {percent(ceiling.high)}"
    return f"your annotators agree with each other {f'({share})' if bracketed else f'on {share}'}"


def alarm_words(alarms: Sequence[Alarm]) -> str:
    """`2 alarms: missing eos, lost prompt tails; 1 note: length bias`; empty for none."""
    kinds = {"alarm": warnings(alarms), "note": [alarm for alarm in alarms if alarm.level != "warning"]}
    told = (
        f"{counted(len(those), kind)}: {', '.join(alarm.title for alarm in those)}"
        for kind, those in kinds.items()
        if those
    )
    return "; ".join(told)


def warnings(alarms: Sequence[Alarm]) -> list[Alarm]:
    """Those that are more than a note."""
    return [alarm for alarm in alarms if alarm.level == "warning"]


def warnings_first(alarms: Sequence[Alarm]) -> list[Alarm]:
    """In the order to read them in."""
    return sorted(alarms, key=lambda alarm: alarm.level != "warning")


def duration(seconds: float | None) -> str:
    """Seconds as a person would say them; empty for none."""
    if not seconds or seconds < 0:
        return ""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{round(minutes)} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def percent(share: float | None) -> str:
    """A share in whole percent; a dash for none."""
    return "–" if share is None else f"{100 * share:.0f}%"
