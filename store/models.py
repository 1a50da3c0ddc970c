"""The tables. Everything said, and everything needed to say where a model came from.

References go one way, so that rows can be written in order and the schema has no cycles:

    Prompt <- Completion <- Pair <- Comparison -> Annotator
    Snapshot <- Checkpoint <- Round <- Run;  Completion, Pair and PairReward point at those.
    Guidelines <- Comparison;  Annotator <- GuidelinesRead.
    Account, Invite, Login (access_tables.py) -> Annotator
    Slate, Ranking (ranking_tables.py): completions ranked together;  Pair -> Slate, Comparison -> Ranking
    Hold, QueueMark, RoundWork (queue_tables.py) -> Pair, Round, Annotator
    DecisionRecord (decision_tables.py) -> Checkpoint, Round
    Exchange (chat_tables.py) -> Checkpoint, Annotator, Prompt, Pair
    Refusal (refusals.py) -> Round

Rules that the database itself enforces: a pair has two different completions; an annotator has at most one current
verdict on a pair, and one current decision about it (a change of mind supersedes the row before, nothing is deleted);
one prompt text is one row.
SQLModel table classes do not validate on construction, so rows are made by this package's functions.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware datetimes in Python, UTC in the database: SQLite would otherwise hand back naive ones."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


class Role(StrEnum):
    """Who an annotator row stands for. A `source` is where imported comparisons came from."""

    ANNOTATOR = "annotator"
    RESEARCHER = "researcher"
    SIMULATED = "simulated"
    SOURCE = "source"


class Verdict(StrEnum):
    """What an annotator said about a pair, in terms of its completions, never of the sides they stood on."""

    A = "a"
    B = "b"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"


class Purpose(StrEnum):
    """Why a pair is asked. Only `train` pairs, and rewrites, on prompts that are not held out are trained on.

    A `rewrite` is an annotator's own text beside the completion that it betters; nobody is asked about it.
    `calibration` pairs are `gold` pairs whose answer is told at once.
    """

    TRAIN = "train"
    DUEL = "duel"
    GOLD = "gold"
    REPEAT = "repeat"
    REWRITE = "rewrite"
    CALIBRATION = "calibration"


class SelectedBy(StrEnum):
    """How the two completions of a pair were selected from several.

    Left to chance are a `slice` of the prompts, to compare with, and those `held_out`, by which checkpoints are judged.
    """

    SLICE = "slice"
    HELD_OUT = "held_out"
    RANDOM = "random"
    NEAR = "near"
    FAR = "far"
    DIVERSE = "diverse"


TRAINED_ON = (Purpose.TRAIN, Purpose.REWRITE)
COUNTED = (Purpose.TRAIN, Purpose.DUEL)  # what a round asks for; all else is asked beside it
MEASURING = (Purpose.GOLD, Purpose.REPEAT)  # mixed in with those, and told from them by nobody who compares


class RoundStatus(StrEnum):
    """Where a round stands. The first pairs are served while it is still `sampling` others."""

    SAMPLING = "sampling"
    COMPARING = "comparing"
    TRAINING = "training"
    DECIDING = "deciding"
    DONE = "done"


class Decision(StrEnum):
    """What became of a round's new checkpoint. To `roll_back` is decided later, when another served already."""

    PROMOTE = "promote"
    KEEP = "keep"
    ROLL_BACK = "roll_back"


class RunKind(StrEnum):
    """What a run does."""

    SAMPLE = "sample"
    TRAIN = "train"
    EVALUATE = "evaluate"
    DUEL = "duel"


class RunStatus(StrEnum):
    """Where a run stands. `queued` and `running` are open; the others are final until somebody retries."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


def _one_of(column: str, values: type[StrEnum]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _unique_where(name: str, *columns: str, where: str) -> sa.Index:
    return sa.Index(name, *columns, unique=True, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _json() -> Any:
    return Field(default_factory=dict, sa_type=sa.JSON, nullable=False)


def moment() -> Any:
    """A column for when something happened: now, unless said otherwise."""
    return Field(default_factory=now, sa_type=UtcDateTime, nullable=False)


def maybe_moment() -> Any:
    """A column for when something happened, if it has."""
    return Field(default=None, sa_type=UtcDateTime, nullable=True)


class Annotator(SQLModel, table=True):
    """Somebody (or some data set, or a simulation) whose comparisons are kept."""

    __table_args__ = (_one_of("role", Role),)
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, index=True, max_length=80)
    role: str = Role.ANNOTATOR
    active: bool = True
    retracted_at: datetime | None = maybe_moment()
    created_at: datetime = moment()


class ImportRecord(SQLModel, table=True):
    """One file that was imported, so that importing it again can change nothing."""

    __tablename__ = "import"
    id: int | None = Field(default=None, primary_key=True)
    kind: str
    file_name: str
    file_hash: str = Field(max_length=64)
    format: str
    counts: dict[str, Any] = _json()
    created_at: datetime = moment()
    __table_args__ = (sa.UniqueConstraint("file_hash", "kind", name="import_once"),)


class Prompt(SQLModel, table=True):
    """What a model is asked: chat messages that end with a user turn."""

    id: int | None = Field(default=None, primary_key=True)
    content_hash: str = Field(unique=True, max_length=64)
    messages: list[dict[str, str]] = Field(sa_type=sa.JSON, nullable=False)
    source: str
    import_id: int | None = Field(default=None, foreign_key="import.id")
    held_out: bool = Field(index=True)
    created_at: datetime = moment()


class Snapshot(SQLModel, table=True):
    """An immutable, content-hashed preference dataset on disk. `path` is relative to the workspace."""

    id: int | None = Field(default=None, primary_key=True)
    hash: str = Field(unique=True, max_length=64)
    path: str
    manifest: dict[str, Any] = _json()
    created_at: datetime = moment()


class Checkpoint(SQLModel, table=True):
    """Weights on disk plus their lineage. `path`: relative to the workspace, absolute, or a hub id (base only)."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=80)
    path: str
    kind: str = "full"
    parent_id: int | None = Field(default=None, foreign_key="checkpoint.id")
    snapshot_id: int | None = Field(default=None, foreign_key="snapshot.id")
    settings: dict[str, Any] = _json()
    metrics: dict[str, Any] = _json()
    code_version: str = ""
    verdict: str | None = None
    created_at: datetime = moment()
    __table_args__ = (sa.CheckConstraint("kind IN ('full', 'lora')", name="kind_known"),)


class Round(SQLModel, table=True):
    """Sample pairs, compare, snapshot, train, evaluate, decide.

    `target`: the comparisons it asks for to train on; `duels`: those it asks for on duels, which nothing is trained on.
    While it is paused (since `paused_at`) nobody is served a pair of it; what is on somebody's screen may be answered.
    """

    __table_args__ = (
        _one_of("status", RoundStatus),
        sa.CheckConstraint("target > 0", name="target_positive"),
    )
    id: int | None = Field(default=None, primary_key=True)
    number: int = Field(unique=True)
    checkpoint_id: int = Field(foreign_key="checkpoint.id")
    status: str = RoundStatus.SAMPLING
    target: int
    duels: int = 0
    snapshot_id: int | None = Field(default=None, foreign_key="snapshot.id")
    result_checkpoint_id: int | None = Field(default=None, foreign_key="checkpoint.id")
    decision: str | None = None
    decided_by: str | None = None
    decided_at: datetime | None = maybe_moment()
    paused_at: datetime | None = maybe_moment()
    created_at: datetime = moment()


class Run(SQLModel, table=True):
    """One background job. `attempt` is a fencing token: a worker that lost its lease cannot write any more."""

    __table_args__ = (_one_of("kind", RunKind), _one_of("status", RunStatus))
    id: int | None = Field(default=None, primary_key=True)
    kind: str
    status: str = Field(default=RunStatus.QUEUED, index=True)
    round_id: int | None = Field(default=None, foreign_key="round.id", index=True)
    checkpoint_id: int | None = Field(default=None, foreign_key="checkpoint.id")
    settings: dict[str, Any] = _json()
    progress: dict[str, Any] = _json()
    result: dict[str, Any] = _json()
    error: str | None = None
    requested_by: str = ""
    owner: str | None = None
    attempt: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    lease_expires_at: datetime | None = maybe_moment()
    created_at: datetime = moment()
    started_at: datetime | None = maybe_moment()
    finished_at: datetime | None = maybe_moment()


class Worker(SQLModel, table=True):
    """A process that carries out runs, and when it last said that it lives."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    doing: str = ""
    started_at: datetime = moment()
    seen_at: datetime = moment()


class Completion(SQLModel, table=True):
    """One text a policy wrote for a prompt, with what made it. Imported texts have no checkpoint."""

    id: int | None = Field(default=None, primary_key=True)
    prompt_id: int = Field(foreign_key="prompt.id", index=True)
    checkpoint_id: int | None = Field(default=None, foreign_key="checkpoint.id")
    run_id: int | None = Field(default=None, foreign_key="run.id", index=True)
    text: str
    text_hash: str = Field(max_length=64)
    seed: int | None = Field(default=None, sa_type=sa.BigInteger)
    settings: dict[str, Any] = _json()
    tokens: int | None = None
    finish_reason: str = "imported"
    names_maker: bool = False  # its text says what model wrote it, as far as sampling could tell
    rewrite_of: int | None = Field(default=None, foreign_key="completion.id")  # the completion that it betters
    annotator_id: int | None = Field(default=None, foreign_key="annotator.id")  # who wrote it, where a person did
    source: str = ""
    created_at: datetime = moment()
    __table_args__ = (
        # An imported text is the same completion wherever it comes up again; two samples may well be equal.
        _unique_where("completion_imported_once", "prompt_id", "text_hash", where="checkpoint_id IS NULL"),
    )


class Pair(SQLModel, table=True):
    """Two completions of one prompt, to be compared.

    `open_slots` is how many more comparisons the pair wants; it is recounted whenever one is written, in the same
    transaction, and keeps the queue's index as small as the work that is left. `Hold` rows keep more annotators than
    that from being shown it at once.

    `gold_verdict`: the known answer of a `gold` or `calibration` pair, with `note` saying why. These belong to no round
    and want no number of answers: each annotator judges each once at most. A `calibration` pair `repeats` the gold pair
    that it was made of. A `repeat` asks `asked_of` alone, in the same round, a second time about the pair that it
    `repeats`, with the completions the other way round and the same `side_seed`: so they stand on the other sides; one
    that wants an answer (`wanted` 1) is a second look, and may be asked of nobody in particular. A
    `rewrite` `repeats` the pair on which it was written.

    Pairs of a slate, whose completions are ranked together, have its `slate_id`. The first stands in the queue for all
    of them; each of the others `follows` it, and is never asked by itself.

    `selected_by` (a `SelectedBy`) and `selected_margin` are of pairs selected from more than two completions: the
    latter is the implicit reward of `a` less that of `b` under the checkpoint that wrote them, as it was then.
    """

    id: int | None = Field(default=None, primary_key=True)
    prompt_id: int = Field(foreign_key="prompt.id", index=True)
    completion_a_id: int = Field(foreign_key="completion.id")
    completion_b_id: int = Field(foreign_key="completion.id")
    round_id: int | None = Field(default=None, foreign_key="round.id", index=True)
    purpose: str = Purpose.TRAIN
    side_seed: int = Field(sa_type=sa.BigInteger)
    position: int = 0
    wanted: int = 1
    open_slots: int = 1
    gold_verdict: str | None = None
    note: str | None = None
    repeats: int | None = Field(default=None, foreign_key="pair.id")
    asked_of: int | None = Field(default=None, foreign_key="annotator.id")
    slate_id: int | None = Field(default=None, foreign_key="slate.id", index=True)
    follows: int | None = Field(default=None, foreign_key="pair.id")
    selected_by: str | None = None
    selected_margin: float | None = None
    created_at: datetime = moment()
    __table_args__ = (
        _one_of("purpose", Purpose),
        sa.CheckConstraint("completion_a_id <> completion_b_id", name="two_completions"),
        sa.CheckConstraint("gold_verdict IS NULL OR gold_verdict IN ('a', 'b', 'tie', 'both_bad')", name="gold_known"),
        _unique_where("pair_once", "completion_a_id", "completion_b_id", "purpose", where="asked_of IS NULL"),
        _unique_where("pair_repeated_once", "repeats", "asked_of", where="asked_of IS NOT NULL"),
        sa.Index(
            "pair_queue",
            "round_id",
            "position",
            "id",
            sqlite_where=sa.text("open_slots > 0"),
            postgresql_where=sa.text("open_slots > 0"),
        ),
        sa.Index(
            "pair_gold",
            "purpose",
            "id",
            sqlite_where=sa.text("gold_verdict IS NOT NULL"),
            postgresql_where=sa.text("gold_verdict IS NOT NULL"),
        ),
    )


class Guidelines(SQLModel, table=True):
    """What annotators are told to go by. The newest row is in force; a text that comes back is a row of its own."""

    id: int | None = Field(default=None, primary_key=True)
    hash: str = Field(max_length=64, index=True)
    text: str
    created_at: datetime = moment()


class GuidelinesRead(SQLModel, table=True):
    """Somebody has said that they read the guidelines of this hash."""

    __tablename__ = "guidelines_read"
    annotator_id: int = Field(primary_key=True, foreign_key="annotator.id")
    hash: str = Field(primary_key=True, max_length=64)
    created_at: datetime = moment()


class Comparison(SQLModel, table=True):
    """One annotator's verdict on a pair. `left_side` says which completion stood left (none for imports).

    `strength`: 1 slightly, 2 clearly, 3 much better. `criteria`: for each criterion "a", "b" or "tie". `flags`: what is
    wrong with "a" and with "b". `seconds`: how long the pair was looked at. A row that `adjudicates` is no
    verdict of its annotator's but a decision for the pair, whatever anybody said; it stands beside what they said
    themselves. `guidelines_id`: the guidelines in force at that moment. What came of a
    `ranking_id` has neither sides nor seconds of its own.
    """

    id: int | None = Field(default=None, primary_key=True)
    pair_id: int = Field(foreign_key="pair.id")
    annotator_id: int = Field(foreign_key="annotator.id")
    verdict: str
    strength: int | None = None
    reason: str | None = None
    tags: list[str] = Field(default_factory=list, sa_type=sa.JSON, nullable=False)
    criteria: dict[str, str] = _json()
    flags: dict[str, list[str]] = _json()
    adjudicates: bool = False
    seconds: float | None = None
    left_side: str | None = None
    guidelines_id: int | None = Field(default=None, foreign_key="guidelines.id")
    ranking_id: int | None = Field(default=None, foreign_key="ranking.id", index=True)
    created_at: datetime = moment()
    superseded_at: datetime | None = maybe_moment()
    __table_args__ = (
        _one_of("verdict", Verdict),
        sa.CheckConstraint("left_side IS NULL OR left_side IN ('a', 'b')", name="left_side_known"),
        sa.CheckConstraint("strength IS NULL OR strength BETWEEN 1 AND 3", name="strength_known"),
        _unique_where("comparison_current", "pair_id", "annotator_id", "adjudicates", where="superseded_at IS NULL"),
        sa.Index("comparison_by_annotator", "annotator_id", "id"),
    )


class PairReward(SQLModel, table=True):
    """What a checkpoint and its reference think of a compared pair: summed log-probs of both completions, in nats."""

    __tablename__ = "pair_reward"
    id: int | None = Field(default=None, primary_key=True)
    run_id: int = Field(foreign_key="run.id", index=True)
    checkpoint_id: int = Field(foreign_key="checkpoint.id")
    pair_id: int = Field(foreign_key="pair.id")
    split: str
    chosen_side: str
    logps_chosen: float
    logps_rejected: float
    ref_logps_chosen: float
    ref_logps_rejected: float
    reward_chosen: float
    reward_rejected: float
    margin: float
    length_chosen: int
    length_rejected: int
    __table_args__ = (sa.UniqueConstraint("run_id", "pair_id", "checkpoint_id", name="reward_once"),)
