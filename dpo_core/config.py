"""Every setting, validated once and read from pairloop.toml. Importable without torch.

The file that `pairloop init` writes is rendered from these classes, comments included (rendered_settings.py): what a
setting means is said here and nowhere else. Names are TRL's own where TRL has the setting.
"""

from __future__ import annotations

import difflib
import shlex
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dpo_core.errors import SettingsError

FILE_NAME = "pairloop.toml"


class Section(BaseModel):
    """One [section] of pairloop.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSettings(Section):
    """The model that everything starts from."""

    base: str = Field(
        "", description="A Hugging Face causal LM: a folder (relative to this file or absolute) or an id."
    )
    tuning: Literal["full", "lora"] = Field("full", description='"full" trains all weights, "lora" an adapter.')
    lora_r: int = Field(16, ge=1, description="Rank of the adapter (lora only).")
    lora_alpha: int = Field(32, ge=1, description="Scale of the adapter (lora only).")
    lora_target_modules: str = Field("all-linear", description="Which layers get the adapter, as peft names them.")


class RoundSettings(Section):
    """How much is asked in one round."""

    comparisons: int = Field(40, ge=2, description="Comparisons a round asks for before it can be trained on.")
    comparisons_per_pair: int = Field(1, ge=1, description="How many annotators judge a pair; see overlap below.")
    completions_per_prompt: int = Field(
        2, ge=2, le=6, description="2: pairs to compare; 3 to 6: so many completions, to be ranked on one screen."
    )
    spare_pairs: float = Field(0.25, ge=0, le=2, description="Pairs beyond the target, as a share, for skips.")
    held_out_share: float = Field(
        0.2, ge=0, le=0.9, description="Share of prompts never trained on, to judge with. Fixed when prompts come in."
    )


class SelectionSettings(Section):
    """Which two of a prompt's completions are asked about. The others are kept, and asked of nobody."""

    candidates: int = Field(
        2, ge=2, le=16, description="Completions written for each prompt, to choose two from; 2: nothing is chosen."
    )
    by: Literal["random", "near", "far", "diverse", "mixed"] = Field(
        "random", description='"near" or "far" in implicit reward, "diverse" texts, "mixed": these in turn; "random".'
    )
    random_share: float = Field(
        0.25, ge=0, lt=1, description="Share of prompts whose pair is not chosen, to measure what choosing gains."
    )

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose from."""
        return self.candidates > 2

    @model_validator(mode="after")
    def can_be_measured(self) -> SelectionSettings:
        """Refuse a rule that has nothing to choose from, and one whose gain nobody could tell."""
        if self.by != "random" and not self.chooses:
            raise ValueError(f'by = "{self.by}" has nothing to choose from while candidates is 2: set it to 4, say')
        if self.chooses and not self.random_share:
            raise ValueError("random_share must be above 0: without pairs left to chance nobody can tell the gain")
        return self


class LabelSettings(Section):
    """What annotators can say about a pair, and what they see of it. The Settings page changes these."""

    strengths: bool = Field(
        True, description="Three strengths for each side (keys 1 to 7); false: one, with the arrow keys."
    )
    criteria: list[str] = Field([], description='Which is better in each of these: ["helpful", "harmless", "tone"].')
    tags: list[str] = Field([], description='Quick reasons for a verdict: ["more correct", "clearer"].')
    reason: bool = Field(False, description="Whether a reason can be written out.")
    flags: list[str] = Field([], description='What may be wrong with one: ["unsafe", "personal data", "broken"].')
    rewrite: bool = Field(False, description="Whether a completion can be bettered: a preference over the original.")
    skip_reasons: list[str] = Field(
        ["Cannot tell", "Outside what I know", "Something is broken"], description="Why a pair is skipped; []: unasked."
    )
    lengths: bool = Field(False, description="Show how long each completion is. Most people then prefer longer ones.")
    daily_goal: int = Field(0, ge=0, description="Comparisons (or rankings) a day to aim for; 0: no goal.")

    @field_validator("criteria", "tags", "flags", "skip_reasons")
    @classmethod
    def short_and_different(cls, names: list[str]) -> list[str]:
        """Refuse names that could not be told apart on the page."""
        if any(not name.strip() or len(name) > 40 for name in names):
            raise ValueError("each needs 1 to 40 characters")
        if len(set(names)) < len(names) or len(names) > 9:
            raise ValueError("at most nine, all different")
        return names


class QueueSettings(Section):
    """Who is asked what: pairs for several annotators, and what is mixed in to measure people (never trained on)."""

    overlap: float = Field(
        1.0, ge=0, le=1, description="Share of pairs that comparisons_per_pair annotators judge; the others: one."
    )
    hold_minutes: float = Field(3, gt=0, description="How long a pair waits for whoever has it on screen.")
    gold: float = Field(0.0, ge=0, le=0.5, description="Share of gold pairs (`pairloop import FILE --gold`) in it.")
    repeats: float = Field(
        0.0, ge=0, le=0.5, description="Share of pairs that the same person judged before, sides swapped."
    )
    repeat_after: int = Field(20, ge=1, description="Pairs that somebody judges before one of theirs is repeated.")
    second_looks: int = Field(
        0,
        ge=0,
        description="Comparisons asked again, blind, after a training: those its checkpoint finds most unlikely.",
    )
    calibration: int = Field(0, ge=0, description="Gold pairs shown to newcomers first, with the answer and its note.")
    daily_quota: int = Field(
        0, ge=0, description="Comparisons (or rankings) for one annotator in a day (UTC); 0: any number."
    )

    @model_validator(mode="after")
    def most_is_new(self) -> QueueSettings:
        """Refuse a queue that measures people more often than it asks them anything new."""
        if self.gold + self.repeats > 0.5:
            raise ValueError("gold and repeats together are at most 0.5: more than half of what is asked must be new")
        return self


class DuelSettings(Section):
    """Blind pairs of a new checkpoint and what it has to be better than, on held-out prompts (never trained on)."""

    against_parent: int = Field(60, ge=0, description="Duels with its parent, mixed into the queue after a training.")
    against_base: int = Field(10, ge=0, description="And with the base, where that is not the parent itself.")
    alpha: float = Field(
        0.05, gt=0, lt=1, description="Most false verdicts, in the long run, however often one looks at the figures."
    )


class GateSettings(Section):
    """What a checkpoint must show to be promoted. A person can promote it all the same, which is put on record."""

    win_rate: Literal["better", "not worse", "ignore"] = Field(
        "better",
        description='In duels with its parent: "better" (interval above 50%), "not worse" (not below it once all are '
        'judged, on 10 prompts or more: not shown to be worse), "ignore".',
    )
    held_out: Literal["not worse", "ignore"] = Field(
        "not worse", description='Accuracy on held-out comparisons: "not worse" than its parent\'s, beyond chance.'
    )
    alarms: Literal["none", "ignore"] = Field(
        "none", description='"none": its training gave rise to no alarm, but for the canary\'s.'
    )
    canary: float = Field(
        0.1, ge=0, description="Most rise of perplexity on the canary text over its parent's, as a share; 0: any."
    )
    checks: Literal["all", "ignore"] = Field("all", description='"all": every command of [evaluation] checks passed.')


class SamplingSettings(Section):
    """How a checkpoint writes completions."""

    temperature: float = Field(1.0, gt=0, le=5, description="Above 1: more variety; below: safer text.")
    top_p: float = Field(0.95, gt=0, le=1, description="Sample from the likeliest tokens that add up to this.")
    max_new_tokens: int = Field(200, ge=1, description="Longest completion, in tokens.")
    batch_size: int = Field(8, ge=1, description="Prompts written for at once, each with all its completions.")
    attempts: int = Field(4, ge=1, description="How often an empty or identical completion is drawn again.")
    seed: int = Field(0, ge=0, description="Every draw follows from it.")


Loss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
WHOLE = ("sft", "aot", "aot_unpaired")  # a batch's loss is not the mean of its pairs': it cannot be computed in parts
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # TRL ignores label_smoothing for the others


class TrainingSettings(Section):
    """How a checkpoint is trained. TRL's names; see the DPOConfig reference of TRL for each."""

    beta: float = Field(0.1, gt=0, description="How strongly the policy is held to the reference: higher is closer.")
    learning_rate: float = Field(5e-6, gt=0, description="5e-7 to 5e-6 for full weights of real LLMs, 1e-5 for LoRA.")
    num_train_epochs: float = Field(1, gt=0, description="Passes over the training pairs.")
    batch_size: int = Field(8, ge=1, description="Pairs in one optimizer step, per process.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Batches added up before each step.")
    pass_tokens: int = Field(
        4096,
        ge=1,
        description="Tokens computed at once; a larger batch takes several passes (sft, aot: none).",
    )
    max_length: int = Field(1024, ge=8, description="Prompt and completion together, in tokens; the rest is cut.")
    loss_type: list[Loss] = Field(
        ["sigmoid"], min_length=1, description='Losses of TRL\'s DPOConfig, added up: "sigmoid", "sft", "ipo", ...'
    )
    loss_weights: list[float] = Field([], description="A weight for each loss; empty: 1 each.")
    confidence: Literal["ignore", "agreement", "reliability"] = Field(
        "ignore",
        description='How far labels are believed: by "agreement" of votes or "reliability" of people (sigmoid loss).',
    )
    ties: Literal["ignore", "davidson", "rao_kupper"] = Field(
        "ignore", description='"davidson", "rao_kupper": train on ties too, towards equal rewards (sigmoid loss alone).'
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Share of flipped labels assumed (robust loss).")
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "linear", description="As transformers names it: linear, cosine, constant."
    )
    warmup_steps: float = Field(0.1, ge=0, description="Steps over which the rate rises; below 1: a share of them.")
    weight_decay: float = Field(0.0, ge=0, description="Pull of every weight towards zero.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are shortened to it.")
    prefix_sharing: bool = Field(
        True, description="Compute what chosen and rejected share once: the same results, several times faster."
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        "auto", description='Less memory for more time. "auto": only where the run would not fit without.'
    )
    bf16: Literal["auto"] | bool = Field(
        "auto", description='Compute in bfloat16 (weights stay float32). "auto": in long trainings, where faster.'
    )
    comparisons: Literal["all", "round"] = Field(
        "all", description='Train on "all" comparisons (imports too), or on the "round" and others of its parent.'
    )
    min_agreement: float = Field(
        0.5, ge=0, le=1, description="Least share of a pair's votes, ties among them, for its majority."
    )
    save_steps: int = Field(20, ge=1, description="Steps between the points a killed run resumes from.")
    drift_samples: int = Field(
        16, ge=0, description="Prompts answered by parent and checkpoint, to tell whether lengths drift; 0: none."
    )
    seed: int = Field(0, ge=0, description="Order of the pairs and every other draw.")

    @property
    def in_passes(self) -> bool:
        """Whether a batch of many tokens is computed in parts, where one process trains."""
        return self.prefix_sharing and not set(self.loss_type) & set(WHOLE)

    @property
    def in_bf16(self) -> bool:
        """Whether to compute in bfloat16; not while that is undecided."""
        return self.bf16 is True

    @model_validator(mode="after")
    def smoothing_is_used(self) -> TrainingSettings:
        """Refuse a label_smoothing that would silently do nothing, and a loss that cannot do without one."""
        if self.label_smoothing and not set(self.loss_type) & set(SMOOTHED):
            raise ValueError(f"label_smoothing does nothing with loss_type {self.loss_type}; use one of {SMOOTHED}")
        if "exo_pair" in self.loss_type and not self.label_smoothing:
            raise ValueError("loss_type exo_pair needs a label_smoothing above 0, such as 0.001")
        if self.confidence != "ignore" and "robust" in self.loss_type:
            raise ValueError(
                "loss_type robust knows one share of flipped labels for all pairs (label_smoothing): told for each, it "
                "would let doubtful labels count most. Use confidence with sigmoid, or robust without confidence"
            )
        if self.confidence != "ignore" and "sigmoid" not in self.loss_type:
            raise ValueError("confidence does nothing without loss_type sigmoid, whose expected loss it takes")
        if self.confidence != "ignore" and self.label_smoothing:
            raise ValueError("confidence says for each pair what label_smoothing says for all: use one of them")
        if self.ties != "ignore" and self.loss_type != ["sigmoid"]:  # which knows no label_smoothing either
            raise ValueError(f'ties = "{self.ties}" needs loss_type to be ["sigmoid"] and nothing else')
        if self.ties != "ignore" and self.confidence != "ignore":
            raise ValueError("confidence and ties both say what the loss makes of a pair's votes: use one of them")
        if self.loss_weights and len(self.loss_weights) != len(self.loss_type):
            raise ValueError("loss_weights needs one weight for each of loss_type")
        return self


class EvaluationSettings(Section):
    """What a new checkpoint is examined by, beside the held-out comparisons: whether it can do what it could."""

    canary: str = Field(
        "", description="A text (relative to this file) whose perplexity must not rise; empty: the one that ships."
    )
    checks: list[str] = Field(
        [],
        description='Commands run on each new checkpoint: ["python my_check.py {checkpoint}"]; exit status 0 passes.',
    )
    check_minutes: float = Field(10, gt=0, description="How long a check may take; after that it has failed.")

    @field_validator("checks")
    @classmethod
    def can_be_split(cls, commands: list[str]) -> list[str]:
        """Refuse commands that are none."""
        for command in commands:
            if not shlex.split(command):  # which raises ValueError for a quotation mark without its other half
                raise ValueError("a check is a command: this one is empty")
        return commands


class AutomaticSettings(Section):
    """Rounds that go on by themselves: the worker starts, trains and decides as soon as people have said enough."""

    on: bool = Field(False, description="The Loop page has a switch for it; what it does next is said there.")
    until_round: int = Field(0, ge=0, description="The last round that it starts; 0: it goes on.")
    most_duels: int = Field(
        100, ge=1, description="Duels after which a checkpoint that is not shown to be better is kept back."
    )


class WorkerSettings(Section):
    """The process that carries out runs."""

    launcher: str = Field(
        "",
        description='Put before a training, e.g. "accelerate launch --config_file pairloop:ddp"; empty: one process.',
    )
    threads: int = Field(0, ge=0, description="CPU threads for a run, all its processes; 0: one for each core.")
    niceness: int = Field(10, ge=0, le=19, description="How far a run steps back behind the app.")
    lease_seconds: float = Field(30, ge=2, description="How soon another worker takes over from one that died.")
    chat_minutes: float = Field(5, ge=0, description="Minutes that the Playground's models stay loaded; 0: no chats.")


class ServerSettings(Section):
    """Where the app listens."""

    address: str = Field("127.0.0.1", description="Only this machine; 0.0.0.0: every network, for people who log in.")
    port: int = Field(8501, ge=0, le=65535, description="0: any free one.")


class TeamSettings(Section):
    """Who may come in. `pairloop invite` lets somebody in; alone on this machine nobody needs to log in."""

    login: Literal["auto", "required"] = Field(
        "auto", description='"auto": once anybody has an account, or the app is not for this machine alone.'
    )
    login_days: int = Field(30, ge=1, le=365, description="Days after which everybody logs in again.")
    url: str = Field("", description="Where people reach the app, for links in invites; empty: told by [server].")


class StoreSettings(Section):
    """Where comparisons are kept."""

    url: str = Field("", description="A database URL; empty: pairloop.db beside this file.")


class Settings(Section):
    """All of pairloop.toml."""

    model: ModelSettings = ModelSettings()
    round: RoundSettings = RoundSettings()
    selection: SelectionSettings = SelectionSettings()
    label: LabelSettings = LabelSettings()
    queue: QueueSettings = QueueSettings()
    duels: DuelSettings = DuelSettings()
    gate: GateSettings = GateSettings()
    sampling: SamplingSettings = SamplingSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    automatic: AutomaticSettings = AutomaticSettings()
    worker: WorkerSettings = WorkerSettings()
    server: ServerSettings = ServerSettings()
    team: TeamSettings = TeamSettings()
    store: StoreSettings = StoreSettings()

    @model_validator(mode="after")
    def ranked_or_chosen(self) -> Settings:
        """Refuse to choose among completions that are all ranked."""
        if self.selection.chooses and self.round.completions_per_prompt > 2:
            raise ValueError(
                "selection.candidates above 2 chooses a pair, and round.completions_per_prompt above 2 has all of a "
                "prompt's completions ranked: leave one of them at 2"
            )
        return self


def load_settings(path: Path) -> Settings:
    """Read and check pairloop.toml. Raises SettingsError that names the file, the line or key, and the nearest key."""
    try:
        text = path.read_text(encoding="utf-8")
        return parse_settings(text, path)
    except FileNotFoundError:
        raise SettingsError(f"There is no {path}. `pairloop init` makes a workspace.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def parse_settings(text: str, path: Path) -> Settings:
    """Settings from the text of a pairloop.toml; `path` is named in errors. Raises SettingsError."""
    try:
        return Settings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise SettingsError(f"{path} has settings that cannot be used:\n{problem_words(error)}") from error


def problem_words(error: ValidationError) -> str:
    """What is wrong with settings, a line for each."""
    return "\n".join(f"  {_problem(item)}" for item in error.errors())


def _problem(item: Any) -> str:
    where = [str(part) for part in item["loc"]]
    if not where:  # of several sections: what they are need not be told again
        return str(item["msg"])
    if item["type"] != "extra_forbidden":
        return f"{'.'.join(where)}: {item['msg']} (it is {item['input']!r})"
    known = _keys_at(where[:-1])
    near = difflib.get_close_matches(where[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
    return f"{'.'.join(where)}: there is no such setting; {hint}"


def _keys_at(where: list[str]) -> list[str]:
    section: type[BaseModel] = Settings
    for part in where:
        annotation = section.model_fields[part].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        section = annotation
    return list(section.model_fields)
