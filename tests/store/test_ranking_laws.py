"""Any order of ranking, calling bad, skipping, changing one's mind and taking back, against a model in plain Python."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlmodel import col, select

from store.annotators import get_or_add_annotator
from store.comparisons import undo_comparison
from store.database import open_database, reading, writing
from store.errors import PairChangedError
from store.models import Checkpoint, Comparison, Pair, Round
from store.pairs import NewCompletion, add_completion, next_pair
from store.ranking_tables import Outcome, Ranking
from store.rankings import record_ranking
from store.round_work import work_done
from store.slates import add_slate, shown_order
from tests.store.asking import add_prompt
from tests.store.undoing import undo_last

SIZES = {1: 3, 2: 4}  # the slates' numbers and how many completions they have
WANTED = {1: 1, 2: 2}
people, slate_ids = st.sampled_from([1, 2]), st.sampled_from(list(SIZES))
outcomes = st.sampled_from([Outcome.RANKED, Outcome.RANKED, Outcome.ALL_BAD, Outcome.SKIP])
tier_marks = st.lists(st.integers(0, 3), min_size=4, max_size=4)  # which tier each position on the screen goes into


@cache
def prepared_file() -> tuple[tempfile.TemporaryDirectory[str], Path, dict[int, int]]:
    """A database with one round of two slates and two annotators, to be copied for each example."""
    folder = tempfile.TemporaryDirectory(prefix="pairloop-laws-")
    path = Path(folder.name) / "prepared.db"
    engine = open_database(f"sqlite:///{path}")
    with writing(engine) as session:
        session.add(Checkpoint(name="base", path="base"))
        session.flush()
        session.add(Round(number=1, checkpoint_id=1, target=6))
        for name in ("Ada", "Ben"):
            get_or_add_annotator(session=session, name=name)
        seeds = {number: _add_slate(session, number, size) for number, size in SIZES.items()}
    engine.dispose()
    return folder, path, seeds


def _add_slate(session: object, number: int, size: int) -> int:
    prompt = add_prompt(session, f"question {number}")
    texts = [
        add_completion(session=session, prompt_id=prompt.id, new=NewCompletion(text=f"text {each}"), checkpoint_id=1)
        for each in range(size)
    ]
    wanted = {"position": number, "wanted": WANTED[number]}
    return add_slate(session=session, prompt_id=prompt.id, completions=texts, round_id=1, **wanted).order_seed


@dataclass
class Given:
    """One ranking as the model remembers it: the tier of each place, or what was said of all."""

    slate: int
    person: int
    outcome: str
    tier_of: dict[int, int]
    standing: bool = True

    def verdicts(self) -> list[str]:
        """What it says of each two places, in order."""
        whole = {"all_bad": "both_bad", "skip": "skip"}.get(self.outcome)
        both = combinations(range(SIZES[self.slate]), 2)
        return [whole or self._between(*each) for each in both]

    def _between(self, one: int, other: int) -> str:
        first, second = self.tier_of[one], self.tier_of[other]
        return "tie" if first == second else "a" if first < second else "b"


@dataclass
class Desk:
    """The model: a list of every ranking ever given, and who holds which slate."""

    given: list[Given] = field(default_factory=list)
    held: set[tuple[int, int]] = field(default_factory=set)  # (slate, person)

    def standing(self, slate: int, person: int) -> Given | None:
        found = [each for each in self.given if each.standing and (each.slate, each.person) == (slate, person)]
        assert len(found) <= 1
        return found[0] if found else None

    def open_slots(self, slate: int) -> int:
        answers = [each for each in self.given if each.standing and each.slate == slate and each.outcome != "skip"]
        return max(0, WANTED[slate] - len(answers))

    def has_room_for(self, slate: int, person: int) -> bool:
        return self.open_slots(slate) > sum(held == slate and who != person for held, who in self.held)

    def fits(self, slate: int, person: int, outcome: Outcome) -> bool:
        """Whether a ranking is none too many: a skip, a change of mind, or one that is held for or others leave."""
        before = self.standing(slate, person)
        if outcome == Outcome.SKIP or (before and before.outcome != "skip"):
            return True
        is_held = (slate, person) in self.held
        return (is_held and self.open_slots(slate) > 0) or self.has_room_for(slate, person)


class RankingLaws(RuleBasedStateMachine):
    """Does the same to the store and to the model, and looks for a difference after every step."""

    def __init__(self) -> None:
        super().__init__()
        _, prepared, self.seeds = prepared_file()
        self.folder = tempfile.TemporaryDirectory(prefix="pairloop-laws-")
        self.engine = open_database(f"sqlite:///{shutil.copy(prepared, self.folder.name)}")
        self.desk = Desk()

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(person=people, slate=slate_ids, outcome=outcomes, marks=tier_marks, replace=st.booleans())
    def give(self, person: int, slate: int, outcome: Outcome, marks: list[int], replace: bool) -> None:
        size = SIZES[slate]
        shown = shown_order(order_seed=self.seeds[slate], annotator_id=person, size=size)
        tiers = [[at for at in range(size) if marks[at] == mark] for mark in sorted(set(marks[:size]))]
        said = {"outcome": outcome, "tiers": tiers if outcome == Outcome.RANKED else (), "replace": replace}
        before = self.desk.standing(slate, person)
        if not self.desk.fits(slate, person, outcome) and (replace or before is None):
            with pytest.raises(PairChangedError), writing(self.engine) as session:
                record_ranking(session=session, slate_id=slate, annotator_id=person, **said)
            return
        with writing(self.engine) as session:
            record_ranking(session=session, slate_id=slate, annotator_id=person, **said)
        if before and not replace:
            return
        if before:
            before.standing = False
        self.desk.held.discard((slate, person))
        self.desk.given.append(Given(slate, person, outcome.value, {shown[at]: marks[at] for at in range(size)}))

    @rule(person=people)
    def undo(self, person: int) -> None:
        with writing(self.engine) as session:
            undone = undo_last(session=session, annotator_id=person, round_id=1)
        mine = [each for each in self.desk.given if each.standing and each.person == person]
        assert (undone is None) == (not mine)
        if undone is not None:
            assert undone.pair_id == {1: 1, 2: 4}[mine[-1].slate]
            mine[-1].standing = False
            if self.desk.has_room_for(mine[-1].slate, person):
                self.desk.held.add((mine[-1].slate, person))
            with writing(self.engine) as session:  # the same press a second time
                assert undo_comparison(session=session, comparison_id=undone.id, annotator_id=person) is None

    @rule(person=people)
    def serve(self, person: int) -> None:
        with writing(self.engine) as session:
            shown = next_pair(session=session, round_id=1, annotator_id=person)
        if shown is not None:
            assert shown.pair_id in (1, 4), "a pair that follows another is asked by nobody"
            assert self.desk.standing(shown.slate_id, person) is None
            assert self.desk.has_room_for(shown.slate_id, person)
            self.desk.held.add((shown.slate_id, person))

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        with reading(self.engine) as session:
            rankings = session.exec(select(Ranking).order_by(col(Ranking.id))).all()
            rows = session.exec(select(Comparison).order_by(col(Comparison.id))).all()
            slots = {pair.id: pair.open_slots for pair in session.exec(select(Pair)).all()}
            work = {person: work_done(session=session, round_id=1, annotator_id=person).mine for person in (1, 2)}
        # Everything ever given is there as it was given, and what came of it stands as long as it does.
        assert [each.superseded_at is None for each in rankings] == [each.standing for each in self.desk.given]
        assert len(rows) == sum(len(each.verdicts()) for each in self.desk.given)
        for ranking, given in zip(rankings, self.desk.given, strict=True):
            mine = [row for row in rows if row.ranking_id == ranking.id]
            assert [row.verdict for row in mine] == given.verdicts()
            assert {row.superseded_at for row in mine} == {ranking.superseded_at}
            assert {row.annotator_id for row in mine} == {given.person}
        # What is counted along the way is what a count would find.
        made = [row.annotator_id for row in rows if row.superseded_at is None and row.verdict != "skip"]
        assert work == {1: made.count(1), 2: made.count(2)}
        # One pair wants what is missing, the others nothing.
        assert slots == {pair: {1: self.desk.open_slots(1), 4: self.desk.open_slots(2)}.get(pair, 0) for pair in slots}


TestRankingLaws = RankingLaws.TestCase
TestRankingLaws.settings = settings(max_examples=12, stateful_step_count=25, deadline=None, database=None)
