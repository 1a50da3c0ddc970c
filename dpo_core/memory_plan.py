"""What a train run will need in memory, told from a model's description before anything is loaded. Knows no torch.

    read_shape    config.json and the weights' headers -> the few figures that memory follows from
    needs         those figures, the longest pairs and the settings -> bytes, part by part
    draw_plan     that beside the memory that is free: whether it fits, and what to change where it does not

The formulas are counted from the code that runs, not fitted: what transformers' layers, TRL's chunked head and torch's
AdamW keep. Two figures are measured, PROCESS and ADAPTED. Against the peaks of PairTrainer on a CPU (torch 2.13,
transformers 5.23, TRL 1.16; 7 to 97 million parameters; 400 to 4,000 tokens in a batch; full and LoRA, float32 and
bfloat16, with and without checkpointing) the estimate came to between 0.90 and 1.09 of what was measured. Two processes
of DDP (gloo, 76 million parameters) came to 0.95 of what both held together; FSDP and ZeRO on cards are not measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_core.base_model import Weights
from dpo_core.config import ModelSettings, TrainingSettings
from dpo_core.shares import ONE, WEIGHTS, Processes

MIB = 2**20
FLOAT = 4  # bytes: weights, gradients and the optimizer's two averages are float32, bf16 or not
# A run's process before any weights, and what of freed memory it does not give back; both measured. With torch,
# transformers, TRL and peft loaded it has some 550 MiB, after the first texts 620. The rest comes and goes with how the
# heap falls to pieces: trainings of the demo model differ by 160 MiB, and their plan came to 0.92 to 1.08 of the peak.
PROCESS = 704 * MIB
ADAPTED = 1.5  # activations with a LoRA adapter, over those without; measured
HEAD_TOKENS, HEAD_WORDS = 4096, 32768  # the tile in which TRL's chunked head makes logits
HEAD_TILES = 8.25  # how many such tiles its backward pass holds at once on a CPU, in float32 (_backward_tile)
JUDGED_TOKENS = 4096  # dpo_core.logps.BATCH_TOKENS, which cannot be imported without torch
JUDGED_TILES = 4  # the same of its forward pass (_forward_tile)
ROOM = 0.9  # the share of free memory that a plan may fill: the estimate is one, and other programs grow
PROBED = 8  # long pairs that tell how many letters a token has
_NOT_ADAPTED = re.compile(r"embed|wte|wpe|lm_head")  # peft's "all-linear" leaves the vocabulary alone
Texts = tuple[str, str, str]  # prompt, chosen, rejected


@dataclass(frozen=True)
class ModelShape:
    """The figures of a model that its memory follows from."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    attention: int  # heads times their width
    vocabulary: int
    linear: int  # elements of all matrices but those of the vocabulary
    sides: int  # rows and columns of those matrices, added up: an adapter of rank r has r times as many parameters
    context: int | None
    keys: int = 0  # heads of keys times their width: what one layer remembers of a token, and as much of values

    def trained(self, model: ModelSettings) -> int:
        """How many parameters take gradients."""
        return self.parameters if model.tuning == "full" else model.lora_r * self.sides


@dataclass(frozen=True)
class PairTokens:
    """A pair's lengths, in tokens."""

    prompt: int
    chosen: int
    rejected: int

    def cut(self, longest: int) -> PairTokens:
        """As training has it, where prompt and completion together are at most so long."""
        room = max(0, longest - self.prompt)
        return PairTokens(min(self.prompt, longest), min(self.chosen, room), min(self.rejected, room))

    @property
    def unique(self) -> int:
        """Tokens that are computed where the prompt is shared."""
        return self.prompt + self.completions

    @property
    def completions(self) -> int:
        """Tokens that are predicted."""
        return self.chosen + self.rejected

    @property
    def longer(self) -> int:
        """The longer of its two rows."""
        return self.prompt + max(self.chosen, self.rejected)


@dataclass(frozen=True)
class Work:
    """What is trained on: how many pairs, the longest of them first (as many as one batch), and the tokens of all.

    As `measure_texts` finds it, `longest` are cut where training cuts them.
    """

    pairs: int
    longest: tuple[PairTokens, ...]
    tokens: int
    written: int = 0  # tokens that are remembered at once when samples are written, prompts included


@dataclass(frozen=True)
class Needs:
    """A run's memory in bytes, part by part; of several processes, what each of them holds.

    Not all parts are there at once: gradients come as activations go. `total` is the highest of the moments, of all
    processes that share one memory.
    """

    process: int
    weights: int
    gradients: int
    optimizer: int
    exchange: int  # what goes to other processes or has come from them; nothing for one
    activations: int
    head: int
    judging: int  # beside process and weights, when reference log-probs and held-out pairs are computed
    writing: int  # beside process and weights, when parent and checkpoint answer the same prompts
    total: int


@dataclass(frozen=True)
class Change:
    """Something to change in pairloop.toml, and what the run would then need."""

    settings: str
    total: int
    fits: bool


@dataclass(frozen=True)
class MemoryPlan:
    """What a run needs, what the machine has free, and what to change where that is too little (`changes`).

    `training` are the settings it was drawn for, "auto" decided. `seconds` None: nothing like it has been run here yet.
    """

    needs: Needs
    available: int
    work: Work
    training: TrainingSettings
    changes: tuple[Change, ...] = ()
    seconds: float | None = None
    processes: Processes = ONE

    @property
    def total(self) -> int:
        """Bytes."""
        return self.needs.total

    @property
    def fits(self) -> bool:
        """Whether the run finds room on this machine as it is now."""
        return self.total <= ROOM * self.available


def read_shape(weights: Weights) -> ModelShape:
    """The figures of a model. Raises ValueError where its config.json does not say what every language model has."""
    config = weights.config
    config = config | (config.get("text_config") or config.get("llm_config") or {})
    hidden, heads = _said(config, "hidden_size", "n_embd", "d_model"), _said(config, "num_attention_heads", "n_head")
    width = _said(config, "head_dim", default=hidden // heads)
    matrices = [shape for name, shape in weights.shapes.items() if len(shape) == 2 and not _NOT_ADAPTED.search(name)]
    return ModelShape(
        parameters=sum(math.prod(shape) for shape in weights.shapes.values()),
        layers=_said(config, "num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        intermediate=_said(config, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
        attention=heads * width,
        vocabulary=_said(config, "vocab_size"),
        linear=sum(math.prod(shape) for shape in matrices),
        sides=sum(sum(shape) for shape in matrices),
        context=config.get("max_position_embeddings") or config.get("n_positions"),
        keys=_said(config, "num_key_value_heads", default=heads) * width,
    )


def _said(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    """The first of these that the config says: families have names of their own for the same thing."""
    found = [config[name] for name in names if isinstance(config.get(name), int) and config[name] > 0]
    if not found and default is None:
        raise ValueError(f"config.json says no {names[0]}")
    return int(found[0]) if found else int(default or 0)


def needs(
    shape: ModelShape, work: Work, training: TrainingSettings, model: ModelSettings, processes: Processes = ONE
) -> Needs:
    """What a run needs at most, with the longest pairs in one batch of each process."""
    if training.bf16 == "auto":  # decided when it starts: there has to be room for either
        either = [needs(shape, work, _with(training, bf16=bf16), model, processes) for bf16 in (False, True)]
        return max(either, key=lambda found: found.total)
    batch = [pair.cut(_room(training, shape.context)) for pair in work.longest[: training.batch_size]]
    training = _with(training, pass_tokens=_at_once(batch, training, processes))
    trained = shape.trained(model)
    whole = FLOAT * (shape.parameters + (trained if model.tuning == "lora" else 0))
    weights = processes.part("weights", whole)
    gradients = processes.part("gradients", FLOAT * trained)
    optimizer, exchange = processes.part("optimizer", 2 * FLOAT * trained), _exchange(shape, model, processes)
    activations, head = _activations(shape, batch, training, model), _head(shape, batch, training, model)
    judging, writing = _judging(shape, batch, work), 2 * FLOAT * shape.layers * shape.keys * work.written
    # The head's backward pass comes first, with all activations there and, of the gradients, only those of the batches
    # that were added up before. At the end all gradients are there, and no activations.
    split = sum(pair.unique for pair in batch) > training.pass_tokens
    kept = gradients if split or training.gradient_accumulation_steps > 1 else 0
    stepping = optimizer + exchange + max(gradients, kept + activations + head)
    # Judging and writing are the leader's, with the whole model: it is not split then.
    total = processes.at_once(PROCESS, weights + stepping, whole + max(judging, writing))
    return Needs(PROCESS, weights, gradients, optimizer, exchange, activations, head, judging, writing, total)


def _at_once(batch: Sequence[PairTokens], training: TrainingSettings, processes: Processes) -> int:
    """Tokens that go through the model together at most: as training splits batches (passes.py)."""
    if processes.count > 1 or not training.in_passes:
        return sum(pair.unique for pair in batch)
    return max([training.pass_tokens, *(pair.unique for pair in batch)])


def _exchange(shape: ModelShape, model: ModelSettings, processes: Processes) -> int:
    """What several processes hold to send each other.

    DDP's buckets are one more copy of all gradients (gradient_as_bucket_view, which would spare it, is off). Where
    gradients are split, those of two layers are whole: one is computed as the other is sent. Where weights are, so are
    those of two layers and of the vocabulary.
    """
    if processes.count == 1:
        return 0
    gradients = FLOAT * shape.trained(model)
    if "gradients" not in processes.split:
        return gradients
    weights = FLOAT * (shape.parameters - shape.linear + 2 * shape.linear // shape.layers)
    return 2 * gradients // shape.layers + (weights if "weights" in processes.split else 0)


def _room(training: TrainingSettings, context: int | None) -> int:
    """Tokens that prompt and completion may have together."""
    return min(training.max_length, context or training.max_length)


def _computed(batch: Sequence[PairTokens], training: TrainingSettings) -> int:
    """Tokens that go through the layers: each once, or two padded rows for each pair."""
    if training.prefix_sharing:
        return min(sum(pair.unique for pair in batch), training.pass_tokens)
    return 2 * len(batch) * max((pair.longer for pair in batch), default=0)


def _predicted(batch: Sequence[PairTokens], training: TrainingSettings) -> int:
    """Tokens that go through the head; without sharing, TRL's head on a CPU takes every position."""
    computed = _computed(batch, training)
    return min(sum(pair.completions for pair in batch), computed) if training.prefix_sharing else computed


def _activations(
    shape: ModelShape, batch: Sequence[PairTokens], training: TrainingSettings, model: ModelSettings
) -> int:
    """What the layers keep for the backward pass; with checkpointing, each layer's input and one layer's insides."""
    tokens = _computed(batch, training)
    layer = _kept_in_layer(shape, training.in_bf16) * tokens * (ADAPTED if model.tuning == "lora" else 1)
    everything = shape.layers * layer
    if training.gradient_checkpointing is True:
        everything = min(everything, layer + shape.layers * FLOAT * shape.hidden * tokens)
    # autocast keeps a bfloat16 copy of every matrix from the forward pass to the end of the backward pass
    return int(everything) + (2 * shape.linear if training.in_bf16 else 0)


def _kept_in_layer(shape: ModelShape, bf16: bool) -> int:
    """Bytes that one layer keeps for one token.

    hidden: for each of its two norms what goes in, that normalized, and what comes out. attention: queries, keys,
    values, what they come to, that laid out anew, and keys and values again beside the second completion.
    intermediate: gate, activated gate, up, and their product. Under autocast norms stay in float32, the rest is half.
    """
    if bf16:
        return 2 * (4 + 4 + 2) * shape.hidden + 7 * 2 * shape.attention + 4 * 2 * shape.intermediate
    return FLOAT * (6 * shape.hidden + 7 * shape.attention + 4 * shape.intermediate)


def _head(shape: ModelShape, batch: Sequence[PairTokens], training: TrainingSettings, model: ModelSettings) -> int:
    """The logits of one tile as often as TRL's backward pass has them, and the gradient of the head itself."""
    tiles = _tile(shape, _predicted(batch, training)) * HEAD_TILES
    return int(tiles) + (FLOAT * shape.vocabulary * shape.hidden if model.tuning == "full" else 0)


def _tile(shape: ModelShape, predicted: float) -> float:
    return FLOAT * min(predicted, HEAD_TOKENS) * min(shape.vocabulary, HEAD_WORDS)


def _judging(shape: ModelShape, batch: Sequence[PairTokens], work: Work) -> int:
    """The pass without gradients over all pairs: one tile of the head, and one layer, of the largest batch."""
    tokens = max(min(JUDGED_TOKENS, work.tokens), max((pair.unique for pair in batch), default=0))
    unique = sum(pair.unique for pair in batch)
    predicted = tokens * sum(pair.completions for pair in batch) / unique if unique else 0
    return int(JUDGED_TILES * _tile(shape, predicted)) + _kept_in_layer(shape, bf16=False) * tokens


def draw_plan(
    shape: ModelShape,
    work: Work,
    training: TrainingSettings,
    model: ModelSettings,
    *,
    available: int,
    seconds: float | None = None,
    processes: Processes = ONE,
) -> MemoryPlan:
    """The plan of a run, with gradient_checkpointing decided: on only where memory asks for it."""

    def planned(training: TrainingSettings) -> MemoryPlan:
        needed = needs(shape, work, training, model, processes)
        return MemoryPlan(needed, available, work, training, seconds=seconds, processes=processes)

    if training.gradient_checkpointing == "auto":
        plan = planned(_with(training, gradient_checkpointing=False))
        plan = plan if plan.fits else planned(_with(training, gradient_checkpointing=True))
    else:
        plan = planned(training)
    if plan.fits:
        return plan
    return replace(plan, changes=_changes(shape, work, plan, model))


Settings = tuple[TrainingSettings, ModelSettings]


def _changes(shape: ModelShape, work: Work, plan: MemoryPlan, model: ModelSettings) -> tuple[Change, ...]:
    """What would make the run smaller, mildest first, each by itself; all of it together where none is enough."""

    def best(choices: list[tuple[str, Settings]]) -> tuple[Change, Settings]:
        """The mildest of these that fits, else the strongest."""
        totals = [(words, to, needs(shape, work, *to, plan.processes).total) for words, to in choices]
        rated = [(Change(words, total, total <= ROOM * plan.available), to) for words, to, total in totals]
        return next((each for each in rated if each[0].fits), rated[-1])

    alone = _other_launcher(shape, work, plan, model)
    together: list[Change] = []
    settings, total = (plan.training, model), plan.total
    in_passes = plan.processes.count == 1 and plan.training.in_passes
    smaller = _smaller_passes if in_passes else _smaller_batches
    for choices in (smaller, _checkpointing, _adapter, _shorter_texts):
        if found := choices(work, plan.training, model):
            alone += [change for change, _ in [best(found)] if change.total < plan.total]
            change, changed = best(choices(work, *settings))
            if change.total < total:  # beside the changes before it
                together.append(change)
                settings, total = changed, change.total
    if len(together) > 1 and not any(change.fits for change in alone):
        alone.append(Change(", ".join(each.settings for each in together), total, together[-1].fits))
    return tuple(alone)


def _other_launcher(shape: ModelShape, work: Work, plan: MemoryPlan, model: ModelSettings) -> list[Change]:
    """On a CPU one process does the same work in its own memory; on cards, more can be split between processes."""
    if plan.processes.count == 1:
        return []
    words, other = 'launcher = "", one process', ONE
    if plan.processes.on_cards:
        words, other = "launcher with --config_file pairloop:fsdp2", replace(plan.processes, split=WEIGHTS)
    total = needs(shape, work, plan.training, model, other).total
    return [Change(words, total, total <= ROOM * plan.available)] if total < plan.total else []


def _checkpointing(work: Work, training: TrainingSettings, model: ModelSettings) -> list[tuple[str, Settings]]:
    return [("gradient_checkpointing = true", (_with(training, gradient_checkpointing=True), model))]


def _smaller_passes(work: Work, training: TrainingSettings, model: ModelSettings) -> list[tuple[str, Settings]]:
    """Fewer tokens at once, with as many pairs to a step as before."""
    most = min(training.pass_tokens, sum(pair.unique for pair in work.longest[: training.batch_size]))
    budgets = [budget for budget in (2048, 1024, 512, 256) if budget < most]
    return [(f"pass_tokens = {budget}", (_with(training, pass_tokens=budget), model)) for budget in budgets]


def _smaller_batches(work: Work, training: TrainingSettings, model: ModelSettings) -> list[tuple[str, Settings]]:
    """Batches that divide the present one, with as many pairs to a step as before."""
    found = []
    for size in range(training.batch_size - 1, 0, -1):
        if training.batch_size % size == 0:
            steps = training.gradient_accumulation_steps * training.batch_size // size
            changed = _with(training, batch_size=size, gradient_accumulation_steps=steps)
            found.append((f"batch_size = {size} with gradient_accumulation_steps = {steps}", (changed, model)))
    return found


def _adapter(work: Work, training: TrainingSettings, model: ModelSettings) -> list[tuple[str, Settings]]:
    return [('tuning = "lora"', (training, model.model_copy(update={"tuning": "lora"})))]


def _shorter_texts(work: Work, training: TrainingSettings, model: ModelSettings) -> list[tuple[str, Settings]]:
    longest = min(training.max_length, max((pair.longer for pair in work.longest), default=0))
    lengths = [longest // part // 8 * 8 for part in (2, 4, 8)]
    changed = [(length, _with(training, max_length=length)) for length in lengths if length >= 32]
    return [(f"max_length = {length}", (settings, model)) for length, settings in changed]


def _with(training: TrainingSettings, **changes: Any) -> TrainingSettings:
    return training.model_copy(update=changes)


def measure_texts(
    rows: Sequence[Texts], count_tokens: Callable[[str], int], training: TrainingSettings, *, context: int | None = None
) -> Work:
    """What is trained on of the pairs, cut where training cuts: the longest counted in tokens, the rest by letters.

    `context`: how many tokens the model has positions for. Pairs whose prompts fill it are left out, as in training.
    """
    room = _room(training, context)
    kept = _with_room(rows, count_tokens, room)
    letters = sorted(kept, key=_letters, reverse=True)
    counted = letters[: training.batch_size]
    longest = [PairTokens(*(count_tokens(text) for text in row)) for row in counted]
    tokens = round(_rate(counted, longest) * sum(map(_letters, kept)))
    # By letters the longest may come in another order than by tokens; those that a smaller batch keeps are the first.
    cut = sorted((pair.cut(room) for pair in longest), key=lambda pair: pair.unique, reverse=True)
    return Work(len(kept), tuple(cut), tokens)


def _with_room(rows: Sequence[Texts], count_tokens: Callable[[str], int], room: int) -> list[Texts]:
    """Those whose prompts leave room for a completion. Only prompts of about that length are counted in tokens."""
    sample = sorted(rows, key=_letters, reverse=True)[:PROBED]
    rate = _rate(sample, [PairTokens(*(count_tokens(text) for text in row)) for row in sample])

    def fits(prompt: str) -> bool:
        guess = rate * len(prompt)
        return guess < room / 2 or (guess < 2 * room and count_tokens(prompt) < room)

    return [row for row in rows if fits(row[0])]


def _rate(rows: Sequence[Texts], counted: Sequence[PairTokens]) -> float:
    """Tokens for each letter."""
    return sum(pair.unique for pair in counted) / max(1, sum(map(_letters, rows)))


def _letters(row: Texts) -> int:
    return sum(map(len, row))
