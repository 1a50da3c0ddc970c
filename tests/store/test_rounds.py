"""Rounds: one open at a time, and decided once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from store.checkpoints import add_checkpoint
from store.database import reading, writing
from store.decisions import decide_round, serving_checkpoint
from store.errors import StateError, UnknownRecordError
from store.models import Decision, Round, RoundStatus
from store.rounds import (
    add_round,
    get_round,
    is_paused,
    latest_round,
    list_rounds,
    pause_round,
    set_round_status,
)


def open_round(engine: sa.Engine) -> Round:
    with writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="checkpoints/base")
        return add_round(session=session, checkpoint_id=base.id, target=10)


def train(engine: sa.Engine, opened: Round) -> None:
    """Bring a round to where it has a checkpoint to decide about."""
    with writing(engine) as session:
        made = add_checkpoint(session=session, name=f"round-{opened.number}", path="x", parent_id=1)
        session.get_one(Round, opened.id).result_checkpoint_id = made.id
        set_round_status(session=session, round_id=opened.id, status=RoundStatus.DECIDING)


def decide(engine: sa.Engine, opened: Round, decision: Decision) -> Round:
    with writing(engine) as session:
        return decide_round(session=session, round_id=opened.id, decision=decision, by="Ada")


def test_one_round_is_open_at_a_time(engine: sa.Engine) -> None:
    first = open_round(engine)
    with pytest.raises(StateError, match=r"Round 1 is still open \(sampling\)"):
        open_round(engine)
    train(engine, first)
    decide(engine, first, Decision.KEEP)
    assert [first.number, open_round(engine).number] == [1, 2]
    with reading(engine) as session:
        assert [found.number for found in list_rounds(session=session)] == [1, 2]
        assert latest_round(session=session).number == 2
        assert get_round(session=session, number=1).id == first.id


def test_there_may_be_no_round_yet(engine: sa.Engine) -> None:
    with reading(engine) as session:
        assert latest_round(session=session) is None
        with pytest.raises(UnknownRecordError, match="no round 1"):
            get_round(session=session, number=1)


def test_nothing_is_decided_before_there_is_a_checkpoint(engine: sa.Engine) -> None:
    opened = open_round(engine)
    with pytest.raises(StateError, match=r"no new checkpoint to decide about \(it is sampling\)"):
        decide(engine, opened, Decision.PROMOTE)


def test_a_decision_is_kept_with_who_made_it_and_stands(engine: sa.Engine) -> None:
    opened = open_round(engine)
    train(engine, opened)
    decided = decide(engine, opened, Decision.PROMOTE)
    assert (decided.status, decided.decision, decided.decided_by) == ("done", "promote", "Ada")
    assert decided.decided_at is not None
    with pytest.raises(StateError):
        decide(engine, opened, Decision.KEEP)
    with pytest.raises(StateError, match="Round 1 is done; it cannot go back to comparing"), writing(engine) as session:
        set_round_status(session=session, round_id=opened.id, status=RoundStatus.COMPARING)


def test_only_what_was_promoted_serves(engine: sa.Engine) -> None:
    serving = []
    for decision in (Decision.KEEP, Decision.PROMOTE, Decision.KEEP):
        opened = open_round(engine)
        train(engine, opened)
        decided = decide(engine, opened, decision)
        with reading(engine) as session:
            serving.append(serving_checkpoint(session=session).name)
            assert session.get_one(type(decided), decided.id).decision == decision
    assert serving == ["base", "round-2", "round-2"]


def test_a_target_is_at_least_one(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="x")
        add_round(session=session, checkpoint_id=base.id, target=0)


def test_a_round_that_is_done_is_paused_no_more(engine: sa.Engine) -> None:
    opened = open_round(engine)
    train(engine, opened)
    with writing(engine) as session:
        assert is_paused(pause_round(session=session, round_id=opened.id))
    decided = decide(engine, opened, Decision.KEEP)
    assert (decided.paused_at, is_paused(decided)) == (None, False)
    decided.paused_at = decided.decided_at  # as older versions left it
    assert not is_paused(decided)
