"""A policy writes completions, in this process.

    sample_completions   prompts in, texts out: for runs, simulations and anybody else
    sample_round         a sample run: completions become pairs, a batch at a time, ready to be compared at once

A text follows from (seed, prompt, attempt) and from nothing else, so that a run that is killed and resumed makes the
pairs it would have made. Time to the first pair counts: nothing here imports trl, datasets or (full checkpoints) peft,
unless pairs are selected by reward.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, func, select
from transformers import PreTrainedModel

from dpo_core.config import SamplingSettings, SelectionSettings
from dpo_core.decoding import Law, OnStep, Row, continue_prompts
from dpo_core.errors import RunError
from dpo_core.policies import context_length, encode_prompt, stop_ids
from dpo_core.progress import RunProgress
from dpo_core.queueing import comparisons_wanted
from dpo_core.selection import BY_REWARD, Selected, select_pair
from dpo_core.workspace import Workspace
from dpo_core.writers import load_writers
from store.checkpoints import base_checkpoint, get_checkpoint
from store.database import reading, writing
from store.hashing import content_hash, text_hash
from store.models import Checkpoint, Completion, Pair, Round, RoundStatus, Run, SelectedBy
from store.pairs import NewCompletion, add_completion, add_pair
from store.prompts import Message, prompts_by_id
from store.rounds import set_round_status
from store.runs import check_run_held, finish_run
from store.slates import add_slate

log = logging.getLogger("pairloop")
FIRST_BATCH = 2  # prompts: whoever waits for the round sees a pair as soon as these are written
WINDOW = 4  # batches within which prompts are sorted by length; beyond it, pairs keep to the round's order


def sample_completions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[Message]],
    settings: SamplingSettings,
    *,
    per_prompt: int = 2,
    seed: int,
    on_step: OnStep | None = None,
) -> list[list[NewCompletion]]:
    """`per_prompt` different, non-empty completions of each prompt, in the prompts' order.

    An empty or repeated text is drawn again, `settings.attempts` times at most; a prompt whose texts stay the same has
    a shorter list than asked for. `on_step` is called after every token of a batch, with the tokens of what is being
    written, and may raise to stop. Raises ModelError, and RunError for a prompt that leaves no room for
    `max_new_tokens`.
    """
    # A PeftModel's layers sit inside the base model: the wrapper around it only hides what its forward accepts.
    model = model if isinstance(model, PreTrainedModel) else model.get_base_model()
    asked = [Asked(messages, encode_prompt(tokenizer, messages)) for messages in prompts]
    _check_room(model, asked, settings)
    writer = _Writer(model, tokenizer, settings, stop_ids(model, tokenizer), per_prompt, seed, on_step)
    written: list[list[NewCompletion]] = [[] for _ in asked]
    order = sorted(range(len(asked)), key=lambda index: len(asked[index].ids))
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        for index, completions in zip(batch, writer.write([asked[index] for index in batch]), strict=True):
            written[index] = completions
    return written


@dataclass(frozen=True)
class Asked:
    """A prompt and its tokens."""

    messages: Sequence[Message]
    ids: list[int]


def _check_room(model: Any, asked: Sequence[Asked], settings: SamplingSettings) -> None:
    room, longest = prompt_room(model, settings), max((len(entry.ids) for entry in asked), default=0)
    if room is not None and longest > room:
        raise RunError(_too_long(model, settings, f"A prompt has {longest} tokens"))


def prompt_room(model: Any, settings: SamplingSettings) -> int | None:
    """How many tokens a prompt may have; None where the model names no limit."""
    length = context_length(model.config)
    return None if length is None else length - settings.max_new_tokens


def _too_long(model: Any, settings: SamplingSettings, what: str) -> str:
    return (
        f"{what}, and the model has room for {context_length(model.config)}, {settings.max_new_tokens} of which are "
        "kept for the completion. Lower sampling.max_new_tokens in pairloop.toml, or ask shorter prompts."
    )


@dataclass(frozen=True)
class _Writer:
    model: Any
    tokenizer: Any
    settings: SamplingSettings
    stops: frozenset[int]
    per_prompt: int
    seed: int
    on_step: OnStep | None

    def write(self, asked: Sequence[Asked]) -> list[list[NewCompletion]]:
        """Completions of one batch of prompts; what comes out empty or twice is drawn again by itself."""
        found: list[list[NewCompletion]] = [[] for _ in asked]
        for attempt in range(self.settings.attempts + 1):
            lacking = [index for index, texts in enumerate(found) if len(texts) < self.per_prompt]
            if not lacking:
                break
            rows = [
                Row(place, self._row_seed(asked[index], attempt, number))
                for place, index in enumerate(lacking)
                for number in range(self.per_prompt - len(found[index]))
            ]
            for row, tokens in zip(rows, self._continue([asked[index].ids for index in lacking], rows), strict=True):
                self._keep(found[lacking[row.prompt]], row, tokens)
        return found

    def _row_seed(self, asked: Asked, attempt: int, number: int) -> int:
        named = f"{self.seed}:{content_hash(list(asked.messages))}:{attempt}:{number}"
        return int(text_hash(named)[:12], 16)

    def _continue(self, prompts: Sequence[Sequence[int]], rows: Sequence[Row]) -> list[list[int]]:
        law = Law(self.settings.temperature, self.settings.top_p, self.settings.max_new_tokens, self.stops)
        pad = self.tokenizer.pad_token_id
        return continue_prompts(self.model, prompts, rows, law, pad_id=pad, on_step=self.on_step)

    def _keep(self, found: list[NewCompletion], row: Row, tokens: list[int]) -> None:
        ended = tokens[-1] in self.stops
        text = decoded(self.tokenizer, tokens[:-1] if ended else tokens)
        if not text or any(text == other.text for other in found):
            return
        law = self.settings.model_dump(include={"temperature", "top_p", "max_new_tokens"})
        reason = "eos" if ended else "length"
        named = names_maker(text)
        found.append(
            NewCompletion(
                text, seed=row.seed, settings=law, tokens=len(tokens), finish_reason=reason, names_maker=named
            )
        )


_MAKERS = (
    "ChatGPT|GPT|OpenAI|Claude|Anthropic|Gemini|Gemma|DeepMind|Bard|Llama|Mistral|Mixtral|Qwen|Tongyi|Alibaba|DeepSeek|"
    "Phi|SmolLM|Hugging ?Face|Grok|xAI|Cohere|Command R|Falcon|OLMo|Nemotron|Kimi|GLM"
)
_SAYS_WHO = re.compile(
    r"\b(?:(?i:I am|I'm|my name is|call me|(?:made|built|created|trained|developed) by)\s+(?:\w+\s+){0,3}?|[Aa]s\s+)"
    rf"(?:{_MAKERS})\b"
)
_OUR_NAMES = re.compile(r"\bround-\d+\b")


def names_maker(text: str) -> bool:
    """Whether a completion says which model wrote it ("I am Qwen", "trained by OpenAI"), so far as words tell."""
    return bool(_SAYS_WHO.search(text) or _OUR_NAMES.search(text))


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of a completion's tokens."""
    # NUL is a character PostgreSQL cannot keep; U+FFFD at the end is a letter that was cut in two by the length.
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.replace("\x00", "").rstrip("\ufffd").strip()


@dataclass(frozen=True)
class _Question:
    """A prompt of the run that has no pair yet, and its pair's place in the queue."""

    prompt_id: int
    position: int
    messages: list[Message]
    held_out: bool


@dataclass
class _Tally:
    """What this attempt at the run has done."""

    handled: int = 0
    identical: int = 0
    long: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def sample_round(workspace: Workspace, run: Run, progress: RunProgress) -> None:
    """Carry out a sample run: write two completions of each of its prompts and queue them as pairs.

    Three or more, where the run asks for so many, are queued as a slate, to be ranked together; or two of them are
    selected (selection.py), and the others only kept.
    Every batch is one transaction, so that a run that stops leaves whole pairs, and goes on after them when resumed.
    Ends with the round open for comparing. Raises RunError where no pair could be made, ModelError, RunCancelled,
    LostRunError.
    """
    questions = _open_questions(workspace, run)
    total = len(run.settings["prompt_ids"])
    tally = _Tally(handled=total - len(questions))
    # One phase only, loading included: a change of phase would pass for progress and hide a run that dies every time.
    progress.report("sample", tally.handled, total)
    if questions:
        _write_pairs(workspace, run, progress, questions, tally)
    _finish(workspace, run, tally)


def _open_questions(workspace: Workspace, run: Run) -> list[_Question]:
    with reading(workspace.engine) as session:
        done = set(session.exec(select(Completion.prompt_id).where(Completion.run_id == run.id)))
        ids = run.settings["prompt_ids"]
        prompts = prompts_by_id(session=session, ids=ids)
    first = run.settings["first_position"]
    return [
        _Question(prompt_id, first + place, prompts[prompt_id].messages, prompts[prompt_id].held_out)
        for place, prompt_id in enumerate(ids)
        if prompt_id not in done
    ]


def _write_pairs(
    workspace: Workspace, run: Run, progress: RunProgress, questions: Sequence[_Question], tally: _Tally
) -> None:
    settings = SamplingSettings.model_validate(run.settings["sampling"])
    (model, tokenizer), *base = load_writers(workspace, _in_memory(workspace, run))
    total = len(run.settings["prompt_ids"])
    lengths = {entry.prompt_id: len(encode_prompt(tokenizer, entry.messages)) for entry in questions}
    room = prompt_room(model, settings)
    fitting = [entry for entry in questions if room is None or lengths[entry.prompt_id] <= room]
    tally.long = len(questions) - len(fitting)
    tally.handled += tally.long
    if not fitting:
        raise RunError(
            _too_long(model, settings, f"Every prompt is too long: the shortest has {min(lengths.values())} tokens")
        )

    def on_step(_: object) -> None:  # a batch may take minutes: Cancel is heard at every token
        progress.report("sample", tally.handled, total)

    select = _selector(run, model, base[0][0] if base else None, tokenizer, on_step)
    for batch in _batches(fitting, lengths, settings.batch_size):
        prompts = [entry.messages for entry in batch]
        written = sample_completions(
            model, tokenizer, prompts, settings, per_prompt=_per_prompt(run), seed=settings.seed, on_step=on_step
        )
        selected = [select(entry, found) for entry, found in zip(batch, written, strict=True)]
        _save(workspace, run, batch, written, selected)
        _count(tally, written)
        progress.report("sample", tally.handled, total, {"tokens_per_second": round(tally.tokens / tally.seconds, 1)})


def _in_memory(workspace: Workspace, run: Run) -> list[Checkpoint]:
    """The checkpoint that writes; and the base, where pairs are selected by reward and it is not the base that writes.

    The base's own rewards are all 0.
    """
    with reading(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name=run.settings["checkpoint"])
        base = base_checkpoint(session=session)
    asked = run.settings.get("selection")
    by_reward = asked is not None and asked["rule"]["by"] in BY_REWARD and checkpoint.id != base.id
    return [checkpoint, base] if by_reward else [checkpoint]


Select = Callable[[_Question, Sequence[NewCompletion]], Selected | None]


def _selector(run: Run, model: Any, base: Any | None, tokenizer: Any, on_step: OnStep) -> Select:
    """What selects two of a prompt's completions; it selects nothing where the run does not choose.

    `base`: where they are selected by reward.
    """
    asked = run.settings.get("selection")
    if asked is None:
        return lambda entry, written: None
    settings, seed = SelectionSettings.model_validate(asked["rule"]), run.settings["sampling"]["seed"]
    rewards = None
    if base is not None:
        from dpo_core.candidate_rewards import CandidateRewards  # trl takes seconds to load

        rewards = CandidateRewards(model, base, tokenizer, asked["beta"])

    def select(entry: _Question, written: Sequence[NewCompletion]) -> Selected | None:
        if len(written) < 2:
            return None
        if entry.held_out:  # what judges a policy must not be selected by it
            return Selected((0, 1), SelectedBy.HELD_OUT, None)
        on_step(())
        texts = [new.text for new in written]
        known = None if rewards is None else rewards.of(entry.messages, texts)
        return select_pair(texts, settings=settings, named=f"{seed}:{content_hash(entry.messages)}", rewards=known)

    return select


def _batches(questions: Sequence[_Question], lengths: dict[int, int], size: int) -> Iterator[list[_Question]]:
    """A small batch first, then full ones, each of prompts of about one length from near each other in the queue."""
    first = min(FIRST_BATCH, size)
    yield list(questions[:first])
    for start in range(first, len(questions), WINDOW * size):
        window = sorted(questions[start : start + WINDOW * size], key=lambda entry: lengths[entry.prompt_id])
        # The batch with the window's first pair goes first: annotators take pairs in the queue's order.
        batches = [window[cut : cut + size] for cut in range(0, len(window), size)]
        yield from sorted(batches, key=lambda batch: min(entry.position for entry in batch))


def _save(
    workspace: Workspace,
    run: Run,
    batch: Sequence[_Question],
    written: Sequence[Sequence[NewCompletion]],
    selected: Sequence[Selected | None],
) -> None:
    """Completions and pairs of one batch, all or none. Raises LostRunError where the run has another holder."""
    assert run.id is not None
    with writing(workspace.engine) as session:
        check_run_held(session=session, run_id=run.id, attempt=run.attempt)
        checkpoint = get_checkpoint(session=session, name=run.settings["checkpoint"])
        assert checkpoint.id is not None
        for entry, completions, found in zip(batch, written, selected, strict=True):
            if len(completions) > 1:  # fewer than were asked for can still be told apart
                _save_together(session, run, checkpoint.id, entry, completions, found)


def _per_prompt(run: Run) -> int:
    if "selection" in run.settings:
        return int(run.settings["selection"]["rule"]["candidates"])
    return int(run.settings.get("per_prompt", 2))


def _save_together(
    session: Session,
    run: Run,
    checkpoint_id: int,
    entry: _Question,
    completions: Sequence[NewCompletion],
    selected: Selected | None,
) -> None:
    saved = [
        add_completion(session=session, prompt_id=entry.prompt_id, new=new, checkpoint_id=checkpoint_id, run_id=run.id)
        for new in completions
    ]
    both = saved if selected is None else [saved[place] for place in selected.two]
    add = add_pair if len(both) == 2 else add_slate
    how: dict[str, Any] = {} if selected is None else {"selected_by": selected.by, "selected_margin": selected.margin}
    add(
        session=session,
        prompt_id=entry.prompt_id,
        completions=both,
        round_id=run.round_id,
        position=entry.position,
        wanted=comparisons_wanted(run.settings, both),
        **how,
    )


def _count(tally: _Tally, written: Sequence[Sequence[NewCompletion]]) -> None:
    tally.handled += len(written)
    tally.identical += sum(len(completions) < 2 for completions in written)
    tally.tokens += sum(new.tokens or 0 for completions in written for new in completions)


def _finish(workspace: Workspace, run: Run, tally: _Tally) -> None:
    """Open the round for comparing and end the run, in one transaction. Raises RunError where there is no pair."""
    assert run.id is not None and run.round_id is not None
    with writing(workspace.engine) as session:
        check_run_held(session=session, run_id=run.id, attempt=run.attempt)
        pairs = _count_pairs_of(session, run)
        if not pairs:
            raise RunError(_no_pairs(tally))
        if session.get_one(Round, run.round_id).status == RoundStatus.SAMPLING:
            set_round_status(session=session, round_id=run.round_id, status=RoundStatus.COMPARING)
        result: dict[str, Any] = {
            "pairs": pairs,
            "skipped_identical": tally.identical,
            "skipped_long": tally.long,
            "tokens": tally.tokens,  # of this attempt, as are the seconds
            "seconds": round(tally.seconds, 1),
        }
        if "selection" in run.settings:
            result["selected"] = _count_selected(session, run)
        elif _per_prompt(run) > 2:
            result["prompts"] = len(set(session.exec(select(Completion.prompt_id).where(Completion.run_id == run.id))))
        finish_run(session=session, run_id=run.id, attempt=run.attempt, result=result)
    log.info("sample: %s", result)


def _count_pairs_of(session: Session, run: Run) -> int:
    of_run = select(func.count()).select_from(Pair).join(Completion, col(Completion.id) == Pair.completion_a_id)
    return session.exec(of_run.where(Completion.run_id == run.id)).one()


def _count_selected(session: Session, run: Run) -> dict[str, int]:
    """How many of the run's pairs were selected in which way."""
    of_run = select(Pair.selected_by, func.count()).join(Completion, col(Completion.id) == Pair.completion_a_id)
    rows = session.exec(of_run.where(Completion.run_id == run.id).group_by(col(Pair.selected_by)))
    return {how: count for how, count in sorted(rows, key=lambda row: -row[1]) if how}


def _no_pairs(tally: _Tally) -> str:
    long = f" {tally.long} more were too long for the model." if tally.long else ""
    return (
        f"No pair could be made: the completions of all {tally.identical} prompts were empty or identical, however "
        f"often they were drawn.{long} Raise sampling.temperature or sampling.attempts in pairloop.toml, and sample "
        "again."
    )
