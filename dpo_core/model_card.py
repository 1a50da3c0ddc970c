"""A checkpoint's model card, written from the record.

The card is in the format of the Hugging Face hub. It goes to whoever gets the weights: people are counted in it and not
named, prompts are not quoted, and no path of this machine is in it. The same record gives the same card. No license is
given, as none was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from dpo_core.alarms import is_beyond
from dpo_core.duels import Match
from dpo_core.gate import match_words
from dpo_core.lineage import CheckpointRecord, changed_settings, limits, service_words
from store.checkpoints import BASE
from store.decision_tables import DecisionRecord
from store.intervals import Estimate
from store.models import Role
from store.snapshot_filter import REASONS
from store.snapshots import cut_words, trained_words
from store.win_rate import DuelVerdict
from store.wording import counted

ORIGINS = {
    "compared by people": (Role.ANNOTATOR, Role.RESEARCHER),
    "imported with their verdicts": (Role.SOURCE,),
    "compared by simulated annotators": (Role.SIMULATED,),
}
VERDICTS = {
    DuelVerdict.PROMOTE: "people prefer it",
    DuelVerdict.KEEP: "people prefer the other",
    DuelVerdict.UNDECIDED: "undecided",
}


def model_card(record: CheckpointRecord) -> str:
    """The card as Markdown."""
    sections = [
        _front_matter(record),
        f"# {record.ancestry.name}\n\n{_what_it_is(record)}",
        f"## Data\n\n{_data(record)}",
        f"## Training\n\n{_training(record)}",
        f"## Evaluation\n\n{_evaluation(record)}",
        f"## Decision\n\n{_decision(record)}",
        f"## Limits\n\n{_list(limits(record))}",
        f"## Reproducing it\n\n{_reproducing(record)}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(record: CheckpointRecord) -> str:
    """What the hub reads. `base_model` must be an id there: a folder of ours is named in the text alone."""
    base = [f"base_model: {json.dumps(record.base.hub_id)}"] if record.base.hub_id else []
    library = "peft" if record.ancestry.checkpoint.kind == "lora" else "transformers"
    tags = ["tags:", "- dpo", "- pairloop", "- trl"]
    return "\n".join(["---", *base, f"library_name: {library}", "pipeline_tag: text-generation", *tags, "---"])


def _what_it_is(record: CheckpointRecord) -> str:
    found = record.ancestry
    if found.snapshot is None:
        return f"The model that everything started from: `{record.base.shown}`."
    kind = "An adapter" if found.checkpoint.kind == "lora" else "All weights of a language model"
    where = f" in round {found.round.number}" if found.round is not None else ""
    above = record.base.shown if found.parent == BASE else f"{found.parent}, which goes back to {record.base.shown}"
    return (
        f"{kind}, trained with Direct Preference Optimization from `{above}`{where} on {_trained_on(record)}, "
        f"by pairloop on {found.checkpoint.created_at:%Y-%m-%d}. No license was chosen: add `license` above before you "
        "share it, as the base's license and your data allow."
        f"{_where_it_sits(record)}"
    )


def weights_below(record: CheckpointRecord) -> str:
    """What an adapter's weights sit on, as others read it: an id of the hub, or a name that stands for a folder."""
    return record.base.shown if record.below in (None, BASE) else str(record.below)


def _where_it_sits(record: CheckpointRecord) -> str:
    """What to fill in, where an adapter's base is no id that others could fetch."""
    if record.below is None or (record.below == BASE and record.base.hub_id):
        return ""
    name = weights_below(record)
    copy = (
        "your copy of that model" if record.below == BASE else f"what `pairloop lineage {name} --export FOLDER` wrote"
    )
    return (
        f"\n\nIts adapter sits on the weights of `{name}`, which is a folder and no id of the hub. Before you load it, "
        f"put the path of {copy} into `adapter_config.json` as `base_model_name_or_path`; or load that model yourself "
        "and hand it to `PeftModel.from_pretrained`."
    )


def _trained_on(record: CheckpointRecord) -> str:
    """The pairs, and how they came to their verdicts, told by who gave these."""
    assert record.ancestry.snapshot is not None
    pairs = trained_words(record.ancestry.snapshot.manifest)
    roles = {each.role for each in (record.teaching.by if record.teaching else []) if each.trained}
    origins = [words for words, of in ORIGINS.items() if roles & set(of)]
    if len(origins) > 1:
        return f"{pairs}, {', '.join(f'partly {each}' for each in origins)}"
    return " ".join([pairs, *origins])


def _data(record: CheckpointRecord) -> str:
    snapshot = record.ancestry.snapshot
    if snapshot is None:
        return "Nothing is known here of what it was trained on."
    intro = (
        f"Snapshot `{snapshot.hash[:12]}`: {cut_words(snapshot.manifest)}, from "
        f"{snapshot.manifest['used']:,} of {counted(snapshot.manifest['comparisons'], 'comparison')}."
    )
    parts = [intro, _list([*_people(record), *_kinds(record)])]
    dropped = [(REASONS.get(why, why), f"{count:,}") for why, count in snapshot.manifest["dropped"].items() if count]
    if dropped:
        parts.append("Left out:\n\n" + _table(("comparisons", "why"), [(count, why) for why, count in dropped]))
    return "\n\n".join(parts)


def _people(record: CheckpointRecord) -> Iterator[str]:
    """Who compared, by number."""
    names = {
        "people": (Role.ANNOTATOR, Role.RESEARCHER),
        "imported sources": (Role.SOURCE,),
        "simulated annotators": (Role.SIMULATED,),
    }
    for what, roles in names.items():
        theirs = [each for each in (record.teaching.by if record.teaching else []) if each.role in roles]
        if theirs:
            said = sum(each.trained + each.held_out for each in theirs)
            yield f"Compared by {what}: {len(theirs)}, with {counted(said, 'comparison')}"


def _kinds(record: CheckpointRecord) -> Iterator[str]:
    made = record.makeup
    if made is None:
        return
    kinds = {
        "imported": made.imported,
        "an annotator's own text over what it betters": made.rewrites,
        "from rankings of several completions": made.ranked,
        "decided by a researcher, whatever the votes": made.adjudicated,
        "with a completion that says which model wrote it": made.naming_makers,
    }
    yield from (f"Pairs {what}: {count:,}" for what, count in kinds.items() if count)
    if made.agreement is None:
        yield "No pair was judged by several annotators, so nothing is known of how far they agree"
    else:
        share = f"{100 * made.agreement:.0f}% of their votes are for what was chosen"
        yield f"Agreement: {counted(made.several, 'pair')} judged by several annotators; {share}, in the mean"


def _training(record: CheckpointRecord) -> str:
    checkpoint, trained = record.ancestry.checkpoint, record.metrics.get("train") or {}
    changed = changed_settings(checkpoint.settings)
    rows = [(f"`{each.name}`", f"`{json.dumps(each.value)}`", f"`{json.dumps(each.default)}`") for each in changed]
    settings = _table(("setting", "value", "default"), rows) if rows else "All settings are pairloop's defaults."
    facts = [
        f"Loss and options are those of TRL's `DPOTrainer`; beta {_setting(record, 'beta')}",
        *(
            [f"{counted(trained['steps'], 'step')}, final mean loss {trained['loss']:.4f}"]
            if "steps" in trained
            else []
        ),
        *([f"Computed in {trained['precision']}"] if trained.get("precision") else []),
        *_machine(trained.get("machine") or {}),
        *([f"Versions: `{checkpoint.code_version}`"] if checkpoint.code_version else []),
    ]
    return f"{settings}\n\n{_list(facts)}"


def _setting(record: CheckpointRecord, name: str) -> Any:
    return record.ancestry.checkpoint.settings.get("training", {}).get(name, "as it comes")


def _machine(machine: dict[str, Any]) -> Iterator[str]:
    if machine:
        many = f"{counted(machine['threads'], 'thread')}, {counted(machine['processes'], 'process', 'processes')}"
        yield f"On {machine['device']} ({machine['arithmetic']}), {many}"


def _evaluation(record: CheckpointRecord) -> str:
    rows = [*_held_out_rows(record), *_duel_rows(record), *_beside_rows(record.metrics)]
    return _table(("what", "figure", "told from"), rows) if rows else "It was not evaluated."


def _held_out_rows(record: CheckpointRecord) -> Iterator[Sequence[str]]:
    judged = record.metrics.get("eval") or {}
    if judged.get("pairs"):
        low, high = judged["interval_after"]
        change = f"{_percent(judged['accuracy_after'])} ({_percent(low)} to {_percent(high)})"
        before = f"its parent {_percent(judged['accuracy_before'])}"
        yield "Held-out preference accuracy", f"{change}; {before}", counted(judged["pairs"], "pair")
    ceiling = record.held_out.ceiling if record.held_out else None
    if ceiling is not None and ceiling.value is not None:
        span = f"{_percent(ceiling.value)} ({_percent(ceiling.low)} to {_percent(ceiling.high)})"
        yield "How often two annotators agree, its ceiling", span, counted(ceiling.pairs, "pair")


def _duel_rows(record: CheckpointRecord) -> Iterator[Sequence[str]]:
    for match in record.matches:
        if match.win_rate.prompts:
            found = f"{match_words(match)}: {VERDICTS[match.win_rate.verdict]}"
            told = counted(match.win_rate.prompts, "held-out prompt")
            yield f"Blind duels with {match.against}", found, told
            yield from _at_equal_length(match)


def _at_equal_length(match: Match) -> Iterator[Sequence[str]]:
    if match.at_equal_length.value is not None:
        told = counted(match.at_equal_length.count, "duel")
        yield f"The same, at equal length of the texts ({match.against})", _estimate(match.at_equal_length), told


def _beside_rows(metrics: dict[str, Any]) -> Iterator[Sequence[str]]:
    kl, canary, lengths = (metrics.get(name) or {} for name in ("kl", "canary", "lengths"))
    if canary:
        note = "no better than by guessing: it tells nothing" if is_beyond(canary) else "before and after"
        figures = f"{canary['perplexity_before']:.1f} → {canary['perplexity_after']:.1f}"
        yield f"Perplexity on a text nobody compared ({_cell(canary['text'])})", figures, note
    if kl:
        span = f" ({kl['low']:.1f} to {kl['high']:.1f})" if "low" in kl else ""
        yield "KL to its parent", f"{kl['nats']:.1f} nats an answer{span}", "its own answers"
    if lengths:
        yield "Tokens an answer", f"{lengths['before']:.0f} → {lengths['after']:.0f}", "the same prompts"
    for check in metrics.get("checks") or []:
        yield f"Check `{_cell(check['command'])}`", "passed" if check["passed"] else "failed", "your own command"


def _decision(record: CheckpointRecord) -> str:
    decided = record.ancestry.decided
    if decided is None:
        served = service_words(record.ancestry, _day)
        return (
            "None so far." if record.ancestry.snapshot is not None else f"It is where the loop began. {served}".rstrip()
        )
    what = {"promote": "Promoted", "keep": "Not promoted: its parent went on"}[decided.action]
    how = ", against the gate" if decided.forced else ""
    signs = {True: "met", False: "not met", None: "not known"}
    asked = decided.gate.get("conditions", [])
    conditions = [f"{signs[each['met']]}: {each['name']} ({each['found']})" for each in asked]
    said = f"{what}, {_day(decided)}{how}. {service_words(record.ancestry, _day)}".rstrip()
    return f"{said}\n\nThe gate when it was decided:\n\n{_list(conditions)}" if conditions else said


def _day(decision: DecisionRecord) -> str:
    return f"on {decision.created_at:%Y-%m-%d}"


def _reproducing(record: CheckpointRecord) -> str:
    found = record.ancestry
    if found.snapshot is None:
        return "It was not trained here."
    return (
        f"In the workspace it comes from, `pairloop reproduce {found.name}` trains it once more from the record "
        f"(parent `{found.parent}`, snapshot `{found.snapshot.hash}`) and compares the weights. {_promise(record)}"
    )


def _promise(record: CheckpointRecord) -> str:
    """How near the weights will be."""
    machine = (record.metrics.get("train") or {}).get("machine") or {}
    if not machine:
        return "On what machine it was trained is not on record, so that they may differ."
    if machine["processes"] > 1:
        return (
            f"It was trained in {machine['processes']} processes and is trained once more in one, on the same pairs at "
            "each step: sums are added in another order, so that they come near and are not the same to the last bit."
        )
    if machine["device"] != "cpu":
        return "With the same versions they come near; a GPU adds in an order of its own, so that last bits may differ."
    return "On the same machine, with the same versions, they are the same."


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _estimate(found: Estimate) -> str:
    span = f" ({_percent(found.interval[0])} to {_percent(found.interval[1])})" if found.interval else ""
    return f"{_percent(found.value or 0)}{span}"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "None are on record."


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
