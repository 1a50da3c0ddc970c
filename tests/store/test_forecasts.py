"""About how many more duels it takes, and whether there are prompts enough for them."""

from __future__ import annotations

import pytest

from store.win_rate import LEAST_PROMPTS, MOST_DUELS, DuelVerdict, log_evidence, win_rate
from tests.store.test_win_rate import BAR, judged, verdict_of


def test_the_forecast_comes_true_if_things_go_on_as_they_do():
    """Three of four won, a fifth of all duels ties: four rounds of that are undecided, and the forecast is exact."""
    block = {"won": 6, "lost": 2, "tie": 2}
    found = win_rate(judged(**{name: 2 * count for name, count in block.items()}))
    assert found.duels_more is not None
    decided = found.duels_more * 0.8
    assert float(log_evidence(12 + 0.75 * decided, 4 + 0.25 * decided)) == pytest.approx(BAR, abs=0.2)
    shorter = 0.8 * (found.duels_more - 1.5)
    assert float(log_evidence(12 + 0.75 * shorter, 4 + 0.25 * shorter)) < BAR
    no_ties = win_rate(judged(won=12, lost=4))
    assert no_ties.duels_more == pytest.approx(decided, abs=1)


def test_no_forecast_where_it_is_too_close_or_too_early():
    close = win_rate(judged(won=10, lost=10))
    assert (close.duels_more, close.too_close) == (None, True)
    early = win_rate(judged(won=LEAST_PROMPTS // 2, lost=LEAST_PROMPTS // 2 - 1))
    assert (early.duels_more, early.too_close) == (None, False)
    decided = win_rate(judged(won=30))
    assert (decided.duels_more, decided.too_close) == (None, False)


@pytest.mark.parametrize(
    ("won", "lost", "there", "too_few"),
    [
        (14, 0, 14, True),  # all won, and the 15th would decide
        (14, 0, 15, False),
        (0, 0, 14, True),
        (0, 0, 15, False),
        (5, 2, 19, True),  # were all the others won: 17 of 19
        (5, 2, 20, False),
        (12, 4, 30, True),  # at three of four
        (16, 4, 30, True),  # at four of five: 24 of 30, where it takes 25
        (16, 4, 31, False),
        (14, 6, 59, True),  # at 70%
        (14, 6, 62, False),
        (10, 10, 20, False),  # a thousand would not do: too close, not too few
    ],
)
def test_whether_there_are_prompts_enough(won: int, lost: int, there: int, too_few: bool):
    duels = judged(won=won, lost=lost)
    found = win_rate(duels, prompts_there=there)
    assert (found.verdict, found.too_few_prompts) == (DuelVerdict.UNDECIDED, too_few)
    forecast = win_rate(duels).duels_more
    assert found.duels_more == (None if too_few else forecast)
    assert found.too_close == (won == lost == 10)
    if won + lost >= LEAST_PROMPTS and not found.too_close:  # the same, told by going on at that rate
        rate = won / (won + lost)
        assert too_few == (verdict_of(rate * there, (1 - rate) * there) == DuelVerdict.UNDECIDED)


def test_the_forecast_ends_at_the_cap():
    """The same share of wins, nearer and nearer a half: forecasts grow up to the cap and then cease."""
    found = [win_rate(judged(won=50 + more, lost=50 - more)).duels_more for more in range(1, 11)]
    told = [each for each in found if each is not None]
    assert 0 < len(told) < 10
    assert told == sorted(told, reverse=True)
    assert found[-len(told) :] == told
    assert max(told) <= MOST_DUELS
