"""Simulated labels that come in one by one, and what is known after each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

ORDERS = ("prompt", "judge", "chance")  # all labels of a prompt, then the next; each judge all prompts; or as it comes
Floats = NDArray[np.float64]
Place = tuple[int, int]


def coins(shape: tuple[int, int, int], agreeing: float, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Labels (sequences, prompts, judges), half of them won on average.

    A judge says what the prompt leans to with that chance, and else what a coin says.
    """
    leaning = draw.random((*shape[:2], 1)) < 0.5
    return np.where(draw.random(shape) < agreeing, leaning, draw.random(shape) < 0.5)


def ordered(draw: np.random.Generator, prompts: int, judges: int, by: str) -> list[Place]:
    """Every (prompt, judge), in one of ORDERS."""
    places = [(prompt, judge) for prompt in range(prompts) for judge in range(judges)]
    if by == "chance":
        draw.shuffle(places)
    return sorted(places, key=lambda each: each[1]) if by == "judge" else places


def running(labels: NDArray[np.bool_], order: Iterable[Place]) -> Iterator[tuple[Floats, int]]:
    """After each label: the sum of the shares that were won of each prompt (sequences,), and how many prompts."""
    won, times = np.zeros(labels.shape[:2]), np.zeros(labels.shape[1])
    shares, prompts = np.zeros(len(labels)), 0
    for prompt, judge in order:
        before = won[:, prompt] / max(1, times[prompt])
        prompts += not times[prompt]
        times[prompt] += 1
        won[:, prompt] += labels[:, prompt, judge]
        shares = shares + won[:, prompt] / times[prompt] - before
        yield shares, prompts
