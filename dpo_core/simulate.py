"""Annotators with a known taste, to measure how fast the loop learns.

They see what people see: pairs come from `next_pair`, verdicts go through `record_comparison`, rounds through `loop`.
Only here is the truth known: a taste is a plain function (prompt, completion) -> score, so the true win rate of a
checkpoint over the base can be sampled on fresh completions for prompts that are never trained on (truth.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlmodel import Session

from dpo_core.automatic import Act, read_plan
from dpo_core.carry_out import carry_out_here
from dpo_core.deciding import decide
from dpo_core.duels import more_duels
from dpo_core.errors import RunError
from dpo_core.gate import gate_to_pass
from dpo_core.loop import Step, read_loop, sample_more, start_round, start_training
from dpo_core.progress import Listener
from dpo_core.tastes import Taste
from dpo_core.truth import Shares, Truth, prompt_text
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.checkpoints import get_checkpoint
from store.comparisons import Choice, count_round, record_comparison
from store.database import reading, writing
from store.decisions import serving_checkpoint
from store.models import Checkpoint, Decision, Role, Round, Run, RunStatus
from store.pairs import ShownPair, next_pair
from store.prompts import Message
from store.rankings import record_ranking
from store.rounds import list_rounds
from store.slates import shown_slate


@dataclass(frozen=True)
class Persona:
    """A simulated annotator: judges by `taste`, sometimes at random (`noise`), sometimes just left (`left_bias`)."""

    taste: Taste
    noise: float = 0.0
    left_bias: float = 0.0

    def choose(self, shown: ShownPair, draw: random.Random) -> Choice:
        """A verdict on a pair. Equal scores are a tie; a noisy verdict is a coin toss."""
        if draw.random() < self.left_bias:
            return Choice.LEFT
        if draw.random() < self.noise:
            return draw.choice([Choice.LEFT, Choice.RIGHT])
        prompt = prompt_text(shown.messages)
        left, right = self.taste(prompt, shown.left), self.taste(prompt, shown.right)
        return Choice.TIE if left == right else Choice.LEFT if left > right else Choice.RIGHT

    def rank(self, messages: Sequence[Message], texts: Sequence[str], draw: random.Random) -> list[list[int]]:
        """Tiers of positions on the screen, the best first; equal scores share one. Noise and bias as for a pair."""
        if draw.random() < self.left_bias:
            return [[position] for position in range(len(texts))]
        if draw.random() < self.noise:
            return [[position] for position in draw.sample(range(len(texts)), len(texts))]
        prompt = prompt_text(messages)
        scores = [self.taste(prompt, text) for text in texts]
        best_first = sorted(set(scores), reverse=True)
        return [[position for position, score in enumerate(scores) if score == tier] for tier in best_first]

    def says(self, shares: Shares) -> float | None:
        """The win rate among decided duels that such annotators come to in the end, who toss a coin now and then."""
        at_random = 1 - (1 - self.left_bias) * (1 - self.noise)
        won, lost = ((1 - at_random) * share + at_random / 2 for share in (shares.won, shares.lost))
        return won / (won + lost) if won + lost else None


@dataclass(frozen=True)
class Measured:
    """What the simulated annotators' blind duels with the parent said, beside the truth.

    `truth`: the rate they would come to in the end (see `Persona.says`); `covered`: whether the interval holds it.
    """

    against: str
    duels: int
    rate: float | None
    interval: tuple[float, float]
    verdict: str
    truth: float | None

    @property
    def covered(self) -> bool | None:
        """Whether the interval holds the truth; None where there is nothing to tell."""
        return None if self.truth is None else self.interval[0] <= self.truth <= self.interval[1]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"covered": self.covered}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Measured:
        """What `as_dict` gave."""
        return cls(**{field.name: told[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class RoundReport:
    """What one simulated round came to.

    `checkpoint`: what it was trained to; `decision`: what became of that; `serving`: what serves then, which is what
    `win_rate` is about: over the base, by the taste itself, ties half, each held-out prompt counted alike. `duels`:
    from how many fresh duels; `interval` counts those of one prompt for what they are worth.
    `labels`: every verdict given so far, in all rounds, those on duels among them.
    """

    round: int
    checkpoint: str
    comparisons: int
    trained_on: int
    held_out_accuracy: float | None
    decision: str
    serving: str
    win_rate: float
    interval: tuple[float, float]
    duels: int
    labels: int
    measured: Measured | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"measured": self.measured.as_dict() if self.measured else None}


OnRound = Callable[[RoundReport], None]


def simulate(
    workspace: Workspace,
    *,
    rounds: int,
    comparisons: int,
    persona: Persona,
    seed: int,
    follow_gate: bool = False,
    listener: Listener | None = None,
    on_round: OnRound | None = None,
) -> list[RoundReport]:
    """Run the whole loop headless, promoting every checkpoint, and say after each round how good it truly is.

    `follow_gate`: promote only what the gate lets through, as automatic rounds do; while it is undecided more duels are
    written and judged, up to [automatic] most_duels. Everything that is drawn, completions and the order of training
    included, follows from `seed`.
    Raises RunError where a run fails.
    """
    workspace = _seeded(workspace, seed)
    draw = random.Random(seed)
    with writing(workspace.engine) as session:
        annotator = get_or_add_annotator(session=session, name="simulated", role=Role.SIMULATED)
    assert annotator.id is not None
    truth = Truth(workspace, persona.taste, seed)
    reports = []
    for _ in range(rounds):
        opened = start_round(workspace, by="simulate", comparisons=comparisons)
        _carry_out_next(workspace, listener)
        _compare(workspace, opened, annotator.id, persona, draw, listener)
        start_training(workspace, by="simulate")
        _carry_out_next(workspace, listener)
        judging = _Judging(workspace, opened, annotator.id, persona, draw, listener)
        judging.write_and_judge()
        while follow_gate and (plan := read_plan(workspace)).act == Act.WRITE_DUELS:
            more_duels(workspace, pairs=plan.count, by="simulate")
            judging.write_and_judge()
        measured = judging.measured(truth)
        decision = _decision(workspace) if follow_gate else Decision.PROMOTE
        decide(workspace, decision=decision, by="simulate", force=not follow_gate)
        reports.append(_report(workspace, opened, truth, measured, decision))
        if on_round is not None:
            on_round(reports[-1])
    return reports


def _seeded(workspace: Workspace, seed: int) -> Workspace:
    settings = workspace.settings
    return Workspace(
        workspace.folder,
        settings.model_copy(
            update={
                "sampling": settings.sampling.model_copy(update={"seed": settings.sampling.seed + 1_000_000 * seed}),
                "training": settings.training.model_copy(update={"seed": settings.training.seed + seed}),
            }
        ),
    )


def _carry_out_next(workspace: Workspace, listener: Listener | None) -> Run:
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None
    return _carry_out(workspace, run, listener)


def _carry_out(workspace: Workspace, run: Run, listener: Listener | None) -> Run:
    assert run.id is not None
    finished = carry_out_here(workspace, run.id, listener)
    if finished.status != RunStatus.DONE:
        raise RunError(f"Run {run.id} ({run.kind}) is {finished.status}: {finished.error}")
    return finished


def _compare(
    workspace: Workspace,
    opened: Round,
    annotator_id: int,
    persona: Persona,
    draw: random.Random,
    listener: Listener | None,
) -> None:
    """Judge pairs until the round has what it asked for; ask for more pairs when they run out."""
    assert opened.id is not None
    while True:
        with writing(workspace.engine) as session:
            state = read_loop(session=session)
            if state.step == Step.TRAIN:
                return
            shown = next_pair(session=session, round_id=opened.id, annotator_id=annotator_id)
            if shown is not None:
                _judge(session, shown, annotator_id, persona, draw)
        if shown is None:
            missing = opened.target - state.comparisons["done"]
            _carry_out(workspace, sample_more(workspace, pairs=missing, by="simulate"), listener)


@dataclass(frozen=True)
class _Judging:
    """The blind duels of a round's new checkpoint, and who judges them."""

    workspace: Workspace
    opened: Round
    annotator_id: int
    persona: Persona
    draw: random.Random
    listener: Listener | None

    def write_and_judge(self) -> None:
        """Have the duels written that were asked for, if any were, and judge them all."""
        with reading(self.workspace.engine) as session:
            run = read_loop(session=session).open_run
        if run is None:
            return
        _carry_out(self.workspace, run, self.listener)
        assert self.opened.id is not None
        while True:
            with writing(self.workspace.engine) as session:
                gate = gate_to_pass(session, self.workspace)
                if gate is None or not gate.open_duels:
                    return
                shown = next_pair(session=session, round_id=self.opened.id, annotator_id=self.annotator_id)
                if shown is None:
                    return
                _judge(session, shown, self.annotator_id, self.persona, self.draw)

    def measured(self, truth: Truth) -> Measured | None:
        """What the duels with the parent said, beside the truth; None where there were none."""
        with reading(self.workspace.engine) as session:
            gate = gate_to_pass(session, self.workspace)
            if gate is None or not gate.matches or not gate.matches[0].counts.written:
                return None
            match = gate.matches[0]
            new, old = (get_checkpoint(session=session, name=name) for name in (match.checkpoint, match.against))
        found = match.win_rate
        return Measured(
            against=match.against,
            duels=found.won + found.lost + found.ties + found.both_bad,
            rate=found.rate,
            interval=found.interval,
            verdict=found.verdict,
            truth=self.persona.says(truth.shares(new, old)),
        )


def _decision(workspace: Workspace) -> Decision:
    """What the gate says by now. Raises RunError where it takes a person to say."""
    plan = read_plan(workspace)
    if plan.act not in (Act.PROMOTE, Act.KEEP):
        raise RunError(f"The gate decides nothing: {plan.why}")
    return Decision(plan.act.value)


def _judge(session: Session, shown: ShownPair, annotator_id: int, persona: Persona, draw: random.Random) -> None:
    if shown.slate_id is None:
        choice = persona.choose(shown, draw)
        record_comparison(session=session, pair_id=shown.pair_id, annotator_id=annotator_id, choice=choice)
        return
    slate = shown_slate(session=session, slate_id=shown.slate_id, annotator_id=annotator_id)
    tiers = persona.rank(shown.messages, slate.texts, draw)
    record_ranking(session=session, slate_id=slate.slate_id, annotator_id=annotator_id, tiers=tiers)


def _report(
    workspace: Workspace, opened: Round, truth: Truth, measured: Measured | None, decision: Decision
) -> RoundReport:
    with reading(workspace.engine) as session:
        serving = serving_checkpoint(session=session)
        trained = session.get_one(Checkpoint, session.get_one(Round, opened.id).result_checkpoint_id)
        counts = [count_round(session=session, round_id=entry.id or 0) for entry in list_rounds(session=session)]
    found = truth.win_rate(serving)
    assert found.value is not None and found.interval is not None
    return RoundReport(
        round=opened.number,
        checkpoint=trained.name,
        comparisons=opened.target,
        trained_on=trained.metrics["train"]["pairs"],
        held_out_accuracy=trained.metrics["eval"].get("accuracy_after"),
        decision=decision.value,
        serving=serving.name,
        win_rate=found.value,
        interval=found.interval,
        duels=found.count,
        labels=sum(count["total"] + count["duels"] for count in counts),
        measured=measured,
    )
