"""Any order of serving, answering, changing one's mind, taking back and lapsing, against a model in plain Python."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlmodel import col, select

from store.annotators import get_or_add_annotator
from store.comparisons import Choice, record_comparison
from store.database import open_database, reading, writing
from store.errors import PairChangedError
from store.models import Checkpoint, Comparison, Pair, Round, now
from store.pairs import NewCompletion, add_completion, add_pair, left_side, next_pair
from store.queue_tables import Hold
from store.round_work import work_done
from tests.store.asking import add_prompt
from tests.store.undoing import undo_last

WANTED = {1: 1, 2: 2, 3: 1, 4: 2}  # how many answers pairs 1 to 4 ask for
people, pair_ids, choices = st.sampled_from([1, 2]), st.sampled_from(list(WANTED)), st.sampled_from(list(Choice))


@cache
def prepared_file() -> tuple[tempfile.TemporaryDirectory[str], Path, dict[int, int]]:
    """A database with one round of four pairs and two annotators, to be copied for each example."""
    folder = tempfile.TemporaryDirectory(prefix="pairloop-laws-")
    path = Path(folder.name) / "prepared.db"
    engine = open_database(f"sqlite:///{path}")
    with writing(engine) as session:
        session.add(Checkpoint(name="base", path="base"))
        session.flush()
        session.add(Round(number=1, checkpoint_id=1, target=6))
        for name in ("Ada", "Ben"):
            get_or_add_annotator(session=session, name=name)
        pairs = [_add_pair(session, number, wanted) for number, wanted in WANTED.items()]
    engine.dispose()
    return folder, path, {pair.id: pair.side_seed for pair in pairs}


def _add_pair(session: object, number: int, wanted: int) -> Pair:
    prompt = add_prompt(session, f"question {number}")
    both = [
        add_completion(session=session, prompt_id=prompt.id, new=NewCompletion(text=text), checkpoint_id=1)
        for text in ("this", "that")
    ]
    return add_pair(session=session, prompt_id=prompt.id, completions=both, round_id=1, position=number, wanted=wanted)


@dataclass
class Said:
    """One comparison as the model remembers it."""

    pair: int
    person: int
    verdict: str
    standing: bool = True


@dataclass
class Desk:
    """The model: a list of everything ever said, and who holds which pair since when. Nothing else."""

    said: list[Said] = field(default_factory=list)
    held: dict[tuple[int, int], tuple[int, bool]] = field(default_factory=dict)  # (pair, person) -> (since, lapsed)
    clock: int = 0

    def standing(self, pair: int, person: int) -> Said | None:
        found = [said for said in self.said if said.standing and (said.pair, said.person) == (pair, person)]
        assert len(found) <= 1
        return found[0] if found else None

    def open_slots(self, pair: int) -> int:
        answers = [said for said in self.said if said.standing and said.pair == pair and said.verdict != "skip"]
        return max(0, WANTED[pair] - len(answers))

    def has_room_for(self, pair: int, person: int) -> bool:
        others = [
            who for (held, who), (_, lapsed) in self.held.items() if held == pair and who != person and not lapsed
        ]
        return self.open_slots(pair) > len(others)

    def fits(self, pair: int, person: int, verdict: str) -> bool:
        """Whether an answer is none too many: a skip, a change of mind, one that is held for, or that others leave."""
        before = self.standing(pair, person)
        if verdict == "skip" or (before and before.verdict != "skip"):
            return True
        is_held = (pair, person) in self.held and not self.held[pair, person][1]
        return (is_held and self.open_slots(pair) > 0) or self.has_room_for(pair, person)

    def next_pair(self, person: int) -> int | None:
        wanting = [pair for pair in WANTED if self.has_room_for(pair, person) and not self.standing(pair, person)]
        mine = [pair for pair in wanting if (pair, person) in self.held]
        if mine:
            return max(mine, key=lambda pair: (not self.held[pair, person][1], self.held[pair, person][0]))
        return wanting[0] if wanting else None

    def hold(self, pair: int, person: int) -> None:
        self.clock += 1
        self.held[pair, person] = (self.clock, False)

    def record(self, pair: int, person: int, verdict: str, *, replace: bool) -> None:
        before = self.standing(pair, person)
        if before and not replace:
            return
        if before:
            before.standing = False
        self.said.append(Said(pair, person, verdict))
        self.held.pop((pair, person), None)

    def undo(self, person: int) -> Said | None:
        last = next((said for said in reversed(self.said) if said.standing and said.person == person), None)
        if last:
            last.standing = False
            if self.has_room_for(last.pair, person):
                self.hold(last.pair, person)
        return last


class ComparisonLaws(RuleBasedStateMachine):
    """Does the same to the store and to the model, and looks for a difference after every step."""

    def __init__(self) -> None:
        super().__init__()
        _, prepared, self.seeds = prepared_file()
        self.folder = tempfile.TemporaryDirectory(prefix="pairloop-laws-")
        path = shutil.copy(prepared, self.folder.name)
        self.engine = open_database(f"sqlite:///{path}")
        self.desk = Desk()

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(person=people)
    def serve(self, person: int) -> None:
        with writing(self.engine) as session:
            shown = next_pair(session=session, round_id=1, annotator_id=person)
        expected = self.desk.next_pair(person)
        assert (shown.pair_id if shown else None) == expected
        if expected is not None:
            self.desk.hold(expected, person)

    @rule(person=people, pair=pair_ids, choice=choices, replace=st.booleans())
    def record(self, person: int, pair: int, choice: Choice, replace: bool) -> None:
        self._say(person, pair, choice, replace)

    @rule(person=people, choice=choices)
    def answer_what_is_on_screen(self, person: int, choice: Choice) -> None:
        pair = self.desk.next_pair(person)
        if pair is not None:
            self.serve(person)
            self._say(person, pair, choice, False)

    def _say(self, person: int, pair: int, choice: Choice, replace: bool) -> None:
        left = left_side(side_seed=self.seeds[pair], annotator_id=person)
        verdict = {Choice.LEFT: left, Choice.RIGHT: "ab".replace(left, "")}.get(choice, choice.value)
        before = self.desk.standing(pair, person)
        said = {"pair_id": pair, "annotator_id": person, "choice": choice, "replace": replace}
        if not self.desk.fits(pair, person, verdict) and (replace or before is None):
            with pytest.raises(PairChangedError), writing(self.engine) as session:
                record_comparison(session=session, **said)
            return
        with writing(self.engine) as session:
            record_comparison(session=session, **said)
        self.desk.record(pair, person, verdict, replace=replace)

    @rule(person=people)
    def undo(self, person: int) -> None:
        with writing(self.engine) as session:
            taken_back = undo_last(session=session, annotator_id=person, round_id=1)
        expected = self.desk.undo(person)
        assert (taken_back and taken_back.pair_id) == (expected and expected.pair)

    @rule(pair=pair_ids, person=people)
    def let_a_hold_lapse(self, pair: int, person: int) -> None:
        if (pair, person) in self.desk.held:
            since, _ = self.desk.held[pair, person]
            self.desk.held[pair, person] = (since, True)
            past = now() - timedelta(days=1) + timedelta(seconds=since)  # in the order of the holds
            with writing(self.engine) as session:
                theirs = (col(Hold.pair_id) == pair) & (col(Hold.annotator_id) == person)
                session.execute(sa.update(Hold).where(theirs).values(until=past))

    @invariant()
    def the_store_agrees_with_the_model(self) -> None:
        with reading(self.engine) as session:
            rows = session.exec(select(Comparison).order_by(col(Comparison.id))).all()
            slots = {pair.id: pair.open_slots for pair in session.exec(select(Pair)).all()}
            work = {person: work_done(session=session, round_id=1, annotator_id=person) for person in (1, 2)}
        # Everything ever said is there, and nothing else.
        there = [Said(row.pair_id, row.annotator_id, row.verdict, row.superseded_at is None) for row in rows]
        assert there == self.desk.said
        # At most one verdict stands for each pair and annotator.
        standing = [(said.pair, said.person) for said in there if said.standing]
        assert len(standing) == len(set(standing))
        # A pair wants what is missing, and a skip is no answer.
        assert slots == {pair: self.desk.open_slots(pair) for pair in WANTED}
        # What is counted along the way is what a count would find.
        made = [said.person for said in there if said.standing and said.verdict != "skip"]
        assert {person: found.mine for person, found in work.items()} == {1: made.count(1), 2: made.count(2)}
        assert {found.judged for found in work.values()} == {len(made)}


TestComparisonLaws = ComparisonLaws.TestCase
TestComparisonLaws.settings = settings(max_examples=15, stateful_step_count=30, deadline=None, database=None)
