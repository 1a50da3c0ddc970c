"""A win rate that is watched after every label: how often it is right, how soon, and what peeking at a z-test does.

    PYTHONPATH=. python tests/benchmarks/watched.py [--sequences 2000] [--labels 1000] [--prompts 200]

The first table: one label a prompt. Verdicts by store/win_rate.py, and those of a peer who tests at 5% after every
label from the 20th and stops at the first z over 1.96. "Wrong" is a verdict for the wrong side; of two as good as each
other, any verdict.
The second: a fair coin, three judges a prompt who say what the prompt leans to with some chance; wrong verdicts of the
same e-process when a prompt counts once, and when each label counts.
The third: `duels_more` of who is undecided after some labels, beside how many more it then took.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from store.win_rate import MOST_DUELS, Duel, Outcome, log_evidence, win_rate
from tests.store.watching import ORDERS, coins, ordered, running

RATES = (0.5, 0.55, 0.6, 0.7, 0.8)
BY = (30, 60, 100, 200)
BAR = np.log(20)
FIRST_PEEK = 20  # the normal curve is no excuse before
FORECASTS = 300  # sequences of each kind
Flags = NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=2000)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw = np.random.default_rng(asked.seed)
    columns = [*(f"by {count}" for count in BY), "median", *(f"wrong by {count}" for count in (200, asked.labels))]
    header("true rate", "verdict by", *columns)
    for rate in RATES:
        won = np.cumsum(draw.random((asked.sequences, asked.labels)) < rate, axis=1)
        seen = np.arange(1, asked.labels + 1)
        peeking = (np.abs(2 * won - seen) > 1.96 * np.sqrt(seen)) & (seen >= FIRST_PEEK)
        row(f"{rate:.0%}", "pairloop", *decided(log_evidence(won, seen - won) >= BAR, won, rate))
        row("", "peeking", *decided(peeking, won, rate))
    print()
    header("judges agree", "labels come by", "wrong, prompts counted", "wrong, labels counted")
    for agreeing in (0.0, 0.5, 0.8, 0.9, 1.0):
        for by in ORDERS:
            row(f"{agreeing:.0%}", by, *clustered((asked.sequences, asked.prompts, 3), agreeing, by, draw))
    print()
    header("true rate", "after", "undecided", "forecast (quartiles)", "it took (quartiles)", "within a factor of 3")
    for rate in (0.6, 0.7, 0.8):
        for after in (10, 20, 40):
            row(f"{rate:.0%}", str(after), *forecast(rate, after, asked.labels, draw))


def decided(over: Flags, won: NDArray[np.int64], rate: float) -> list[str]:
    """Sequences (sequences, labels) that went over the bar: how many by when, their median, and how many wrongly."""
    ever, first = over.any(axis=1), over.argmax(axis=1)
    when = np.where(ever, first + 1, np.inf)
    leading = won[np.arange(len(won)), first] > when / 2
    wrong = ever if rate == 0.5 else ever & ~leading
    by = [f"{(when <= count).mean():.1%}" for count in BY]
    middle = np.median(when)
    shares = [f"{(wrong & (when <= count)).mean():.1%}" for count in (200, over.shape[1])]
    return [*by, f"{middle:.0f}" if np.isfinite(middle) else f"over {over.shape[1]}", *shares]


def clustered(shape: tuple[int, int, int], agreeing: float, by: str, draw: np.random.Generator) -> list[str]:
    labels = coins(shape, agreeing, draw)
    order = ordered(draw, shape[1], shape[2], by)
    counted, labelled, won = np.zeros(shape[0], bool), np.zeros(shape[0], bool), np.zeros(shape[0])
    for seen, ((prompt, judge), (shares, prompts)) in enumerate(
        zip(order, running(labels, order), strict=True), start=1
    ):
        counted |= log_evidence(shares, prompts - shares) >= BAR
        won += labels[:, prompt, judge]
        labelled |= log_evidence(won, seen - won) >= BAR
    return [f"{counted.mean():.1%}", f"{labelled.mean():.1%}"]


def forecast(rate: float, after: int, labels: int, draw: np.random.Generator) -> list[str]:
    said = draw.random((FORECASTS, after + labels)) < rate
    won, seen = np.cumsum(said, axis=1), np.arange(1, after + labels + 1)
    over = log_evidence(won, seen - won) >= BAR
    undecided = ~over[:, :after].any(axis=1) & over.any(axis=1)
    took = over[undecided].argmax(axis=1) + 1 - after
    told = np.array([forecast_of(each[:after]) for each in said[undecided]])
    near = (told <= 3 * took) & (took <= 3 * told)
    return [f"{undecided.mean():.0%}", quartiles(told), quartiles(took), f"{near.mean():.0%}"]


def forecast_of(said: Flags) -> float:
    duels = [Duel(prompt, Outcome.WON if each else Outcome.LOST) for prompt, each in enumerate(said)]
    more = win_rate(duels).duels_more
    return np.inf if more is None else more


def quartiles(values: NDArray[np.float64]) -> str:
    found = np.quantile(values, (0.25, 0.5, 0.75), method="lower")
    return " / ".join(f"{each:.0f}" if each <= MOST_DUELS else "too close" for each in found)


def header(*names: str) -> None:
    row(*names)
    print("|" + " ---: |" * len(names))


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
