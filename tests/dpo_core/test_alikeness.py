"""How alike two texts are: by hand, and beside the table that everybody draws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_core.alikeness import longest_common, similarity, words_and_signs


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Water it.", "water IT.", 1.0),
        ("a b c d", "d c b a", 0.25),
        ("dog bites man", "man bites dog", 1 / 3),
        ("a a a b", "a b", 0.5),
        ("yes", "no", 0.0),
        ("x = a + b", "x = a - b", 0.8),
        ("-5", "5", 0.5),
        ("!!!", "???", 0.0),
        ("我喜欢茶", "我喜欢水", 0.75),
        ("A我喜欢茶", "A我喜欢水", 0.8),  # a Latin letter before them takes none along
        ("ฉันรัก", "ฉันกิน", 2 / 3),  # Thai: the first three of six, and one more
        ("", "", 1.0),
    ],
)
def test_texts_by_hand(one: str, other: str, expected: float) -> None:
    first, second = words_and_signs(one), words_and_signs(other)
    assert similarity(first, second) == similarity(second, first) == pytest.approx(expected)


def test_similarity_is_the_share_of_the_longer_that_stands_in_the_other_in_order() -> None:
    assert similarity([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert similarity([1, 2, 3, 4], [1, 3, 4]) == 0.75
    assert similarity([1, 2], [3, 4]) == 0
    assert similarity([], []) == 1


def test_words_stay_whole_and_signs_stand_alone() -> None:
    assert words_and_signs("GPT我用 naïve_x=-3.5") == ["gpt", "我", "用", "naïve_x", "=", "-", "3", ".", "5"]


@given(st.text("abc", max_size=70), st.text("abcd", max_size=70))
def test_the_longest_common_sequence_is_that_of_the_table(one: str, other: str) -> None:
    row = [0] * (len(other) + 1)
    for here in one:
        before, row = row, [0]
        for place, there in enumerate(other):
            row.append(before[place] + 1 if here == there else max(before[place + 1], row[place]))
    assert longest_common(one, other) == longest_common(other, one) == row[-1]
