r"""Rows of outside files -> prompts and preferences: what each public shape means in our words.

Prompts: `messages`; `prompt` (text or messages); `instruction` with or without `input`; `text` alone.
Preferences: `prompt` / `chosen` / `rejected` as TRL has them, text or messages; `chosen` / `rejected` alone, where the
prompt is what both begin with; HH-RLHF as published ("\n\nHuman: ... \n\nAssistant: ..." transcripts).
Gold pairs: preferences, with or without a `note` (or `explanation`).

A row that is malformed raises StoreError. A row that is well formed but says nothing to train on is `Unusable`.
Texts lose the white space around them, which is the format's; completions given as messages are kept to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from store.errors import ColumnsError, StoreError
from store.prompts import ROLES, Message, check_messages

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
NOTE_COLUMNS = ("note", "explanation")
PREFERENCE_COLUMNS = ("prompt", "chosen", "rejected")
PROMPT_COLUMNS = ("messages", "prompt", "instruction", "input", "text")


@dataclass(frozen=True)
class ReadPreference:
    """What a row says: of two completions of one prompt, which was chosen. `shape` names the format it had."""

    messages: list[Message]
    chosen: str
    rejected: str
    shape: str
    joined_turns: bool = False  # somebody's consecutive turns were made one


@dataclass(frozen=True)
class Unusable:
    """A row that is well formed, but nothing can be learned from; `reason` in a few words, to be counted."""

    reason: str


@dataclass(frozen=True)
class ReadGold:
    """A preference that is known to be right, and why, if the row says so."""

    preference: ReadPreference
    note: str | None


EMPTY_PROMPT = Unusable("empty prompt")
EMPTY_COMPLETION = Unusable("empty completion")
IDENTICAL = Unusable("identical completions")
NO_COMPLETION = Unusable("no assistant turn at the end")
NO_PROMPT = Unusable("no user turn before the completion")
DIVERGING = Unusable("conversations that differ before the last turn")


def read_prompt(values: dict[str, Any]) -> list[Message] | Unusable:
    """The prompt a row holds, as chat messages. Raises StoreError if it holds none."""
    found = _prompt_value(values)
    messages = _prompt_messages(found)
    if messages and messages[-1]["role"] == "user" and not messages[-1]["content"].strip():
        return EMPTY_PROMPT
    return check_messages(messages)


def _prompt_value(values: dict[str, Any]) -> Any:
    for name in ("messages", "prompt"):
        if name in values:
            return values[name]
    if "instruction" in values:
        parts = (values["instruction"], values.get("input", ""))
        return "\n\n".join(str(part) for part in parts if part)
    if list(values) == ["text"]:  # by no other name: a misspelled column, or one of answers, would come in as prompts
        return values["text"]
    expected = "expected a column `prompt`, `messages` or `instruction`, or `text` alone"
    raise ColumnsError(expected + found_instead(values, PROMPT_COLUMNS))


def _prompt_messages(value: Any) -> list[Message]:
    if isinstance(value, str):
        if _is_transcript(value):
            turns, _ = _transcript(value)
            return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns
        return [{"role": "user", "content": value}]
    return _messages(value, "the prompt")


def looks_like_preferences(columns: Iterable[str]) -> bool:
    """Whether columns of these names hold preferences, also where one of the names is misspelled."""
    lowered = [column.lower() for column in columns]
    return all(get_close_matches(name, lowered, n=1, cutoff=0.75) for name in ("chosen", "rejected")) or bool(
        {"chosen", "rejected"} & set(lowered)
    )


def read_preference(values: dict[str, Any]) -> ReadPreference | Unusable:
    """The preference a row holds. Raises StoreError if it holds none."""
    if "chosen" not in values or "rejected" not in values:
        expected = "expected columns `chosen` and `rejected`, with or without `prompt`"
        raise ColumnsError(expected + found_instead(values, PREFERENCE_COLUMNS))
    prompt, chosen, rejected = values.get("prompt"), values["chosen"], values["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _from_texts(prompt, chosen, rejected)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _from_messages(prompt, _messages(chosen, "`chosen`"), _messages(rejected, "`rejected`"))
    raise StoreError("`chosen` and `rejected` must both be text, or both be lists of messages")


def read_gold(values: dict[str, Any]) -> ReadGold | Unusable:
    """The preference a row holds, with its `note` or `explanation`. Raises StoreError if it holds none."""
    notes = [values[name] for name in NOTE_COLUMNS if values.get(name)]
    if any(not isinstance(note, str) for note in notes):
        raise StoreError("`note` must be text: what an annotator is told about this pair")
    read = read_preference({name: value for name, value in values.items() if name not in NOTE_COLUMNS})
    return read if isinstance(read, Unusable) else ReadGold(read, notes[0].strip() or None if notes else None)


def found_instead(values: dict[str, Any], wanted: Sequence[str]) -> str:
    """What a row has instead, and which name was probably meant: ", found `promt`. Is `promt` meant for `prompt`?"."""
    listed = ", ".join(f"`{name}`" for name in values) or "nothing"
    missing = [name for name in wanted if name not in values]
    for name in values:
        near = get_close_matches(name.lower().strip(), missing, n=1, cutoff=0.6) if name not in wanted else []
        if near:
            return f", found {listed}. Is `{name}` meant for `{near[0]}`?"
    return f", found {listed}"


def _messages(value: Any, what: str) -> list[Message]:
    """Messages with their role and content only. Raises StoreError unless that is what `value` holds."""
    if not isinstance(value, list):
        raise StoreError(f"{what} must be text or a list of messages, not {type(value).__name__}")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise StoreError(f'{what} must be text or a list of {{"role": ..., "content": "text"}} messages')
        if message.get("role") not in ROLES:
            raise StoreError(f"in {what}, a role must be one of {', '.join(ROLES)}, not {message.get('role')!r}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _from_texts(prompt: Any, chosen: str, rejected: str) -> ReadPreference | Unusable:
    if _is_transcript(chosen) and _is_transcript(rejected):
        return _from_transcripts(chosen, rejected)
    if prompt is None:
        stripped = all("\n\nAssistant:" in side and _is_transcript("\n\n" + side) for side in (chosen, rejected))
        return (_from_transcripts if stripped else _from_shared_beginning)(chosen, rejected)
    if isinstance(prompt, str) and _is_transcript(prompt) and prompt.rstrip().endswith("\n\nAssistant:"):
        return _from_transcripts(f"{prompt.rstrip()} {chosen}", f"{prompt.rstrip()} {rejected}")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _messages(prompt, "`prompt`")
    return _preference(messages, chosen.strip(), rejected.strip(), "prompt, chosen, rejected as text")


def _from_shared_beginning(chosen: str, rejected: str) -> ReadPreference | Unusable:
    if chosen.strip() == rejected.strip():
        return IDENTICAL
    differing = (at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    shared = chosen[: next(differing, min(len(chosen), len(rejected)))]
    # Not inside a word: "2 + 2 = 13" and "2 + 2 = 14" share the digit 1, which belongs to the answers.
    cut = max((at + 1 for at, letter in enumerate(shared) if letter.isspace()), default=0)
    if not shared[:cut].strip():
        raise StoreError("`chosen` and `rejected` share no beginning that could be the prompt: add a column `prompt`")
    messages = [{"role": "user", "content": shared[:cut]}]
    return _preference(messages, chosen[cut:].strip(), rejected[cut:].strip(), "chosen, rejected as text")


def _from_messages(prompt: Any, chosen: list[Message], rejected: list[Message]) -> ReadPreference | Unusable:
    if prompt is None:
        return _last_turns(chosen, rejected, "chosen, rejected as messages")
    asked = _prompt_messages(prompt)
    shape = "prompt, chosen, rejected as messages"
    # UltraFeedback and its kind give the prompt and repeat it at the start of both conversations.
    if all(side and side[0]["role"] != "assistant" for side in (chosen, rejected)):
        return _last_turns(chosen, rejected, shape)
    return _last_turns(asked + chosen, asked + rejected, shape)


def _is_transcript(text: str) -> bool:
    return _TURN.match(text) is not None


def _transcript(text: str) -> tuple[list[Message], bool]:
    """The turns of an HH-RLHF transcript, and whether some were joined.

    Empty turns on the way are left out and consecutive turns of one speaker joined, since chat templates insist on
    turns that alternate. (In HH-RLHF they come from a model that went on and wrote "Assistant:" itself.)
    """
    pieces = _TURN.split("\n\n" + text.strip())[1:]
    turns: list[Message] = []
    joined = False
    for at in range(0, len(pieces), 2):
        role, content = _SPEAKERS[pieces[at]], pieces[at + 1].strip()
        if not content and at + 2 < len(pieces):
            continue
        if turns and turns[-1]["role"] == role:
            joined = True
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{content}".strip()
        else:
            turns.append({"role": role, "content": content})
    return turns, joined


def _from_transcripts(chosen: str, rejected: str) -> ReadPreference | Unusable:
    chosen_turns, chosen_joined = _transcript(chosen)
    rejected_turns, rejected_joined = _transcript(rejected)
    joined = chosen_joined or rejected_joined
    return _last_turns(chosen_turns, rejected_turns, "HH-RLHF transcripts", joined_turns=joined)


def _last_turns(
    chosen: list[Message], rejected: list[Message], shape: str, *, joined_turns: bool = False
) -> ReadPreference | Unusable:
    """The preference between two conversations: their last turns are the completions, all before is the prompt.

    Conversations that part earlier were never compared as two answers to one prompt: taking their first differing
    turns would put words into the annotator's mouth, so such a row is left out and counted.
    """
    if not chosen or not rejected or chosen[-1]["role"] != "assistant" or rejected[-1]["role"] != "assistant":
        return NO_COMPLETION
    if chosen == rejected:
        return IDENTICAL
    if _stripped(chosen[:-1]) != _stripped(rejected[:-1]):
        return DIVERGING
    if len(chosen) == 1 or chosen[-2]["role"] != "user":
        return NO_PROMPT
    return _preference(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], shape, joined_turns=joined_turns)


def _stripped(messages: list[Message]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"].strip()) for message in messages]


def _preference(
    messages: list[Message], chosen: str, rejected: str, shape: str, *, joined_turns: bool = False
) -> ReadPreference | Unusable:
    if not chosen.strip() or not rejected.strip():
        return EMPTY_COMPLETION
    if chosen.strip() == rejected.strip():
        return IDENTICAL
    if messages and not messages[-1]["content"].strip():
        return EMPTY_PROMPT
    return ReadPreference(check_messages(messages), chosen, rejected, shape, joined_turns)
