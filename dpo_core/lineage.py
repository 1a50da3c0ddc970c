"""All that is on record about one checkpoint, read at once: for its page and for its model card (model_card.py).

The figures are those of its training, and what people said in its duels by now. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session

from dpo_core.alarms import Alarm, is_beyond, recorded_alarms
from dpo_core.base_model import HUB_ID
from dpo_core.config import ModelSettings, TrainingSettings
from dpo_core.duels import Match, read_matches
from dpo_core.gate import match_words
from dpo_core.workspace import Workspace, resolve_model
from store.ancestry import Ancestry, Term, read_ancestry
from store.annotators import list_annotators
from store.checkpoints import base_checkpoint, full_weights_below, get_checkpoint
from store.database import reading
from store.decision_tables import DecisionRecord
from store.errors import SnapshotError
from store.held_out import HeldOut, judging_run, read_held_out
from store.models import Decision, Role
from store.teaching import Makeup, Teaching, makeup, touches, who_taught
from store.win_rate import DuelVerdict
from store.wording import counted

FEW_PAIRS = 100  # held out: with fewer, the interval of the accuracy is twenty points wide and more
NARROW = 0.9  # of the comparisons by one annotator: it is that one's taste
NARROW_WORDS = {
    Role.SOURCE: "comes from one imported source: how many people compared there is not on record.",
    Role.SIMULATED: "is one simulated annotator's taste.",
}


@dataclass(frozen=True)
class Base:
    """The model that everything started from. `shown`: its id, or the name of its folder; nobody's paths."""

    shown: str
    hub_id: str | None


@dataclass(frozen=True)
class CheckpointRecord:
    """What is known of a checkpoint. `below`: whose full weights its adapter sits on; None for full weights.

    `teaching` None: it was not trained here. `makeup` None: nor was it, or its snapshot's files are gone.
    `retracted`: of whom was retracted since, how many of their comparisons it was trained on itself (0: it inherits).
    """

    ancestry: Ancestry
    base: Base
    below: str | None
    teaching: Teaching | None
    makeup: Makeup | None
    matches: list[Match]
    held_out: HeldOut | None
    retracted: dict[str, int]

    @property
    def metrics(self) -> dict[str, Any]:
        """What its training found."""
        return self.ancestry.checkpoint.metrics

    @property
    def alarms(self) -> list[Alarm]:
        """What its training gave rise to."""
        return recorded_alarms(self.metrics)


def read_record(workspace: Workspace, name: str) -> CheckpointRecord:
    """The record of the checkpoint of this name. Raises UnknownRecordError, NotAllowedError."""
    with reading(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name=name)
        found = next(each for each in read_ancestry(session=session) if each.name == name)
        run = judging_run(session=session, checkpoint_id=checkpoint.id or 0)
        adapter = checkpoint.kind == "lora"
        return CheckpointRecord(
            ancestry=found,
            base=base_of(base_checkpoint(session=session).path, workspace.folder),
            below=full_weights_below(session=session, checkpoint=checkpoint).name if adapter else None,
            teaching=_teaching(session, workspace, found),
            makeup=_makeup(session, workspace, found),
            matches=read_matches(session, checkpoint, alpha=workspace.settings.duels.alpha),
            held_out=read_held_out(session=session, run=run, checkpoint_id=checkpoint.id) if run else None,
            retracted=_retracted(session, workspace.folder, name),
        )


def base_of(path: str, folder: Path) -> Base:
    """What the base is called where others read it."""
    local = Path(resolve_model(path, folder)).is_dir()
    if not local and HUB_ID.fullmatch(path):
        return Base(path, path)
    return Base(path if path.startswith("pairloop:") else Path(path).name, None)


def _teaching(session: Session, workspace: Workspace, found: Ancestry) -> Teaching | None:
    if found.snapshot is None:
        return None
    return who_taught(session=session, snapshot=found.snapshot, folder=workspace.folder, at=found.cut_at)


def _makeup(session: Session, workspace: Workspace, found: Ancestry) -> Makeup | None:
    if found.snapshot is None:
        return None
    try:
        return makeup(session=session, snapshot=found.snapshot, folder=workspace.folder)
    except SnapshotError:  # its files are gone or changed: the manifest still says how much there was
        return None


def _retracted(session: Session, folder: Path, name: str) -> dict[str, int]:
    gone = [who.name for who in list_annotators(session=session) if who.retracted_at is not None]
    touched = touches(session=session, folder=folder, names=gone)
    return {who: each.comparisons for who, found in touched.items() for each in found if each.checkpoint == name}


@dataclass(frozen=True)
class Setting:
    """A setting of a training that is not as it comes."""

    name: str
    value: Any
    default: Any


def changed_settings(settings: dict[str, Any]) -> list[Setting]:
    """The settings of a checkpoint that differ from the defaults.

    Without those that are settled anew for each training (`auto`), the base, and an adapter's where there is none.
    """
    model, training = settings.get("model", {}), settings.get("training", {})
    unused = ("base",) if model.get("tuning") == "lora" else ("base", "lora_r", "lora_alpha", "lora_target_modules")
    found = [*_changed(training, TrainingSettings), *_changed(model, ModelSettings)]
    return [each for each in found if each.name not in unused]


def _changed(given: dict[str, Any], section: type[TrainingSettings] | type[ModelSettings]) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        value = given.get(name, field.default)
        if field.default not in ("auto", value):
            yield Setting(name, value, field.default)


def service_words(found: Ancestry, when: Callable[[DecisionRecord], str]) -> str:
    """From when until when a checkpoint served, a sentence for each time; empty where it never did.

    `when` says when, and perhaps by whom, something was decided.
    """
    return " ".join(_term_words(term, when) for term in found.terms)


def _term_words(term: Term, when: Callable[[DecisionRecord], str]) -> str:
    began = "It"
    if term.began is not None and term.began.action == Decision.ROLL_BACK:
        began = f"It was let serve again {when(term.began)}, and"
    if term.ended is None:
        return f"{began} has served since."
    how = "was let serve again in its place" if term.ended.action == Decision.ROLL_BACK else "was promoted"
    return f"{began} served until {term.successor} {how} {when(term.ended)}."


def limits(record: CheckpointRecord) -> list[str]:
    """What speaks against relying on a checkpoint, a sentence each; empty for the base, of which nothing is known."""
    if record.ancestry.snapshot is None:
        return []
    return [*_data_limits(record), *_figure_limits(record), *_duel_limits(record), *_decision_limits(record)]


def _data_limits(record: CheckpointRecord) -> Iterator[str]:
    found, made = record.teaching, record.makeup
    if found is not None and found.trained:
        most = max(found.by, key=lambda each: each.trained)
        simulated = sum(each.trained for each in found.by if each.role == Role.SIMULATED)
        if len(found.by) == 1 or most.trained > NARROW * found.trained:
            whole = counted(found.trained, "comparison")
            told = f"All it learned, {whole}"
            if most.trained < found.trained:
                told = f"Nearly all it learned, {most.trained:,} of {whole}"
            whose = NARROW_WORDS.get(Role(most.role), "is one annotator's view.")
            yield f"{told}, {whose}"
        if simulated:
            yield f"{counted(simulated, 'comparison')} come from simulated annotators, not from people."
    if found is not None and not found.exact:
        yield "Its snapshot's files are gone, so that what it was trained on cannot be told exactly."
    if made is not None and made.naming_makers:
        yield f"In {counted(made.naming_makers, 'pair')} a completion says which model wrote it: not judged blind."
    said = sum(record.retracted.values())
    if said:
        yield f"It was trained on {counted(said, 'comparison')} by annotators who were retracted since."
    elif record.retracted:
        yield "What it descends from was trained on comparisons by annotators who were retracted since."


def _figure_limits(record: CheckpointRecord) -> Iterator[str]:
    judged, canary = record.metrics.get("eval") or {}, record.metrics.get("canary")
    pairs = judged.get("pairs") or 0
    if not pairs:
        yield "It was not judged on any held-out comparison."
    elif pairs < FEW_PAIRS:
        low, high = judged["interval_after"]
        span = f"{100 * low:.0f}% to {100 * high:.0f}%"
        yield f"Held-out accuracy is told from {counted(pairs, 'pair')} alone: anything from {span} goes with them."
    if canary is None:
        yield "What the training cost it elsewhere was not looked at."
    elif is_beyond(canary):
        yield "The canary text tells nothing: the base predicts it no better than by guessing."
    yield from (f"Alarm: {alarm.text}" for alarm in record.alarms if alarm.level == "warning")
    failed = [check["command"] for check in record.metrics.get("checks") or [] if not check["passed"]]
    if failed:
        yield f"Checks that it failed: {', '.join(failed)}."


def _duel_limits(record: CheckpointRecord) -> Iterator[str]:
    if not any(match.win_rate.prompts for match in record.matches):
        yield "No blind duel of it was decided: whether people prefer it is not known."
    for match in record.matches:
        if match.win_rate.prompts and match.win_rate.verdict == DuelVerdict.UNDECIDED:
            yield f"Against {match.against} its duels are undecided: it {match_words(match)}."
        elif match.win_rate.verdict == DuelVerdict.KEEP:
            yield f"People prefer {match.against}: it {match_words(match)}."


def _decision_limits(record: CheckpointRecord) -> Iterator[str]:
    decided = record.ancestry.decided
    if decided is None:
        yield "Nobody decided about it."
    elif decided.action == "keep":
        yield "It was not promoted: its parent went on."
    elif decided.forced:
        lacking = [each for each in decided.gate.get("conditions", []) if not each["met"]]
        why = "; ".join(f"{each['name']}: {each['found']}" for each in lacking)
        yield f"It was promoted against the gate ({why})."
    left = record.ancestry.terms[-1] if record.ancestry.terms else None
    if left is not None and left.ended is not None and left.ended.action == Decision.ROLL_BACK:
        day = f"{left.ended.created_at:%Y-%m-%d}"
        yield f"It was rolled back on {day}: {left.successor} was let serve again in its place."
    if record.below is not None and record.below != "base":
        yield f"It is an adapter on the weights of {record.below}, not on the base's: it needs those."
