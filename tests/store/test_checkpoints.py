"""Checkpoints and annotators: found by name, made once."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from store.annotators import get_annotator, get_or_add_annotator, list_annotators, retract_annotator
from store.checkpoints import add_checkpoint, base_checkpoint, get_checkpoint, list_checkpoints
from store.database import reading, writing
from store.decisions import serving_checkpoint
from store.errors import StateError, StoreError, UnknownRecordError
from store.models import Role


def test_only_the_base_can_be_registered_twice(engine: sa.Engine) -> None:
    with writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="checkpoints/base")
        again = add_checkpoint(session=session, name="base", path="elsewhere")
        assert (again.id, again.path) == (base.id, "checkpoints/base")
        add_checkpoint(
            session=session, name="round-1", path="x", kind="lora", parent_id=base.id, settings={"beta": 0.1}
        )
        with pytest.raises(StateError, match=r"a checkpoint called 'round-1' already, made in x\. It was kept"):
            add_checkpoint(session=session, name="round-1", path="y", parent_id=base.id)
    with reading(engine) as session:
        kept = get_checkpoint(session=session, name="round-1")
        assert (kept.parent_id, kept.kind, kept.settings) == (base.id, "lora", {"beta": 0.1})
        assert [checkpoint.name for checkpoint in list_checkpoints(session=session)] == ["base", "round-1"]
        assert serving_checkpoint(session=session).name == "base"


def test_a_name_that_is_not_there_is_answered_with_those_that_are(engine: sa.Engine) -> None:
    with reading(engine) as session, pytest.raises(UnknownRecordError, match="There are: none yet"):
        base_checkpoint(session=session)
    with writing(engine) as session:
        add_checkpoint(session=session, name="base", path="x")
        with pytest.raises(UnknownRecordError, match=r"no checkpoint called 'round-7'. There are: base\."):
            get_checkpoint(session=session, name="round-7")


def test_the_database_knows_two_kinds_of_checkpoint(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        add_checkpoint(session=session, name="base", path="x", kind="pickle")


def test_lineage_points_at_what_is_there(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), writing(engine) as session:
        add_checkpoint(session=session, name="orphan", path="x", parent_id=41)


def test_an_annotator_is_one_row_however_the_name_is_spaced(engine: sa.Engine) -> None:
    with writing(engine) as session:
        added = [get_or_add_annotator(session=session, name=name).id for name in ("Ada Lo", "  Ada   Lo ", "Ben")]
        assert get_annotator(session=session, name=" Ada  Lo").id == added[0] == added[1]
        get_or_add_annotator(session=session, name="hh-rlhf", role=Role.SOURCE)
    with reading(engine) as session:
        listed = [(annotator.name, annotator.role) for annotator in list_annotators(session=session)]
    assert listed == [("Ada Lo", "annotator"), ("Ben", "annotator"), ("hh-rlhf", "source")]


@pytest.mark.parametrize("name", ["", " \n ", "x" * 81])
def test_a_name_says_something_and_is_not_too_long(engine: sa.Engine, name: str) -> None:
    with writing(engine) as session, pytest.raises(StoreError, match="1 to 80 characters"):
        get_or_add_annotator(session=session, name=name)


def test_an_annotator_is_retracted_once(engine: sa.Engine) -> None:
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="Ada")
        retracted = retract_annotator(session=session, name="Ada")
        assert (retracted.active, retracted.retracted_at is not None) == (False, True)
        with pytest.raises(StateError, match="'Ada' was retracted already"):
            retract_annotator(session=session, name="Ada")
        with pytest.raises(UnknownRecordError, match="no annotator called 'Ben'"):
            retract_annotator(session=session, name="Ben")
