"""What an effort took of people: counted by hand, by kind and by person; imports and what was taken back are apart."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from store.annotators import get_or_add_annotator, retract_annotator
from store.database import reading, writing
from store.effort import Effort, count_labels, read_effort
from store.errors import NotAllowedError
from store.models import Prompt, Purpose, Round, now
from store.ranking_tables import Ranking, Slate
from store.roles import on_behalf_of
from tests.store import teams

START = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


def after(minutes: int, verdict: str = "a", **given: object) -> dict[str, object]:
    return {"verdict": verdict, "after": timedelta(minutes=minutes)} | given


@pytest.fixture
def asked(engine: sa.Engine) -> sa.Engine:
    """One of everything, Ada's but where it says so."""
    with writing(engine) as session:
        pair = teams.ask(session, {"Ada": after(1, seconds=10.0), "Ben": after(2, "tie", seconds=20.0)})
        session.add(Round(id=1, number=1, checkpoint_id=1, target=9))
        session.flush()
        pair.round_id = 1
        teams.ask(session, {"Ada": after(3, "skip", seconds=3.0)})
        held = teams.ask(session, {"Ada": after(4, "b")})  # which nobody timed
        session.get_one(Prompt, held.prompt_id).held_out = True
        teams.ask(session, {"Ada": after(5, seconds=7.0)}, purpose=Purpose.DUEL)
        teams.ask(session, {"Ada": after(6), "Ben": after(6, superseded_at=now())}, purpose=Purpose.GOLD, gold="a")
        teams.ask_again(session, pair, "Ada", "b")
        teams.ask(session, {"Ada": after(7)}, purpose=Purpose.REWRITE)
        teams.say(session, pair, "Rae", verdict="b", adjudicates=True, after=timedelta(minutes=8))
        teams.ask(session, {"import:file": after(0), "import:other": after(0)})
    return engine


def effort(engine: sa.Engine, **given: object) -> Effort:
    with reading(engine) as session:
        return read_effort(session=session, **given)  # type: ignore[arg-type]


def test_every_kind_is_counted_once(asked: sa.Engine) -> None:
    found = effort(asked)
    assert found.all.kinds == {"train": 2, "held_out": 1, "duel": 1, "measuring": 2, "decision": 1}
    assert (found.all.labels, found.all.skips, found.all.rewrites) == (7, 1, 1)
    assert [(one.name, one.work.labels) for one in found.by] == [("Ada", 5), ("Ben", 1), ("Rae", 1)]
    assert found.imported == {"import:file": 1, "import:other": 1}


def test_time_is_that_of_what_was_timed_skips_among_it(asked: sa.Engine) -> None:
    found = effort(asked)
    assert (found.all.seconds, found.all.timed, found.all.pieces) == (40.0, 4, 8)
    assert found.pace == 10.0
    ada = found.by[0].work
    assert (ada.seconds, ada.timed) == (20.0, 3)


def test_of_a_round_alone(asked: sa.Engine) -> None:
    found = effort(asked, round_ids=[1])
    assert found.all.kinds == {"train": 2, "decision": 1} and found.imported == {}
    assert found.last == START + timedelta(minutes=8)
    nothing = effort(asked, round_ids=[])
    assert (nothing.by, nothing.pace, nothing.last) == ([], None, None)


def test_a_ranking_is_one_piece_of_work(engine: sa.Engine) -> None:
    with writing(engine) as session:
        pairs = [teams.ask(session, {}) for _ in range(3)]
        ben = get_or_add_annotator(session=session, name="Ben").id
        slate = Slate(prompt_id=pairs[0].prompt_id, content_hash="x", size=3, order_seed=0)
        session.add(slate)
        session.flush()
        ranking = Ranking(slate_id=slate.id, annotator_id=ben, outcome="ranked", tiers=[[0], [1], [2]], seconds=30.0)
        session.add(ranking)
        session.flush()
        for pair in pairs:
            teams.say(session, pair, "Ben", verdict="a", ranking_id=ranking.id)
    found = effort(engine)
    assert (found.all.labels, found.all.pieces, found.all.timed, found.all.seconds) == (3, 1, 1, 30.0)


def test_who_was_retracted_worked_as_well(asked: sa.Engine) -> None:
    with writing(asked) as session:
        retract_annotator(session=session, name="Ada")
    found = effort(asked)
    assert found.all.labels == 7 and [one.name for one in found.by if one.retracted] == ["Ada"]


def test_labels_are_counted_up_to_a_moment(asked: sa.Engine) -> None:
    with reading(asked) as session:
        counts = [count_labels(session=session, until=START + timedelta(minutes=each)) for each in (0, 1, 3, 5, 8)]
        assert count_labels(session=session, until=now()) == effort(asked).all.labels
    assert counts == [0, 1, 2, 4, 6]  # the repeat came today


def test_annotators_are_not_told(asked: sa.Engine) -> None:
    with reading(on_behalf_of(asked, 1)) as session, pytest.raises(NotAllowedError):
        read_effort(session=session)
