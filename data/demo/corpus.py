"""Writes everyday-help conversations for the demo model, from a small grammar of our own.

A conversation is a question on one of the topics in `topics.txt` and an answer whose style is drawn without
looking at the question: tone, length, directness, structure, hedging, correctness, and whether it asks back. A model
trained on it therefore answers one prompt in many ways, which is what annotators compare.

A tone is kept up from the first word to the last, as people do, and begins in a way of its own ("Oh,", "Right,");
asking back begins with "Tell me". A model this small turns to a manner by its first words: with eight ways to begin
warmly, one round of 32 pairs raised the share of warm answers from 34% to 39% (mean of three seeds), with one way from
34% to 58%.

Left out on purpose: facts that matter (do not take its advice), long dialogues, refusals, system prompts.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import phrases

TOPICS_FILE = Path(__file__).with_name("topics.txt")
TONES = ("warm", "neutral", "brisk")
PREAMBLE = {"warm": 0.9, "neutral": 0.45, "brisk": 0.25}  # chance that words come before the advice
CLOSER = {"warm": 0.8, "neutral": 0.3, "brisk": 0.4}
STRUCTURES = ("prose", "prose", "bullets", "numbers")  # prose twice: half of the answers
HELD_BACK = 0.3  # share of each topic's phrasings that training never sees
TWO_TURNS = 0.12
MAX_WORDS = 90  # keeps an answer under 128 tokens

Message = dict[str, str]


@dataclass(frozen=True)
class Tip:
    """A piece of advice: `do` is an imperative clause, `why` a clause that gives the reason."""

    do: str
    why: str
    true: bool


@dataclass(frozen=True)
class Topic:
    """One subject of everyday life; `noun` is a gerund that names it."""

    noun: str
    goals: tuple[str, ...]
    problems: tuple[str, ...]
    questions: tuple[str, ...]
    tips: tuple[Tip, ...]

    def tips_that_are(self, true: bool) -> list[Tip]:
        return [tip for tip in self.tips if tip.true == true]


@dataclass(frozen=True)
class Style:
    """What a person notices about an answer; every field is drawn on its own."""

    tone: str
    tips: int
    detail: float  # chance that a tip comes with its reason
    preamble: bool
    structure: str
    hedged: bool
    wrong: bool  # one of the tips is bad advice
    closer: bool
    question: str  # where it asks back: "first", "last", as an "offer", or "" for nowhere


@dataclass(frozen=True)
class Conversation:
    """Messages in chat form, with the styles of the assistant's turns."""

    topic: Topic
    messages: tuple[Message, ...]
    styles: tuple[Style, ...]


def load_topics(path: Path = TOPICS_FILE) -> list[Topic]:
    """Read the topics: `#` name, `>` goal, `!` problem, `?` question back, `+` tip | why, `x` wrong tip | why."""
    blocks = path.read_text(encoding="utf-8").strip().split("\n\n")
    return [parse_topic(block.splitlines()) for block in blocks]


def parse_topic(lines: Sequence[str]) -> Topic:
    def marked(mark: str) -> tuple[str, ...]:
        return tuple(line[2:].strip() for line in lines if line.startswith(mark + " "))

    tips = [parse_tip(text, true=mark == "+") for mark in "+x" for text in marked(mark)]
    return Topic(marked("#")[0], marked(">"), marked("!"), marked("?"), tuple(tips))


def parse_tip(text: str, *, true: bool) -> Tip:
    do, why = (part.strip() for part in text.split("|"))
    return Tip(do, why, true)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def fill(template: str, **slots: str) -> str:
    """Fill `{name}` with the words and `{Name}` with the same words starting with a capital."""
    return template.format(**slots, **{name.capitalize(): capital(words) for name, words in slots.items()})


def questions_about(topic: Topic) -> tuple[list[str], list[str]]:
    """All phrasings of the topic's question: those for training and those held back, always split alike."""
    asked = [fill(frame, goal=goal) for goal in topic.goals for frame in phrases.GOAL_QUESTIONS]
    asked += [fill(frame, problem=text) for text in topic.problems for frame in phrases.PROBLEM_QUESTIONS]
    random.Random(f"held back: {topic.noun}").shuffle(asked)
    cut = round(len(asked) * HELD_BACK)
    return asked[cut:], asked[:cut]


def draw_style(rng: random.Random) -> Style:
    tone = rng.choice(TONES)
    structure = rng.choice(STRUCTURES)
    tips = rng.choice((1, 1, 2, 2, 3, 3, 4, 5) if structure == "prose" else (2, 3, 3, 4, 5))
    return Style(
        tone=tone,
        tips=tips,
        detail=rng.choice((0.0, 0.5, 1.0)),
        preamble=rng.random() < PREAMBLE[tone],
        structure=structure,
        hedged=rng.random() < 0.35,
        wrong=rng.random() < 0.3,
        closer=rng.random() < CLOSER[tone],
        question=rng.choice(("first", "last", "last", "offer", "", "", "", "", "")),
    )


def draw_tips(topic: Topic, style: Style, rng: random.Random, said: str) -> list[Tip]:
    """As many tips as the style asks for, none that `said` (the answer before) already gave."""
    true = [tip for tip in topic.tips_that_are(True) if tip.do not in said.lower()]
    tips = rng.sample(true, min(style.tips, len(true)))
    if style.wrong:
        tips[rng.randrange(len(tips))] = rng.choice(topic.tips_that_are(False))
    return tips


def advise(tips: Sequence[Tip], style: Style, rng: random.Random) -> str:
    """The tips as flowing sentences."""
    return " ".join(write_sentence(tip, style, index, rng) for index, tip in enumerate(tips))


def write_sentence(tip: Tip, style: Style, index: int, rng: random.Random) -> str:
    leads = phrases.LEADS[style.tone] + (phrases.NEXT_LEADS[style.tone] * 2 if index else ())
    if style.hedged and rng.random() < 0.5:
        leads = phrases.HEDGED_LEADS
    lead = fill(rng.choice(leads), tip=tip.do)
    if rng.random() >= style.detail:
        return lead + "."
    return fill(rng.choice(phrases.REASONS), lead=lead, why=tip.why)


def itemise(tips: Sequence[Tip], style: Style, rng: random.Random) -> str:
    """The tips as a Markdown list; one item form for the whole list, so that it looks made by one hand."""
    form = rng.choice(phrases.ITEM_REASONS)
    lines = []
    for number, tip in enumerate(tips, start=1):
        item = fill(form if rng.random() < style.detail else "{Tip}.", tip=tip.do, why=tip.why)
        lines.append(f"{number}. {item}" if style.structure == "numbers" else f"- {item}")
    return "\n".join(lines)


def open_answer(topic: Topic, style: Style, rng: random.Random, second: bool) -> list[str]:
    """What comes before the advice: nothing when the answer is direct."""
    asked = [rng.choice(phrases.ASKING_FIRST[style.tone]), ask_back(topic, rng)] if style.question == "first" else []
    if not style.preamble:
        return asked
    if second:
        return [rng.choice(phrases.SECOND_OPENERS[style.tone]), *asked]
    opener = rng.choice(phrases.OPENERS[style.tone])
    preamble = fill(rng.choice(phrases.PREAMBLES[style.tone]), noun=topic.noun)
    ways = [[opener], [opener, preamble]] if style.tone == "warm" else [[opener], [preamble], [opener, preamble]]
    return [*rng.choice(ways), *asked]


def ask_back(topic: Topic, rng: random.Random) -> str:
    return rng.choice((*phrases.QUESTIONS, *topic.questions * 3))


def close_answer(topic: Topic, style: Style, rng: random.Random) -> list[str]:
    parts = []
    if style.hedged:
        parts.append(fill(rng.choice(phrases.HEDGES), noun=topic.noun))
    if style.closer:
        parts.append(rng.choice(phrases.CLOSERS[style.tone]))
    if style.question == "last":
        parts += [rng.choice(phrases.ASKING_LAST), ask_back(topic, rng)]
    elif style.question == "offer":
        parts.append(rng.choice(phrases.OFFERS))
    return parts


def write_answer(topic: Topic, style: Style, rng: random.Random, said: str = "") -> str:
    """One answer in the given style; `said` is the assistant's answer before, if there was one."""
    before = open_answer(topic, style, rng, bool(said))
    after = close_answer(topic, style, rng)
    tips = draw_tips(topic, style, rng, said)
    if style.structure == "prose":
        return " ".join([*before, advise(tips, style, rng), *after])
    if style.preamble or style.question == "first" or rng.random() < 0.5:
        before.append(fill(rng.choice(phrases.LIST_INTROS[style.tone]), noun=topic.noun))
    blocks = [" ".join(before), itemise(tips, style, rng), " ".join(after)]
    return "\n\n".join(block for block in blocks if block)


def draw_answer(topic: Topic, rng: random.Random, said: str = "") -> tuple[str, Style]:
    """An answer in a random style, drawn again while it is too long for the model's answer limit."""
    while True:
        style = draw_style(rng)
        answer = write_answer(topic, style, rng, said)
        if len(answer.split()) <= MAX_WORDS:
            return answer, style


def write_conversation(topic: Topic, questions: Sequence[str], rng: random.Random, turns: int) -> Conversation:
    """A conversation of one or two questions, each with its answer."""
    messages: list[Message] = []
    styles: list[Style] = []
    said = ""
    for turn in range(turns):
        asked = rng.choice(phrases.FOLLOW_UPS if turn else questions)
        said, style = draw_answer(topic, rng, said)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        styles.append(style)
    return Conversation(topic, tuple(messages), tuple(styles))


def write_corpus(seed: int, count: int, topics: Sequence[Topic]) -> Iterator[Conversation]:
    """`count` training conversations; the same seed gives the same words."""
    rng = random.Random(f"corpus {seed}")
    asked = {topic.noun: questions_about(topic)[0] for topic in topics}
    for _ in range(count):
        topic = rng.choice(topics)
        turns = 2 if rng.random() < TWO_TURNS else 1
        yield write_conversation(topic, asked[topic.noun], rng, turns)


def write_prompts(seed: int, count: int, topics: Sequence[Topic]) -> list[tuple[Message, ...]]:
    """`count` distinct prompts from held-back phrasings, topics in turn, every tenth with two turns."""
    rng = random.Random(f"prompts {seed}")
    held = {topic.noun: rng.sample(back, len(back)) for topic in topics for back in [questions_about(topic)[1]]}
    prompts = []
    for index in range(count):
        topic = topics[index % len(topics)]
        talk = write_conversation(topic, [held[topic.noun].pop()], rng, 2 if index % 10 == 9 else 1)
        prompts.append(talk.messages[:-1])
    rng.shuffle(prompts)
    return prompts


def split_sentences(text: str) -> list[str]:
    """Sentences without list markers or bold marks; a list's introduction counts as one."""
    lines = [re.sub(r"^(- |\d+\. )", "", line.strip()).replace("**", "") for line in text.splitlines()]
    return [part for line in lines for part in re.split(r"(?<=[.!?:]) (?=[A-Z])", line) if part]


def all_sentences(topics: Sequence[Topic]) -> set[str]:
    """Every sentence that the grammar can write, as `split_sentences` would cut it."""
    flat = [text for table in (phrases.OPENERS, phrases.PREAMBLES, phrases.SECOND_OPENERS, phrases.LIST_INTROS,
                           phrases.ASKING_FIRST)
            for texts in table.values() for text in texts]  # fmt: skip
    flat += [text for texts in phrases.CLOSERS.values() for text in texts]
    flat += [*phrases.HEDGES, *phrases.QUESTIONS, *phrases.OFFERS, *phrases.ASKING_LAST]
    found = {fill(text, noun=topic.noun) for topic in topics for text in flat}
    for topic in topics:
        found.update(topic.questions)
        found.update(part for tip in topic.tips for form in tip_sentences(tip) for part in split_sentences(form))
    return found


def tip_sentences(tip: Tip) -> Iterator[str]:
    """Every way to give one tip."""
    tables = (*phrases.LEADS.values(), *phrases.NEXT_LEADS.values(), phrases.HEDGED_LEADS)
    for lead in (fill(text, tip=tip.do) for texts in tables for text in texts):
        yield lead + "."
        yield from (fill(form, lead=lead, why=tip.why) for form in phrases.REASONS)
    yield from (fill(form, tip=tip.do, why=tip.why) for form in phrases.ITEM_REASONS)
