"""What the Playground says: whose answer stands where, how far it is, and what became of a pair."""

from __future__ import annotations

from store.chat_tables import ExchangeStatus
from store.exchanges import SIDES, AskedPair, ReadExchange
from store.wording import counted

EMPTY = (
    "Chat with two checkpoints at once",
    "Write below: both are asked the same, from the same seed, and answer side by side. Here you see which is which. "
    "What they answer can be made a prompt and a pair to compare with one click.",
)
ONE_ALONE = "There is one checkpoint so far, so it answers twice: two draws of it, as in a round's pairs."
SWITCHED_OFF = "Chats are switched off for the worker: `chat_minutes` is 0 in `[worker]` of pairloop.toml."
CARD_IN_USE = (
    "A training has the graphics card to itself just now, so no chat is started. What you ask is written when the "
    "training is over."
)
HELD_OUT = (
    "Its prompt is held out, by its own hash or by that of a question which it begins with. So nothing is trained on "
    "this pair, and as it is picked by hand it does not count in held-out accuracy either: what people say of it is "
    "kept, and is on the Data page."
)
SHORT = 60  # characters of a message that stands for its exchange
_ORDINALS = {"a": "first draw", "b": "second draw"}


def titles(told: ReadExchange) -> list[str]:
    """Whose answers these are."""
    if told.names["a"] == told.names["b"]:
        return [f"{told.names[side]}, {_ORDINALS[side]}" for side in SIDES]
    return [told.names[side] for side in SIDES]


def notes(told: ReadExchange) -> list[str]:
    """What stands below each answer."""
    return [_note(told, side) for side in SIDES]


def _note(told: ReadExchange, side: str) -> str:
    if told.is_open:
        return "…"
    made = told.exchange.made.get(side)
    if made is None:
        return {ExchangeStatus.DONE: "It wrote nothing, however often it was asked."}.get(
            ExchangeStatus(told.exchange.status), "Not written to its end."
        )
    cut = f", cut at {counted(told.exchange.settings['max_new_tokens'], 'token')}"
    length = counted(made["tokens"], "token") + cut * (made["finish_reason"] == "length")
    return str(length + ". It says who wrote it." * bool(made["names_maker"]))


def progress_words(told: ReadExchange, *, written: bool) -> str:
    """How far an exchange is that is not over. `written`: a worker is there."""
    if told.exchange.stop_requested:
        return "Stopping."
    if not written:
        return "It is written from its start once a worker is there."
    if told.exchange.status == ExchangeStatus.WAITING and told.before:
        are = "is" if told.before == 1 else "are"
        return f"{counted(told.before, 'exchange')} {are} before this one. They are written one after the other."
    if told.exchange.status == ExchangeStatus.WAITING:
        return "Waiting for the worker's chat process: the first answer takes it some seconds."
    return "Writing." if any(told.texts.values()) else "Loading the checkpoints."


def law_words(told: ReadExchange) -> str:
    """What the answers follow from, so that they can be written again."""
    law = told.exchange.settings
    return (
        f"Seed {told.exchange.seed} · temperature {law['temperature']:g} · top_p {law['top_p']:g} · "
        f"at most {counted(law['max_new_tokens'], 'token')}"
    )


def going_on(told: ReadExchange) -> dict[str, str]:
    """From where the next message can go on, and what that is called."""
    if told.texts["a"] == told.texts["b"] != "":
        found = {"a": "both answers, which are the same"}
    else:
        found = {side: title for side, title in zip(SIDES, titles(told), strict=True) if told.texts[side]}
    return found | {"": "nothing: a new conversation"}


def pair_words(told: ReadExchange) -> str:
    """What became of an exchange that was made a pair."""
    held_out = f" {HELD_OUT}" * told.held_out
    if told.pair is None:
        return f"It is kept. No round compares just now: the next one asks this pair before all others.{held_out}"
    return f"{_standing_words(told.pair)}{held_out}"


def _standing_words(pair: AskedPair) -> str:
    """Where the pair stands, and who is asked while anybody is."""
    came = f"{counted(pair.answers, 'answer')} came"
    if not pair.wants:
        return f"The pair was asked in round {pair.round}: {came}, and it wants no more."
    if pair.goes_on:
        ended = f"Round {pair.round} ended before anybody answered"
        return f"{ended}: the next one asks this pair before all others. {_who(pair)}"
    if pair.is_over:
        skipped = f" and {counted(pair.skips, 'skip')}" * bool(pair.skips)
        return f"The pair was asked in round {pair.round}: {came}{skipped}. That round is over, so it is asked no more."
    so_far = f" So far {came}." * bool(pair.answers)
    return f"Round {pair.round} asks this pair before all others.{so_far} {_who(pair)}"


def _who(pair: AskedPair) -> str:
    if pair.kept:
        return "You have seen which checkpoint wrote what, so it is asked of others and not of you."
    return "Nobody else could be asked, so you are asked yourself; you know already which checkpoint wrote what."


def short(messages: list[dict[str, str]]) -> str:
    """An exchange's last message, as its name in a list."""
    text = " ".join(messages[-1]["content"].split())
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
