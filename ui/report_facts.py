"""All that a report tells, read at one moment: of the whole effort, or of one round. Importable without Streamlit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlmodel import Session

from dpo_core.duels import Match, all_matches
from dpo_core.errors import RunError
from dpo_core.gate import Gate, gate_to_pass
from dpo_core.lineage import CheckpointRecord, base_of, read_record
from dpo_core.loop import LoopState, RoundStory, read_loop, round_stories
from dpo_core.standings import read_standings
from dpo_core.workspace import Workspace
from store.checkpoints import base_checkpoint, list_checkpoints
from store.database import reading
from store.decision_tables import DecisionRecord
from store.decisions import list_decisions, serving_checkpoint
from store.duels import answers_of_both
from store.effort import Effort, count_labels, read_effort
from store.guidelines import guidelines_in_force
from store.intervals import Estimate
from store.models import Checkpoint, Decision, Round, Run, RunKind, RunStatus, now
from store.prompts import Message, count_prompts
from store.quality import Quality, read_quality
from store.runs import list_runs
from store.selected import Gains, read_gains

SHOWN_ANSWERS = 3


@dataclass(frozen=True)
class Answers:
    """What two checkpoints answered to the same held-out prompts: the prompt, the text of `new`, that of `old`."""

    new: str
    old: str
    texts: list[tuple[list[Message], str, str]]


@dataclass(frozen=True)
class Facts:
    """`round`: the one it is about; None for the whole effort, and `stories` are those of what it is about.

    `records`, of what rounds came to, and `labels`, spent before each of these was trained, go by checkpoint;
    `names` by the checkpoint's id. `decisions` are all there ever were: who serves follows from all of them.
    """

    workspace: Workspace
    at: datetime
    model: str
    round: Round | None
    state: LoopState
    gate: Gate | None
    stories: list[RoundStory]
    records: dict[str, CheckpointRecord]
    labels: dict[str, int]
    prompts: dict[str, int]
    effort: Effort
    trainings: list[Run]
    matches: list[Match]
    points: dict[str, Estimate]
    base: Checkpoint
    serving: Checkpoint
    decisions: list[DecisionRecord]
    names: dict[int, str]
    answers: Answers | None
    gains: Gains
    quality: Quality
    guidelines: str

    @property
    def newest(self) -> RoundStory | None:
        """The last round that came to a checkpoint."""
        return next((story for story in reversed(self.stories) if story.result is not None), None)

    def match(self, checkpoint: str, against: str) -> Match | None:
        """What was judged between these two, if anything was."""
        met = (each for each in self.matches if (each.checkpoint, each.against) == (checkpoint, against))
        return next((each for each in met if each.win_rate.prompts), None)

    def parent_of(self, story: RoundStory) -> str:
        """The name of what the round's checkpoint was trained from; "" for none."""
        number = story.result.parent_id if story.result is not None else None
        return self.names[number] if number is not None else ""

    def decisions_told(self) -> list[DecisionRecord]:
        """Those about what the report is about; a roll-back belongs to the rounds that it goes from and to."""
        if self.round is None:
            return self.decisions
        mine = self.round.result_checkpoint_id
        return [
            record
            for record in self.decisions
            if record.round_id == self.round.id
            or (record.action == Decision.ROLL_BACK and mine in (record.about_id, record.checkpoint_id))
        ]


def read_facts(workspace: Workspace, *, round_number: int | None = None) -> Facts:
    """What there is to tell by now; `round_number`: of that round. Raises RunError for a round that there is not."""
    with reading(workspace.engine) as session:
        stories = round_stories(session=session)
        found = _told_of(stories, round_number)
        about = found[0].round if round_number is not None else None
        ids = [story.round.id or 0 for story in found]
        results = [story.result for story in found if story.result is not None]
        matches = all_matches(session, alpha=workspace.settings.duels.alpha)
        base, serving = base_checkpoint(session=session), serving_checkpoint(session=session)
        guidelines = guidelines_in_force(session=session)
        facts = Facts(
            workspace=workspace,
            at=now(),
            model=base_of(base.path, workspace.folder).shown,
            round=about,
            state=read_loop(session=session),
            gate=gate_to_pass(session, workspace),
            stories=found,
            records={each.name: read_record(workspace, each.name) for each in results},
            labels=_labels_spent(session, found),
            prompts=count_prompts(session=session),
            effort=read_effort(session=session, round_ids=None if about is None else ids),
            trainings=_trainings(session, ids),
            matches=matches,
            points=read_standings(session),
            base=base,
            serving=serving,
            decisions=list_decisions(session=session),
            names={each.id or 0: each.name for each in list_checkpoints(session=session)},
            answers=None,
            gains=read_gains(session=session),
            quality=read_quality(session=session),
            guidelines=guidelines.text if guidelines else "",
        )
        facts = facts if about is None else _narrowed(facts, about)
        return replace(facts, answers=_answers(session, facts))


def _told_of(stories: list[RoundStory], number: int | None) -> list[RoundStory]:
    found = stories if number is None else [story for story in stories if story.round.number == number]
    if not found and number is not None and stories:
        raise RunError(f"There is no round {number}; there are {len(stories)}.")
    if not found:
        raise RunError("There is nothing to report yet: no round was started. `pairloop sample` starts one.")
    return found


def _labels_spent(session: Session, stories: Sequence[RoundStory]) -> dict[str, int]:
    """How many labels there were when the pairs that each checkpoint was trained on were cut."""
    return {
        story.result.name: count_labels(session=session, until=(story.snapshot or story.result).created_at)
        for story in stories
        if story.result is not None
    }


def _trainings(session: Session, ids: Sequence[int]) -> list[Run]:
    """Oldest first, those that ended well."""
    done = (run for run in list_runs(session=session) if run.kind == RunKind.TRAIN and run.status == RunStatus.DONE)
    return sorted((run for run in done if run.round_id in ids), key=lambda run: run.id or 0)


def _narrowed(facts: Facts, about: Round) -> Facts:
    """What concerns this round alone."""
    (story,) = facts.stories
    mine = story.result.name if story.result is not None else ""
    near = {mine, facts.parent_of(story), facts.base.name}
    own = [gain for gain in facts.gains.rounds if gain.round == about.number]
    return replace(
        facts,
        matches=[match for match in facts.matches if match.checkpoint == mine],
        points={name: each for name, each in facts.points.items() if name in near},
        gains=Gains(facts.gains.pairs if own else {}, own, own[0] if own else facts.gains.all),
    )


def _answers(session: Session, facts: Facts) -> Answers | None:
    """Of what serves and the base; where the base serves, of the newest; of a round's checkpoint and its parent."""
    new, old = facts.serving, facts.base
    newest = facts.newest.result if facts.newest is not None else None
    if newest is not None and (facts.round is not None or new.id == old.id):
        new = newest
    if facts.round is not None and new.parent_id is not None:
        old = session.get_one(Checkpoint, new.parent_id)
    if new.id == old.id or (facts.round is not None and newest is None):
        return None
    texts = answers_of_both(session=session, checkpoint_id=new.id or 0, against_id=old.id or 0, count=SHOWN_ANSWERS)
    return Answers(new.name, old.name, texts) if texts else None
