"""Where checkpoints come from, in words, rows and a drawing, for pages and commands alike.

The drawing is text in Graphviz's language, which the browser itself lays out. Importable without Streamlit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from dpo_core.gate import match_words
from dpo_core.lineage import CheckpointRecord, changed_settings, service_words
from store.ancestry import Ancestry
from store.models import Snapshot
from store.snapshot_filter import drops_in_words
from store.snapshots import cut_words, trained_words
from store.teaching import Contribution, Touch
from store.wording import counted
from ui.duel_words import decided_words
from ui.judged_words import beside_rows
from ui.story import accuracy_line, percent, warnings

NOTHING = "–"
CHECKPOINT_PARAMETER, NAME_PARAMETER = "checkpoint", "as"  # of the page's address
DATA, SNAPSHOT_PARAMETER, WHO_PARAMETER, ROUND_PARAMETER = "data", "snapshot", "by", "round"  # of the Data page's
TREE_HEAD = ("Checkpoint", "From", "Round", "Trained on", "Held-out accuracy", "Standing")
TOUCH_HEAD = ("Checkpoint", "Comparisons trained on", "Inherited from")
TEACHING_HEAD = ("Annotator or source", "Trained on", "Share", "Judged by", "")
SETTINGS_HEAD = ("Setting", "Value", "Default")
SHOWN_PEOPLE = 8  # in the drawing: more would be a thicket
# Both themes: dark letters on a light ground of their own.
FILLS = {"serving": "#9fd8c4", "served before": "#cfe9df", "base": "#e5e3dc", "kept back": "#f3d9c8"}
PLAIN = "#f1efe9"
EDGE = "#8a8880"


def tree_rows(found: Sequence[Ancestry]) -> list[tuple[object, ...]]:
    """A line for each checkpoint, oldest first, as TREE_HEAD has it."""
    return [
        (
            each.name,
            each.parent or NOTHING,
            each.round.number if each.round else NOTHING,
            trained_words(each.snapshot.manifest) if each.snapshot else NOTHING,
            accuracy_line(each.checkpoint.metrics.get("eval") or {}),
            standing_words(each),
        )
        for each in found
    ]


def standing_words(found: Ancestry) -> str:
    """What became of it: `serving`, `kept back`, `served before, promoted against the gate`."""
    decided = found.decided
    return f"{found.standing}, promoted against the gate" if decided is not None and decided.forced else found.standing


def decision_words(found: Ancestry) -> str:
    """What was decided about it, by whom and when."""
    decided = found.decided
    if decided is None:
        if found.parent is None:
            return f"It is where the loop began. {service_words(found, decided_words)}".rstrip()
        others = {"not picked": "A sweep went on with another."}
        return others.get(found.standing, "Nothing was decided about it yet.")
    what = {"promote": "Promoted", "keep": "Kept back"}[decided.action]
    against = ", against the gate" if decided.forced else ""
    return f"{what}{against} {decided_words(decided)}. {service_words(found, decided_words)}".rstrip()


def facts(record: CheckpointRecord) -> list[tuple[str, str]]:
    """What a checkpoint came from, what it was found to be worth, and what was decided: name and words."""
    found = record.ancestry
    rows = [("Standing", standing_words(found)), ("Decision", decision_words(found))]
    rows += [("Trained from", found.parent)] if found.parent else [("Model", record.base.shown)]
    rows += [("Round", f"{found.round.number}")] if found.round else []
    rows += [("Run", f"{found.run.id}, asked for by {found.run.requested_by or 'nobody named'}")] if found.run else []
    rows += list(_snapshot_facts(found)) + list(_judged_facts(record))
    rows += [("Versions", found.checkpoint.code_version)] if found.checkpoint.code_version else []
    return rows


def _snapshot_facts(found: Ancestry) -> Iterator[tuple[str, str]]:
    if found.snapshot is None:
        return
    manifest = found.snapshot.manifest
    yield "Snapshot", f"{found.snapshot.hash[:12]}: {cut_words(manifest)}"
    yield "Comparisons", f"{manifest['used']:,} of {manifest['comparisons']:,} used"
    yield "Left out", drops_in_words(manifest["dropped"]) or "none"


def _judged_facts(record: CheckpointRecord) -> Iterator[tuple[str, str]]:
    judged = record.metrics.get("eval") or {}
    if judged.get("pairs"):
        low, high = judged["interval_after"]
        before = percent(judged.get("accuracy_before"))
        span = f"{percent(judged['accuracy_after'])} ({percent(low)} to {percent(high)})"
        yield "Held-out accuracy", f"{span} on {counted(judged['pairs'], 'pair')}, parent {before}"
    duelled = [match for match in record.matches if match.win_rate.prompts]
    yield from ((f"Duels with {match.against}", f"it {match_words(match)}") for match in duelled)
    yield from ((name, figure) for name, figure, _ in beside_rows(record.metrics))
    alarms = warnings(record.alarms)
    if judged or alarms:
        yield "Alarms", ", ".join(alarm.title for alarm in alarms) or "none"


def setting_rows(record: CheckpointRecord) -> list[tuple[str, str, str]]:
    """The settings that are not as they come, as SETTINGS_HEAD has it."""
    changed = changed_settings(record.ancestry.checkpoint.settings)
    return [(each.name, json.dumps(each.value), json.dumps(each.default)) for each in changed]


def teaching_rows(record: CheckpointRecord) -> list[tuple[str, str, str, str, str]]:
    """Whose comparisons it was trained on and judged by, as TEACHING_HEAD has it."""
    if record.teaching is None:
        return []
    total = record.teaching.trained
    return [
        (
            each.annotator,
            f"{each.trained:,}",
            percent(each.trained / total if total else None),
            f"{each.held_out:,}",
            ", ".join([each.role, *(["retracted"] if each.retracted else [])]),
        )
        for each in record.teaching.by
    ]


def touch_rows(found: Sequence[Touch]) -> list[tuple[str, str, str]]:
    """The checkpoints that somebody touched, as TOUCH_HEAD has it."""
    return [(each.checkpoint, f"{each.comparisons:,}", each.inherited_from or NOTHING) for each in found]


def touched_words(name: str, found: Sequence[Touch]) -> str:
    """Which checkpoints somebody's comparisons are in, in a sentence."""
    if not found:
        return f"No checkpoint was trained on a comparison of {name}'s."
    own = [f"{each.checkpoint} ({each.comparisons:,})" for each in found if each.comparisons]
    heirs = [each.checkpoint for each in found if not each.comparisons]
    said = f"Trained on {name}'s comparisons: {', '.join(own)}."
    said += f" Descended from these: {', '.join(heirs)}." if heirs else ""
    unsure = "" if all(each.exact for each in found) else " (At most: files of snapshots are gone.)"
    return said + unsure


def touched_serving_words(name: str, found: Sequence[Touch], serving: str) -> str:
    """What the checkpoint that serves now has of somebody, before they are retracted; empty where it has nothing."""
    touch = next((each for each in found if each.checkpoint == serving), None)
    if touch is None:
        return ""
    said = f"was trained on {counted(touch.comparisons, 'comparison')} of {name}'s"
    if not touch.comparisons:
        said = f"descends from {touch.inherited_from}, which was trained on {name}'s comparisons"
    return (
        f"{serving}, which serves now, {said}. Retracting takes nothing out of its weights: roll back, or train again "
        "from a checkpoint before."
    )


def tree_drawing(found: Sequence[Ancestry], chosen: str, name: str = "") -> str:
    """All checkpoints, and what was trained from what on which snapshot.

    Each leads to its place, for the visitor who goes by `name`.
    """
    nodes = [_checkpoint(each, chosen=each.name == chosen, leads_to=address(each.name, name)) for each in found]
    edges = [_edge(each.parent, each.name, _round_of(each)) for each in found if each.parent]
    cut = {each.snapshot.hash: _snapshot(each.snapshot, name) for each in found if each.snapshot}
    learned = [_edge(_snapshot_node(each.snapshot), each.name) for each in found if each.snapshot]
    return _digraph("LR", [*nodes, *cut.values(), *edges, *learned])


def address(checkpoint: str, name: str = "") -> str:
    """Where the page is about this checkpoint; `name`: the one that the visitor goes by in the address."""
    return "?" + urlencode({CHECKPOINT_PARAMETER: checkpoint} | ({NAME_PARAMETER: name} if name else {}))


def data_parameters(name: str = "", **asked: str) -> dict[str, str]:
    """The Data page's address: a `snapshot`, comparisons `by` somebody, those of a `round`."""
    return asked | ({NAME_PARAMETER: name} if name else {})


def _data_address(name: str, **asked: str) -> str:
    return f"{DATA}?{urlencode(data_parameters(name, **asked))}"


def _snapshot(cut: Snapshot, name: str) -> str:
    label = f"snapshot\n{cut.hash[:12]}\n{trained_words(cut.manifest)}"
    return _node(_snapshot_node(cut), label, PLAIN, leads_to=_data_address(name, snapshot=cut.hash[:12]), shape="note")


def _snapshot_node(cut: Snapshot) -> str:
    return f"snapshot {cut.hash[:12]}"


def _checkpoint(found: Ancestry, *, chosen: bool, leads_to: str = "") -> str:
    lines = dict.fromkeys((found.name, standing_words(found)))  # the base's standing is its name
    return _node(found.name, "\n".join(lines), FILLS.get(found.standing, PLAIN), chosen, leads_to)


def _round_of(found: Ancestry) -> str:
    return f"round {found.round.number}" if found.round else ""


def origin_drawing(record: CheckpointRecord, name: str = "") -> str:
    """One checkpoint: its parent, its settings, its snapshot, and whose comparisons that holds. Empty for the base.

    Parent, snapshot and people lead to their places, for the visitor who goes by `name`.
    """
    found = record.ancestry
    if found.snapshot is None or found.parent is None:
        return ""
    changed = [f"{setting} = {value}" for setting, value, _ in setting_rows(record)]
    lines = [
        _checkpoint(found, chosen=True),
        _node("parent", found.parent, PLAIN, leads_to=address(found.parent, name)),
        _snapshot(found.snapshot, name),
        _node("settings", "\n".join(["settings", *(changed or ["as they come"])]), PLAIN),
        *(_edge(each, found.name) for each in ("parent", _snapshot_node(found.snapshot), "settings")),
        *_people(record.teaching.by if record.teaching else [], _snapshot_node(found.snapshot), name),
    ]
    return _digraph("LR", lines)


def _people(by: Sequence[Contribution], snapshot: str, name: str) -> Iterator[str]:
    theirs = [each for each in by if each.trained]
    for number, each in enumerate(theirs[:SHOWN_PEOPLE]):
        gone = "\nretracted" if each.retracted else ""
        theirs_at = _data_address(name, by=each.annotator)
        fill = FILLS["kept back"] if each.retracted else PLAIN
        yield _node(f"who {number}", f"{each.annotator}{gone}", fill, leads_to=theirs_at)
        yield _edge(f"who {number}", snapshot, f"{each.trained:,}")
    rest = theirs[SHOWN_PEOPLE:]
    if rest:
        yield _node("others", f"{counted(len(rest), 'other')}", PLAIN)
        yield _edge("others", snapshot, f"{sum(each.trained for each in rest):,}")


def _digraph(direction: str, lines: Sequence[str]) -> str:
    looks = (
        f'rankdir={direction}; bgcolor="transparent"; node [shape=box, style="rounded,filled", color="{EDGE}", '
        f'fontcolor="#24231f", fontname="sans-serif", fontsize=12]; edge [color="{EDGE}", fontcolor="{EDGE}", '
        'fontname="sans-serif", fontsize=11];'
    )
    return "\n".join(["digraph lineage {", looks, *lines, "}"])


def _node(name: str, label: str, fill: str, thick: bool = False, leads_to: str = "", shape: str = "") -> str:
    looks = f"fillcolor={_quoted(fill)}, penwidth={2 if thick else 1}"
    looks += f", shape={shape}, style=filled" if shape else ""
    looks += f', URL={_quoted(leads_to)}, target="_self"' if leads_to else ""
    return f"{_quoted(name)} [label={_quoted(label)}, {looks}];"


def _edge(source: str | None, target: str, label: str = "") -> str:
    return f"{_quoted(source or '')} -> {_quoted(target)} [label={_quoted(label)}];"


def _quoted(text: str) -> str:
    """A string of Graphviz's, in which names of people and files are nothing but text."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{plain}"'
