"""Intervals over pairs: against the textbook where prompts differ, and against simulation where they do not."""

from __future__ import annotations

import math
import random
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from store.intervals import Estimate, difference_interval, mean_interval, median_of, share_interval, wilson


@given(st.integers(1, 60), st.data())
def test_with_one_pair_a_prompt_it_is_wilsons_interval(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    values = [1.0] * right + [0.0] * (count - right)
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert share_interval(values, range(count)) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_none_and_all_are_within_their_own_interval() -> None:
    """To the last bit: 1 was left out for 10 of 10, by rounding."""
    for count in range(1, 500):
        assert wilson(0, count)[0] == 0 and wilson(1, count)[1] == 1


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=20), st.integers(2, 5))
def test_saying_everything_again_narrows_nothing(values: list[float], times: int) -> None:
    """Copies of a pair under the same prompt are worth no more than the pair."""
    clusters = list(range(len(values)))
    once = share_interval(values, clusters)
    assert share_interval(values * times, clusters * times) == pytest.approx(once, abs=1e-9)


def test_a_mean_worked_by_hand() -> None:
    values = [1.0, 3.0, 2.0, 6.0]
    half = t.ppf(0.975, 3) * stdev(values) * math.sqrt(3 / 4) / 2  # the variance divides by n
    assert mean_interval(values, range(4)) == pytest.approx((mean(values) - half, mean(values) + half))
    assert mean_interval(values, [1, 1, 1, 1]) == (-math.inf, math.inf)


def test_it_covers_the_truth_where_pairs_of_a_prompt_agree() -> None:
    """30 prompts of 4 pairs each; the pairs of a prompt go the same way nine times in ten. The truth is 0.6.

    2,000 draws: the textbook interval covers it in about 70%, the clustered one in about 95% (standard error 0.5%).
    """
    draw = random.Random(0)
    covered = {"clustered": 0, "textbook": 0}
    clusters = [prompt for prompt in range(30) for _ in range(4)]
    for _ in range(2000):
        leaning = [float(draw.random() < 0.6) for _ in range(30)]
        values = [side if draw.random() < 0.9 else float(draw.random() < 0.6) for side in leaning for _ in range(4)]
        for name, (low, high) in {
            "clustered": share_interval(values, clusters),
            "textbook": wilson(mean(values), len(values)),
        }.items():
            covered[name] += low <= 0.6 <= high
    assert 0.93 < covered["clustered"] / 2000 < 0.97
    assert covered["textbook"] / 2000 < 0.8


def test_nothing_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one"):
        share_interval([], [])


def test_how_much_larger_one_share_is_than_another() -> None:
    """Newcombe (1998), table II, example (a), 56 of 70 and 48 of 80: method 10 gives 0.0524 to 0.3339."""
    first, second = (Estimate(hit / count, wilson(hit / count, count), count) for hit, count in ((56, 70), (48, 80)))
    assert difference_interval(first, second) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval(second, first) == pytest.approx((-0.3339, -0.0524), abs=5e-5)
    assert difference_interval(first, Estimate()) is None


def test_a_medians_interval_reaches_from_value_to_value() -> None:
    """Ten values: the second to the ninth hold the median in 97.9% of cases, the third to the eighth in 89.1%."""
    assert median_of([float(number) for number in range(10, 0, -1)]) == Estimate(5.5, (2.0, 9.0), 10)
    assert median_of([3.0, 1.0, 2.0, 5.0, 4.0]) == Estimate(3.0, None, 5)  # 1 to 5 hold it in 93.8%
    assert median_of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).interval == (1.0, 6.0)  # 96.9%
    assert median_of([]) == Estimate()


@pytest.mark.parametrize("count", [6, 17, 40])
def test_it_covers_the_median_whatever_the_law(count: int) -> None:
    draw, truth, covered = random.Random(1), math.log(2), 0
    for _ in range(2000):
        found = median_of([draw.expovariate(1) for _ in range(count)])
        assert found.interval is not None
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered / 2000 > 0.94
