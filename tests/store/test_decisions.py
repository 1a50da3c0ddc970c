"""Which checkpoint serves: what was promoted last, or rolled back to; all of it on record."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from store.checkpoints import add_checkpoint, get_checkpoint
from store.database import reading, writing
from store.decision_tables import DecisionRecord
from store.decisions import (
    decide_round,
    list_decisions,
    roll_back_to,
    served_before,
    serving_checkpoint,
    to_decide_about,
)
from store.errors import StateError
from store.models import Decision, Round, RoundStatus
from store.rounds import add_round


def go_round(engine: sa.Engine, decision: Decision, **record: object) -> None:
    """A round whose checkpoint is decided about."""
    with writing(engine) as session:
        add_checkpoint(session=session, name="base", path="checkpoints/base")
        serving = serving_checkpoint(session=session)
        opened = add_round(session=session, checkpoint_id=serving.id or 0, target=4)
        made = add_checkpoint(session=session, name=f"round-{opened.number}", path="x", parent_id=serving.id)
        opened.result_checkpoint_id, opened.status = made.id, RoundStatus.DECIDING
        session.add(opened)
        session.flush()
        decide_round(session=session, round_id=opened.id or 0, decision=decision, by="Ada", **record)  # type: ignore[arg-type]


def serving(engine: sa.Engine) -> str:
    with reading(engine) as session:
        return serving_checkpoint(session=session).name


def back_to(engine: sa.Engine, name: str) -> None:
    with writing(engine) as session:
        roll_back_to(session=session, checkpoint=get_checkpoint(session=session, name=name), by="Bo")


def test_the_record_says_who_decided_and_what_was_known(engine: sa.Engine) -> None:
    go_round(engine, Decision.PROMOTE, gate={"conditions": []}, forced=True)
    go_round(engine, Decision.KEEP)
    back_to(engine, "base")
    with reading(engine) as session:
        told = [
            (entry.action, entry.by, entry.forced, entry.checkpoint_id) for entry in list_decisions(session=session)
        ]
    assert told == [("promote", "Ada", True, 2), ("keep", "Ada", False, 2), ("roll_back", "Bo", False, 1)]
    assert serving(engine) == "base"


def test_one_can_roll_back_only_to_what_served(engine: sa.Engine) -> None:
    for decision in (Decision.PROMOTE, Decision.KEEP, Decision.PROMOTE):
        go_round(engine, decision)
    with reading(engine) as session:
        assert [entry.name for entry in served_before(session=session)] == ["round-1", "base"]
    with pytest.raises(StateError, match=r"round-2 never served\. What served before: round-1, base"):
        back_to(engine, "round-2")
    with pytest.raises(StateError, match="round-3 serves already"):
        back_to(engine, "round-3")
    back_to(engine, "round-1")
    assert serving(engine) == "round-1"
    with reading(engine) as session:
        assert [entry.name for entry in served_before(session=session)] == ["round-3", "base"]
    back_to(engine, "round-3")
    assert serving(engine) == "round-3"


@pytest.mark.parametrize(
    ("status", "goes_on_with"), [(RoundStatus.COMPARING, "base"), (RoundStatus.TRAINING, "round-1")]
)
def test_an_open_round_goes_on_with_what_serves(engine: sa.Engine, status: RoundStatus, goes_on_with: str) -> None:
    go_round(engine, Decision.PROMOTE)
    with writing(engine) as session:
        opened = add_round(session=session, checkpoint_id=2, target=4)
        opened.status = status
        session.add(opened)
    back_to(engine, "base")
    with reading(engine) as session:
        writer = session.get_one(Round, opened.id).checkpoint_id
        assert writer == get_checkpoint(session=session, name=goes_on_with).id


def deciding(engine: sa.Engine) -> int:
    """A round with a checkpoint to decide about, after one that was promoted."""
    go_round(engine, Decision.PROMOTE)
    with writing(engine) as session:
        opened = add_round(session=session, checkpoint_id=2, target=4)
        made = add_checkpoint(session=session, name="round-2", path="x", parent_id=2)
        opened.result_checkpoint_id, opened.status = made.id, RoundStatus.DECIDING
        session.add(opened)
        return opened.id or 0


def test_a_round_that_changed_since_it_was_read_is_not_decided_as_it_was(engine: sa.Engine) -> None:
    """As on PostgreSQL, where whoever waits for the round's lock had read it before somebody else decided."""
    number = deciding(engine)
    with pytest.raises(StateError, match="it is done"), writing(engine) as session:
        assert session.get_one(Round, number).status == RoundStatus.DECIDING
        session.connection().exec_driver_sql("UPDATE round SET status = 'done' WHERE number = 2")
        decide_round(session=session, round_id=number, decision=Decision.KEEP, by="Bo")
    with reading(engine) as session:
        assert len(list_decisions(session=session)) == 1


def test_a_decision_is_about_the_checkpoint_that_was_shown(engine: sa.Engine) -> None:
    number = deciding(engine)
    with writing(engine) as session:
        with pytest.raises(StateError, match=r"You were shown round-1, but round 2 is about round-2 by now.*Nothing"):
            to_decide_about(session=session, round_id=number, about="round-1")
        assert to_decide_about(session=session, round_id=number, about="round-2")[1].name == "round-2"
        assert to_decide_about(session=session, round_id=number)[1].name == "round-2"


def test_the_database_takes_one_decision_for_a_round(engine: sa.Engine) -> None:
    go_round(engine, Decision.PROMOTE)
    for action in (Decision.KEEP, Decision.PROMOTE):
        with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
            session.add(DecisionRecord(action=action, round_id=1, about_id=2, checkpoint_id=1, by="Bo"))
    for name in ("base", "round-1", "base"):
        back_to(engine, name)
    assert serving(engine) == "base", "to roll back is of no round, and can be done again and again"


@pytest.mark.parametrize("by", ["", "  "])
def test_nobody_in_particular_decides_nothing(engine: sa.Engine, by: str) -> None:
    number = deciding(engine)
    with pytest.raises(StateError, match="Say your name first"), writing(engine) as session:
        decide_round(session=session, round_id=number, decision=Decision.KEEP, by=by)
    with pytest.raises(StateError, match="Say your name first"), writing(engine) as session:
        roll_back_to(session=session, checkpoint=get_checkpoint(session=session, name="base"), by=by)
    assert serving(engine) == "round-1"
