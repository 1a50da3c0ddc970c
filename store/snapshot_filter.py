"""Which comparisons a snapshot is cut from, and the reasons for which others come to nothing in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlmodel import col

from store.errors import SnapshotError
from store.models import Pair, Purpose, Round

# Why a comparison does not become part of a preference, in the order the reasons are looked for.
REASONS = {
    "retracted": "by a retracted annotator",
    "excluded_annotator": "by an annotator left out on request",
    "not_trained_on": "duels, repeats and gold pairs, which are for measuring",
    "hand_picked": "on held-out prompts, of pairs that were picked in the Playground",
    "skip": "skips",
    "identical": "between identical texts",
    "over_length": "over the length limit",
    "tie": "ties",
    "both_bad": "both bad",
    "low_agreement": "with too little agreement",
}
_ONE = {"skip": "skip", "tie": "tie", "not_trained_on": "duel, repeat or gold pair, which is for measuring"}


def drops_in_words(dropped: Mapping[str, int]) -> str:
    """How many comparisons were dropped for which reason: "31 ties, 1 skip"; empty where none was."""
    return ", ".join(_drop_in_words(reason, count) for reason, count in dropped.items() if count)


def _drop_in_words(reason: str, count: int) -> str:
    """A reason that an older version gave is named as it is."""
    return f"{count:,} {_ONE.get(reason, REASONS.get(reason, reason)) if count == 1 else REASONS.get(reason, reason)}"


@dataclass(frozen=True)
class SnapshotFilter:
    """Which comparisons a snapshot is cut from. Raises SnapshotError for a value that cannot be meant.

    `round_numbers`: these rounds only (None: all). `include_imported`: imported preferences too.
    `min_agreement`: the least share of votes for the chosen side. `max_chars`: prompt and longer completion together.
    `exclude_annotators`: names. `min_pairs`: refuse to cut with fewer preferences to train on. `keep_ties`: keep ties,
    beside the preferences and apart from them. `confidence`: say how likely each preference is right.
    `votes`: say how many named either side.
    """

    round_numbers: tuple[int, ...] | None = None
    include_imported: bool = True
    min_agreement: float = 0.5
    max_chars: int | None = None
    exclude_annotators: tuple[str, ...] = ()
    min_pairs: int = 2
    keep_ties: bool = False
    confidence: bool = False
    votes: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.min_agreement <= 1:
            raise SnapshotError(f"min_agreement is a share between 0 and 1, not {self.min_agreement}.")
        if self.max_chars is not None and self.max_chars < 1:
            raise SnapshotError(f"max_chars must be 1 or more, not {self.max_chars}.")

    def described(self) -> dict[str, Any]:
        """What of the filter decides the snapshot's content, spelled one way only."""
        described = asdict(self) | {
            "round_numbers": None if self.round_numbers is None else sorted(set(self.round_numbers)),
            "exclude_annotators": sorted(set(self.exclude_annotators)),
            "min_agreement": float(self.min_agreement),
        }
        del described["min_pairs"]  # it can only refuse
        for later in ("keep_ties", "confidence", "votes"):  # what was cut before there were these has the same hash
            if not described[later]:
                del described[later]
        return described


def rounds_asked_for(filter: SnapshotFilter) -> Any:
    """A condition on `Pair`, joined with its `Round` where it has one: whether the filter covers it at all."""
    measuring = col(Pair.purpose).in_((Purpose.GOLD, Purpose.CALIBRATION))  # of no round, and yet not imported answers
    imported = col(Pair.round_id).is_(None) & ~measuring
    rounds = (
        col(Pair.round_id).is_not(None) if filter.round_numbers is None else col(Round.number).in_(filter.round_numbers)
    )
    asked = rounds | imported if filter.include_imported else rounds
    return asked | (col(Pair.purpose) == Purpose.GOLD) if filter.confidence else asked
