"""What selecting gained: figures worked by hand, what counts towards them, and where they come from."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session, select

from store.annotators import retract_annotator
from store.database import _alembic_config, _engine, open_database, reading, writing
from store.errors import NotAllowedError
from store.exporting import export_snapshot
from store.intervals import difference_interval, share_of
from store.models import Pair, Round, SelectedBy, Snapshot, now
from store.roles import on_behalf_of
from store.searching import Search, Sort, write_csv
from store.selected import FEWEST, Gains, read_gains
from store.snapshots import cut_snapshot, read_snapshot
from tests.store import teams
from tests.store.test_database import FIRST_ROWS


def select_as(session: Session, round_id: int, by: str, margin: float | None, said: dict[str, Any]) -> Pair:
    """A pair of the round that was selected so, and what was said of it."""
    pair = teams.ask(session, said)
    pair.round_id, pair.selected_by, pair.selected_margin = round_id, by, margin
    session.add(pair)
    session.flush()
    return pair


def add_round(session: Session, number: int) -> int:
    teams.ask(session, {})  # a checkpoint to be of
    opened = Round(number=number, checkpoint_id=1, target=9)
    session.add(opened)
    session.flush()
    assert opened.id is not None
    return opened.id


def gains(engine: sa.Engine) -> Gains:
    with reading(engine) as session:
        return read_gains(session=session)


@pytest.fixture
def two_rounds(engine: sa.Engine) -> sa.Engine:
    """Two rounds in which Ada was asked; in the second nothing that was left to chance is answered yet."""

    def took(verdict: str, seconds: float) -> dict[str, Any]:
        return {"Ada": {"verdict": verdict, "seconds": seconds}}

    with writing(engine) as session:
        first, second = add_round(session, 1), add_round(session, 2)
        select_as(session, first, "near", 0.1, took("a", 2.0))
        select_as(session, first, "near", 0.2, took("b", 4.0))  # against the policy
        select_as(session, first, "far", -3.0, took("a", 6.0))  # and this
        select_as(session, first, "diverse", None, took("tie", 9.0))  # its margin is not known
        select_as(session, first, "slice", 0.5, took("a", 3.0))
        select_as(session, first, "slice", 0.5, took("both_bad", 5.0))
        select_as(session, first, "slice", -0.5, took("skip", 1.0))
        select_as(session, first, "slice", -0.5, took("b", 8.0))
        select_as(session, first, "random", None, took("tie", 90.0))  # on neither side
        select_as(session, first, "held_out", None, took("tie", 90.0))  # nor is this
        select_as(session, second, "near", 0.1, took("b", 50.0))
    return engine


def test_figures_worked_by_hand(two_rounds: sa.Engine) -> None:
    found = gains(two_rounds)
    assert found.pairs == {"near": 3, "far": 1, "diverse": 1, "slice": 4, "random": 1, "held_out": 1}
    [gain] = found.rounds
    selected, by_chance = gain.selected, gain.by_chance
    assert (gain.round, selected.verdicts, by_chance.verdicts) == (1, 4, 4)
    assert (selected.preferences.value, by_chance.preferences.value) == (0.75, 0.5)
    assert (selected.guessed_wrong.value, selected.guessed_wrong.count) == (2 / 3, 3)
    assert (by_chance.guessed_wrong.value, by_chance.guessed_wrong.count) == (0.0, 2)
    assert (selected.seconds.value, by_chance.seconds.value) == (5.0, 4.0)
    assert gain.seconds is None  # four values say nothing of how sure their median is
    shares = share_of([1, 1, 1, 0], range(4)), share_of([1, 0, 0, 1], range(4))
    assert gain.preferences == difference_interval(*shares)
    assert gain.preferences[0] < 0 < gain.preferences[1] and not gain.is_told
    # The second round has one side only: what is different there would be the round, not the selection.
    assert (found.all.round, found.all.selected, found.all.by_chance) == (None, selected, by_chance)


def test_what_was_taken_back_or_is_not_trusted_does_not_count(two_rounds: sa.Engine) -> None:
    with writing(two_rounds) as session:
        pair = session.exec(select(Pair).where(Pair.selected_by == SelectedBy.SLICE)).first()
        assert pair is not None
        teams.say(session, pair, "Ben", verdict="tie")
        teams.say(session, pair, "Cleo", verdict="tie", superseded_at=now())
        teams.say(session, pair, "Rae", verdict="b", adjudicates=True)
    assert gains(two_rounds).all.by_chance.verdicts == 5
    with writing(two_rounds) as session:
        retract_annotator(session=session, name="Ben")
    assert gains(two_rounds).all.by_chance.verdicts == 4


def test_several_verdicts_on_a_prompt_count_as_one_time(engine: sa.Engine) -> None:
    with writing(engine) as session:
        number = add_round(session, 1)
        everybody = {
            name: {"verdict": "a", "seconds": each} for name, each in zip("xyz", (1.0, 2.0, 30.0), strict=True)
        }
        select_as(session, number, "near", 1.0, everybody)
        select_as(session, number, "slice", 1.0, {"x": "b"})
    [gain] = gains(engine).rounds
    assert (gain.selected.verdicts, gain.selected.prompts) == (3, 1)
    assert (gain.selected.seconds.value, gain.selected.seconds.count) == (2.0, 1)
    assert gain.by_chance.seconds.value is None


def test_a_planted_gain_is_told(engine: sa.Engine) -> None:
    """Of selected pairs 9 in 10 are decided, of the others 4 in 10; 40 prompts on each side."""
    with writing(engine) as session:
        number = add_round(session, 1)
        for index in range(40):
            near, left = index % 10 < 9, index % 10 < 4
            seconds = 2.0 + index / 100
            select_as(session, number, "near", 0.1, {"Ada": {"verdict": "ab"[index % 2] if near else "tie"}})
            select_as(session, number, "slice", 2.0, {"Ada": {"verdict": "a" if left else "tie", "seconds": seconds}})
    found = gains(engine).all
    assert found.is_told and FEWEST <= 40
    assert found.preferences is not None and 0.25 < found.preferences[0] < 0.5 < found.preferences[1] < 0.75
    assert found.selected.guessed_wrong.value == pytest.approx(16 / 36)  # "b" in 4 of 9, and nothing is made of it


def test_where_nothing_was_selected_there_is_nothing_to_say(engine: sa.Engine, make_round: Any) -> None:
    make_round(engine, pairs=2)
    found = gains(engine)
    assert (found.pairs, found.rounds, found.all.is_told) == ({}, [], False)


@pytest.fixture
def chosen(engine: sa.Engine, tmp_path: Path) -> Snapshot:
    """Of three pairs a is chosen, then b, then a; the first two were selected."""
    with writing(engine) as session:
        number = add_round(session, 1)
        select_as(session, number, "near", 0.25, {"Ada": "a"})
        select_as(session, number, "far", 0.5, {"Ada": "b"})
        teams.ask(session, {"Ada": "a"})
        return cut_snapshot(session=session, folder=tmp_path)


def test_a_snapshot_has_how_its_pairs_were_selected(engine: sa.Engine, chosen: Snapshot, tmp_path: Path) -> None:
    """The margin is that of the chosen text: against the policy it is negative."""
    rows = read_snapshot(snapshot=chosen, folder=tmp_path, split="train")
    assert len(rows) == 3
    told = {(row["selected_by"], row["reward_margin"]) for row in rows if "selected_by" in row}
    assert told == {("near", 0.25), ("far", -0.5)}


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_an_export_has_it_too(engine: sa.Engine, chosen: Snapshot, tmp_path: Path, file_format: str) -> None:
    from datasets import load_dataset

    target = tmp_path / "out"
    with reading(engine) as session:
        export_snapshot(session=session, snapshot=chosen, folder=tmp_path, target=target, file_format=file_format)
    loaded = load_dataset(str(target), cache_dir=str(tmp_path / "cache"))["train"]
    told = set(zip(loaded["selected_by"], loaded["reward_margin"], strict=True))
    assert told == {("near", 0.25), ("far", -0.5), (None, None)}
    assert "| `reward_margin` | float64 |" in (target / "README.md").read_text()


def test_the_csv_of_comparisons_has_it_by_side(engine: sa.Engine, chosen: Snapshot) -> None:
    stream = io.StringIO(newline="")
    with reading(engine) as session:
        write_csv(session=session, search=Search(sort=Sort.OLDEST), stream=stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue(), newline="")))
    assert [(row["selected_by"], row["reward_margin"]) for row in rows] == [("near", "0.25"), ("far", "0.5"), ("", "")]


def test_annotators_are_not_told(engine: sa.Engine, people: list[int]) -> None:
    with reading(on_behalf_of(engine, people[0])) as session, pytest.raises(NotAllowedError):
        read_gains(session=session)


def test_pairs_from_before_there_was_selection_were_not_selected(tmp_path: Path) -> None:
    from alembic import command

    path = tmp_path / "pairloop.db"
    old = _engine(f"sqlite:///{path}")
    with old.begin() as connection:
        config = _alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in FIRST_ROWS[:-1]:
            connection.exec_driver_sql(statement)
        command.upgrade(config, "0008")
        before = connection.exec_driver_sql("SELECT * FROM pair").one()
    old.dispose()
    engine = open_database(f"sqlite:///{path}")
    with engine.connect() as connection:
        after = connection.exec_driver_sql("SELECT * FROM pair").one()
    assert tuple(after) == (*before, None, None)
    assert gains(engine).pairs == {}
