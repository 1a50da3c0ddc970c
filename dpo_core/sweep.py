"""A sweep: the same pairs trained on under several settings, in one run, on one pass of reference log-probs.

Log-probs of the reference depend on neither beta nor the learning rate nor the loss, so that a sweep of n points costs
n trainings and one reference pass. Each point becomes a checkpoint; one of them goes on as the round's. Without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from dpo_core.changing_settings import change_training, read_assignments
from dpo_core.config import TrainingSettings
from dpo_core.errors import SettingsError

Point = dict[str, Any]
SHORT = {"lr": "learning_rate", "epochs": "num_train_epochs"}
# The reference, the pairs, or what the points are held against.
FIXED = ("max_length", "bf16", "comparisons", "min_agreement", "ties", "prefix_sharing", "drift_samples", "seed")
MOST = 16


def read_sweep(texts: Sequence[str], training: TrainingSettings) -> list[Point]:
    """`["beta=0.05,0.1", "lr=1e-5,2e-5"]` as the points of their grid, each checked as settings are.

    Raises SettingsError for a setting that is none, that a sweep has to leave alone, or for more than 16 points.
    """
    values = {name: found for text in texts for name, found in [_values(text)]}
    points = [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]
    if len(points) > MOST:
        raise SettingsError(f"This sweep has {len(points)} points, each a training of its own. {MOST} are the most.")
    for point in points:
        changed = change_training(training, point)
        if (changed.confidence == "reliability") != (training.confidence == "reliability"):
            raise SettingsError(
                'A sweep compares trainings on the same pairs, and confidence = "reliability" leaves some out: '
                "it is for all of its points or for none."
            )
    return points


def _values(text: str) -> tuple[str, list[Any]]:
    name, equals, listed = text.partition("=")
    name = SHORT.get(name.strip(), name.strip())
    found = [part for part in listed.split(",") if part.strip()]
    if not equals or not found:
        raise SettingsError(f"{text!r} is no sweep. Write it as KEY=VALUE,VALUE, for instance beta=0.05,0.1,0.3.")
    if name in FIXED:
        raise SettingsError(f"A sweep compares trainings on the same pairs and reference: {name} has to stay as it is.")
    values = [read_assignments([f"{name}={part}"])[name] for part in found]
    if len(set(map(str, values))) < len(values):
        raise SettingsError(f"{text!r} names a value twice.")
    return name, values


def point_words(point: Point) -> str:
    """`beta 0.05, learning_rate 1e-05`."""
    return ", ".join(f"{name} {value}" for name, value in point.items())


def point_name(name: str, point: Point) -> str:
    """The checkpoint's name: `round-3`, or `round-3-beta-0.05` in a sweep. It is also a folder's."""
    return "-".join([name, *(f"{key}-{value}" for key, value in point.items())])


def best_point(results: Sequence[dict[str, Any]]) -> int:
    """Which of a sweep's results goes on unless somebody picks another: the highest held-out accuracy.

    Among equals (ten held-out pairs know few different figures) the one that moved least from its parent.
    """

    def worth(place: int) -> tuple[float, float]:
        result = results[place]
        return result["eval"].get("accuracy_after", 0.5), -result.get("kl", {}).get("nats", 0.0)

    return max(range(len(results)), key=worth)
