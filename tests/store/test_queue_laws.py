"""Any order of looking, answering, dawdling and taking back by three people: what must hold after every step."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from datetime import timedelta
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlmodel import col, select

from store.annotators import get_or_add_annotator
from store.comparisons import Choice, count_round
from store.database import open_database, reading, writing
from store.errors import PairChangedError
from store.holds import is_second_look
from store.models import Comparison, Pair, now
from store.pairs import shown_pair
from store.queue_rules import QueueRules
from store.queue_tables import Hold
from store.second_looks import queue_second_looks
from tests.conftest import _make_round
from tests.store.queueing import add_gold, answer, serve
from tests.store.teams import keep_margins
from tests.store.undoing import undo_last

RULES = QueueRules(gold=0.25, repeats=0.25, repeat_after=1)
people, choices = st.sampled_from([1, 2, 3]), st.sampled_from(list(Choice))


@cache
def prepared_file() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """Four pairs that want one answer, two, one and two; three gold pairs; three annotators."""
    folder = tempfile.TemporaryDirectory(prefix="pairloop-laws-")
    path = Path(folder.name) / "prepared.db"
    engine = open_database(f"sqlite:///{path}")
    _make_round(engine, pairs=4)
    add_gold(engine, Path(folder.name), 3)
    with writing(engine) as session:
        session.execute(sa.update(Pair).where(col(Pair.id).in_([2, 4])).values(wanted=2, open_slots=2))
        for name in ("Ada", "Ben", "Cleo"):
            get_or_add_annotator(session=session, name=name)
    engine.dispose()
    return folder, path


class QueueLaws(RuleBasedStateMachine):
    """What people see on their screens may be old: they answer it all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="pairloop-laws-")
        self.engine = open_database(f"sqlite:///{shutil.copy(prepared_file()[1], self.folder.name)}")
        self.screens: dict[int, int] = {}

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    @rule(person=people)
    def look(self, person: int) -> None:
        shown = serve(self.engine, 1, person, RULES)
        if shown is not None:
            self.screens[person] = shown.pair_id

    @rule(person=people, choice=choices)
    def answer_what_is_on_screen(self, person: int, choice: Choice) -> None:
        if person in self.screens:
            try:
                answer(self.engine, self.screens[person], person, choice)
            except PairChangedError:
                self.look(person)

    @rule(person=people)
    def go_on(self, person: int) -> None:
        self.look(person)
        self.answer_what_is_on_screen(person, Choice.LEFT)

    @rule(person=people)
    def undo(self, person: int) -> None:
        with writing(self.engine) as session:
            undo_last(session=session, annotator_id=person, round_id=1)
        self.look(person)

    @rule(pair=st.integers(1, 4), everybody=st.booleans())
    def doubt(self, pair: int, everybody: bool) -> None:
        """A training finds what was said of a pair unlikely; `everybody`: who said it comes no more."""
        with writing(self.engine) as session:
            verdict = session.exec(select(Comparison.verdict).where(Comparison.pair_id == pair)).first()
            run = keep_margins(session, {pair: -1.0}, {pair: verdict or "a"})
            given = {"run_id": run.id, "checkpoint_id": 1, "round_id": 1, "count": 1, "spread": 1, "seed": 1}
            if queue_second_looks(session=session, **given) and everybody:
                session.execute(sa.update(Pair).where(is_second_look(Pair), Pair.repeats == pair).values(asked_of=None))

    @rule()
    def dawdle(self) -> None:
        with writing(self.engine) as session:
            session.execute(sa.update(Hold).values(until=now() - timedelta(seconds=1)))

    @invariant()
    def the_laws_hold(self) -> None:
        with reading(self.engine) as session:
            pairs = {pair.id: pair for pair in session.exec(select(Pair))}
            said = session.exec(select(Comparison).where(col(Comparison.superseded_at).is_(None))).all()
            counted = count_round(session=session, round_id=1)["done"]
            repeats = [pair for pair in pairs.values() if pair.purpose == "repeat"]
            views = [
                shown_pair(session=session, pair_id=each, annotator_id=pair.asked_of)
                for pair in repeats
                if pair.asked_of is not None
                for each in (pair.repeats, pair.id)
            ]
        answers = Counter(each.pair_id for each in said if each.verdict != "skip")
        numbered = [pair for pair in pairs.values() if pair.wanted]
        trained = [pair for pair in pairs.values() if pair.purpose == "train"]
        # Never more answers than a pair wants, and none is asked for that is there.
        assert all(answers[pair.id] + pair.open_slots == pair.wanted for pair in numbered)
        # Only those count.
        assert counted == sum(answers[pair.id] for pair in trained)
        # Nobody is asked twice, but by a repeat, which is theirs alone and has the sides swapped.
        assert len({(each.pair_id, each.annotator_id) for each in said}) == len(said)
        assert len({(pair.repeats, pair.asked_of) for pair in repeats}) == len(repeats)
        # Nor is anybody asked a second look at what somebody else had said, if they judged that pair themselves before.
        number = {(each.annotator_id, each.pair_id): each.id for each in said}
        anybodys = {pair.id: pair.repeats for pair in repeats if pair.asked_of is None}
        of_both = [(number.get((who, anybodys[it])), number[who, it]) for who, it in number if it in anybodys]
        assert all(first is None or first > again for first, again in of_both)
        assert all(each.annotator_id == (pairs[each.pair_id].asked_of or each.annotator_id) for each in said)
        twice = zip(views[::2], views[1::2], strict=True)
        assert all((first.left, first.right) == (again.right, again.left) for first, again in twice)


TestQueueLaws = QueueLaws.TestCase
TestQueueLaws.settings = settings(max_examples=15, stateful_step_count=30, deadline=None, database=None)
