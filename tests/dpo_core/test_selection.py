"""Which two of several completions are asked about: rules by hand, chance by counting, settings that make no sense."""

from __future__ import annotations

import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_core.alikeness import similarity
from dpo_core.changing_settings import change_section
from dpo_core.config import Settings, parse_settings
from dpo_core.errors import SettingsError
from dpo_core.rendered_settings import render_settings
from dpo_core.selection import MIXTURE, Selected, select_pair
from store.models import SelectedBy

TEXTS = ("Water it weekly.", "Give it light, and little else.", "Basil is a plant.", "Ask your neighbour, who knows.")
REWARDS = (0.9, -0.2, 0.1, 0.3)  # closest: the last two, 0.2 apart; farthest: the first two, 1.1 apart
WORDS = " ".join(f"word{number}" for number in range(40))


def rule(by: str, share: float = 0.25, candidates: int = 4) -> Any:
    return Settings.model_validate({"selection": {"by": by, "candidates": candidates, "random_share": share}}).selection


def many(by: str, count: int = 200, share: float = 0.25, **given: Any) -> list[Selected]:
    texts = given.pop("texts", TEXTS)
    return [select_pair(texts, settings=rule(by, share), named=f"prompt {n}", **given) for n in range(count)]


@pytest.mark.parametrize(("by", "two", "margin"), [("near", (2, 3), -0.2), ("far", (0, 1), 1.1)])
def test_rewards_are_closest_or_farthest_apart(by: str, two: tuple[int, int], margin: float) -> None:
    chosen = [each for each in many(by, rewards=REWARDS) if each.by != SelectedBy.SLICE]
    assert {(each.by.value, each.two) for each in chosen} == {(by, two)}
    assert {round(each.margin or 0, 6) for each in chosen} == {margin}


def test_diverse_texts_are_the_two_least_alike() -> None:
    texts = ("a b c d", "a b c e", "a b x y", "e p q r s")  # alike: 3/4, 2/4, 0; 2/4, 1/5; 0: two pairs share nothing
    chosen = [each for each in many("diverse", texts=texts) if each.by != SelectedBy.SLICE]
    assert {each.two for each in chosen} == {(0, 3), (2, 3)}  # chance decides between equals
    assert {each.margin for each in chosen} == {None}


def test_a_share_is_left_to_chance_whatever_the_rule() -> None:
    """Of 2,000 prompts a share of 0.3 has a standard error of 1%."""
    for by in ("near", "mixed"):
        found = many(by, 2000, share=0.3, rewards=REWARDS)
        left = [each for each in found if each.by == SelectedBy.SLICE]
        assert len(left) / 2000 == pytest.approx(0.3, abs=0.04)
        assert {each.two for each in left} == {(0, 1)}  # the first two that were written, as if nothing were selected
        assert {round(each.margin or 0, 6) for each in left} == {1.1}


def test_a_mixture_takes_all_its_rules_equally_often() -> None:
    found = Counter(each.by for each in many("mixed", 2000, rewards=REWARDS))
    assert set(found) == {*MIXTURE, SelectedBy.SLICE}
    assert all(found[by] / 2000 == pytest.approx(0.25, abs=0.04) for by in MIXTURE)


@pytest.mark.parametrize("by", ["near", "far"])
def test_without_rewards_chance_decides_and_says_so(by: str) -> None:
    found = [each for each in many(by) if each.by != SelectedBy.SLICE]
    assert {each.by for each in found} == {SelectedBy.RANDOM}
    assert {each.two for each in found} == set(combinations(range(4), 2))


def test_a_mixture_without_rewards_still_asks_about_diverse_texts() -> None:
    found = Counter(each.by for each in many("mixed"))
    assert set(found) == {SelectedBy.SLICE, SelectedBy.RANDOM, SelectedBy.DIVERSE}


@pytest.mark.parametrize("by", ["near", "far", "diverse", "mixed", "random"])
def test_near_duplicates_are_asked_only_where_nothing_else_is_there(by: str) -> None:
    """Text 1 has two of the 40 words of text 0 changed, text 2 is another: rewards would have the first two chosen."""
    duplicate = WORDS.replace("word0 ", "other ").replace("word1 ", "words ")
    texts, rewards = (WORDS, duplicate, "Something else entirely."), (0.5, 0.5, 0.6) if by == "near" else (1, -1, 0.5)
    assert similarity(WORDS.split(), duplicate.split()) == 0.95
    every = many(by, texts=texts, rewards=rewards)
    assert (0, 1) not in {each.two for each in every if each.by != SelectedBy.SLICE}
    alone = many(by, texts=(WORDS, duplicate), rewards=rewards[:2])
    assert {each.two for each in alone} == {(0, 1)} and {each.by for each in alone} == {each.by for each in every}


@pytest.mark.parametrize(
    "texts", [("x = a + b", "x = a - b", "y"), ("-5", "5", "-6"), ("yes, I can", "can I, yes", "-")]
)
def test_texts_that_differ_in_a_sign_or_in_order_are_asked_about(texts: tuple[str, ...]) -> None:
    assert (0, 1) in {each.two for each in many("random", texts=texts) if each.by != SelectedBy.SLICE}


def test_selecting_is_quick_whatever_is_selected_from() -> None:
    """16 completions of 500 words have 120 pairs. It takes some 90 ms; comparing them with difflib took 1.5 s."""
    draw = Random(0)
    texts = [" ".join(draw.choices(WORDS.split(), k=500)) for _ in range(16)]
    started = time.process_time()
    select_pair(texts, settings=rule("diverse", candidates=16), named="x")
    assert time.process_time() - started < 0.5


@given(
    st.lists(st.text("ab ", min_size=1), min_size=2, max_size=6, unique=True),
    st.sampled_from(["near", "far", "diverse", "mixed", "random"]),
    st.integers(0, 20),
    st.booleans(),
)
def test_two_different_ones_are_selected_in_the_order_of_writing(
    texts: list[str], by: str, number: int, known: bool
) -> None:
    rewards = [len(text) / 7 for text in texts] if known else None
    found = [select_pair(texts, settings=rule(by), named=str(number), rewards=rewards) for _ in range(2)]
    assert found[0] == found[1]  # the same name, the same draw
    first, second = found[0].two
    assert 0 <= first < second < len(texts)
    assert found[0].margin == (None if rewards is None else rewards[first] - rewards[second])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[selection]\nby = "near"', 'by = "near" has nothing to choose from while candidates is 2: set it to 4'),
        ("[selection]\ncandidates = 4\nrandom_share = 0", "random_share must be above 0"),
        ("[selection]\ncandidates = 1", "selection.candidates"),
        ('[selection]\ncandidates = 4\nby = "nearest"', "selection.by"),
        ("[selection]\ncandidate = 4", "did you mean 'candidates'?"),
        ("[selection]\ncandidates = 4\n[round]\ncompletions_per_prompt = 4", "leave one of them at 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(text, Path("pairloop.toml"))
    assert said in str(refused.value) and "'worker'" not in str(refused.value)  # nor are all settings told


def test_selection_is_off_unless_asked_for_and_can_be_changed() -> None:
    assert not Settings().selection.chooses
    changed = change_section(Settings(), "selection", {"by": "far", "candidates": 3})
    assert changed.selection == rule("far", candidates=3) and changed.round == Settings().round
    assert parse_settings(render_settings(changed), Path("pairloop.toml")) == changed
    ranking = Settings.model_validate({"round": {"completions_per_prompt": 3}})
    with pytest.raises(SettingsError, match="leave one of them at 2"):
        change_section(ranking, "selection", {"candidates": 4})
