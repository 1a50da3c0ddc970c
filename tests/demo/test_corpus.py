"""The demo corpus: reproducible, varied, and its style tells nothing about the question."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scipy.stats import chi2_contingency

COUNT = 4000


@pytest.fixture(scope="module")
def topics(corpus: ModuleType) -> list[Any]:
    return list(corpus.load_topics())


@pytest.fixture(scope="module")
def talks(corpus: ModuleType, topics: list[Any]) -> list[Any]:
    return list(corpus.write_corpus(0, COUNT, topics))


def test_topics_are_many_and_complete(topics: list[Any]) -> None:
    assert len({topic.noun for topic in topics}) == len(topics) >= 60
    for topic in topics:
        assert len(topic.goals) == 3 and len(topic.problems) == 2 and topic.questions
        assert 6 <= len(topic.tips_that_are(True)) <= 8
        assert 2 <= len(topic.tips_that_are(False)) <= 3


def test_no_tip_or_phrasing_belongs_to_two_topics(topics: list[Any]) -> None:
    for kind in ("goals", "problems", "questions", "tips"):
        texts = [getattr(item, "do", item) for topic in topics for item in getattr(topic, kind)]
        assert [text for text, times in Counter(texts).items() if times > 1] == []


def test_same_seed_same_words_and_another_seed_others(corpus: ModuleType, topics: list[Any]) -> None:
    def written(seed: int) -> list[Any]:
        return [talk.messages for talk in corpus.write_corpus(seed, 50, topics)]

    assert written(3) == written(3)
    assert written(3) != written(4)


@pytest.mark.parametrize("attribute", ["tone", "structure", "hedged", "wrong", "question", "preamble", "closer"])
def test_style_tells_nothing_about_the_topic(talks: list[Any], attribute: str) -> None:
    """Chi-squared test of independence; seven tests at this level fail by chance once in 1,400 seeds."""
    counted = Counter((talk.topic.noun, getattr(style, attribute)) for talk in talks for style in talk.styles)
    rows, columns = ({key[side] for key in counted} for side in (0, 1))
    table = [[counted[row, column] for column in sorted(columns)] for row in sorted(rows)]
    assert chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize(
    ("attribute", "low", "high"), [("hedged", 0.25, 0.45), ("wrong", 0.2, 0.4), ("question", 0.25, 0.45)]
)
def test_style_attributes_are_neither_rare_nor_everywhere(
    talks: list[Any], attribute: str, low: float, high: float
) -> None:
    flags = [bool(getattr(style, attribute)) for talk in talks for style in talk.styles]
    assert low < sum(flags) / len(flags) < high


@pytest.mark.parametrize(
    ("attribute", "visible"),
    [
        ("question", lambda text: "?" in text),
        # A second answer may have a single tip left: a list of one item has no line break.
        ("structure", lambda text: "\n" in text or text.startswith(("- ", "1. "))),
    ],
)
def test_the_text_shows_the_style(talks: list[Any], attribute: str, visible: Callable[[str], bool]) -> None:
    for talk in talks[:500]:
        answers = [message["content"] for message in talk.messages if message["role"] == "assistant"]
        for text, style in zip(answers, talk.styles, strict=True):
            assert visible(text) == (getattr(style, attribute) not in ("", "prose"))


def test_a_wrong_tip_stands_exactly_where_the_style_says(talks: list[Any]) -> None:
    for talk in talks[:500]:
        text, style = talk.messages[1]["content"].lower(), talk.styles[0]
        assert any(tip.do.lower() in text for tip in talk.topic.tips_that_are(False)) == style.wrong


def test_the_grammar_knows_every_sentence_it_writes(corpus: ModuleType, topics: list[Any], talks: list[Any]) -> None:
    known = corpus.all_sentences(topics)
    answers = [m["content"] for talk in talks for m in talk.messages if m["role"] == "assistant"]
    assert {part for text in answers for part in corpus.split_sentences(text)} <= known
    assert "boil the kettle with socks." not in known


def test_answers_stay_within_the_word_limit(corpus: ModuleType, talks: list[Any]) -> None:
    lengths = [len(m["content"].split()) for talk in talks for m in talk.messages if m["role"] == "assistant"]
    assert max(lengths) <= corpus.MAX_WORDS
    assert min(lengths) < 12, "one-sentence answers exist"


def test_prompts_are_distinct_and_held_back(corpus: ModuleType, topics: list[Any], talks: list[Any]) -> None:
    prompts = corpus.write_prompts(0, 400, topics)
    first_questions = [prompt[0]["content"] for prompt in prompts]
    assert len(set(first_questions)) == 400
    assert not set(first_questions) & {talk.messages[0]["content"] for talk in talks}
    roles = Counter(tuple(message["role"] for message in prompt) for prompt in prompts)
    assert roles == {("user",): 360, ("user", "assistant", "user"): 40}


def test_prompts_cover_every_topic(corpus: ModuleType, topics: list[Any]) -> None:
    asked = [prompt[0]["content"] for prompt in corpus.write_prompts(0, 400, topics)]
    for topic in topics:
        assert any(words in question for question in asked for words in topic.goals + topic.problems)


def test_shipped_prompts_are_those_of_the_shipped_corpus(corpus: ModuleType, topics: list[Any], demo: Path) -> None:
    lines = (demo / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    assert [tuple(json.loads(line)["messages"]) for line in lines] == corpus.write_prompts(0, 400, topics)
