"""Held-out accuracy in slices, and its ceiling: worked by hand, and laws."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import Session, select

from store.annotators import get_or_add_annotator
from store.checkpoints import add_checkpoint
from store.database import open_database, reading, writing
from store.held_out import LITERATURE, STRENGTHS, HeldOut, judging_run, read_held_out, rightness
from store.intervals import share_interval
from store.models import Comparison, Pair, PairReward, Role, Round, Run, Snapshot, now
from store.pairs import NewCompletion, add_completion, add_pair
from tests.store.asking import add_prompt
from tests.store.exchanging import pick_by_hand

PEOPLE = ("Lea", "Max", "Kim")


@dataclass(frozen=True)
class Said:
    """A verdict of somebody on a pair."""

    who: str
    verdict: str
    strength: int | None = None
    criteria: dict[str, str] = field(default_factory=dict)
    adjudicates: bool = False


@dataclass(frozen=True)
class Asked:
    """A pair, what was said of it, and the margins of `chosen` under parent and checkpoint; None: not in the test."""

    said: Sequence[Said]
    before: float | None = 0.0
    after: float | None = 1.0
    chosen: str = "a"
    source: str = "file"
    prompt: int | None = None  # the same number: the same prompt
    held_out: bool = True


def told(
    engine: sa.Engine, asked: Sequence[Asked], *, with_parent: bool = True, round_numbers: list[int] | None = None
) -> int:
    """A database in which this was said, and a train run that judged it; the run's id."""
    with writing(engine) as session:
        base = add_checkpoint(session=session, name="base", path="base")
        new = add_checkpoint(session=session, name="round-1", path="checkpoints/round-1", parent_id=base.id)
        opened = Round(number=1, checkpoint_id=base.id, target=9, status="deciding", result_checkpoint_id=new.id)
        cut = {"round_numbers": round_numbers, "include_imported": True, "exclude_annotators": ["left out"]}
        snapshot = Snapshot(hash="f" * 64, path="snapshots/f", manifest={"filter": cut}, created_at=later(-3600))
        session.add_all([opened, snapshot])
        session.flush()
        asked_for = {"settings": {"snapshot": "f" * 64}, "created_at": later(600)}  # an equal one was cut before
        run = Run(kind="train", status="done", round_id=opened.id, checkpoint_id=new.id, **asked_for)
        session.add(run)
        session.flush()
        for number, one in enumerate(asked):
            pair = _pair(session, opened, number, one)
            for said in one.said:
                _say(session, pair, said)
            margins = {new.id: one.after} | ({base.id: one.before} if with_parent else {})
            session.add_all(
                _reward(run, pair, judge, one.chosen, margin) for judge, margin in margins.items() if margin is not None
            )
        assert run.id is not None
        return run.id


def later(seconds: float) -> datetime:
    return now() + timedelta(seconds=seconds)


def _pair(session: Session, opened: Round, number: int, one: Asked) -> Pair:
    prompt = add_prompt(session, f"question {number if one.prompt is None else one.prompt}", source=one.source)
    prompt.held_out = one.held_out
    assert prompt.id is not None
    news = [NewCompletion(text=f"{number}{side}") for side in "ab"]
    texts = [add_completion(session=session, prompt_id=prompt.id, new=new, checkpoint_id=1) for new in news]
    return add_pair(session=session, prompt_id=prompt.id, completions=texts, round_id=opened.id, position=number)


def _say(session: Session, pair: Pair, said: Said, **given: Any) -> None:
    who = get_or_add_annotator(session=session, name=said.who)
    what = {"strength": said.strength, "criteria": said.criteria, "adjudicates": said.adjudicates} | given
    session.add(Comparison(pair_id=pair.id, annotator_id=who.id, verdict=said.verdict, **what))


def _reward(run: Run, pair: Pair, judge: int | None, chosen: str, margin: float) -> PairReward:
    zeros = dict.fromkeys(
        ("logps_chosen", "logps_rejected", "ref_logps_chosen", "ref_logps_rejected", "reward_rejected"), 0.0
    )
    lengths = {"length_chosen": 1, "length_rejected": 1}
    given = {"split": "test", "chosen_side": chosen, "reward_chosen": margin, "margin": margin} | zeros | lengths
    return PairReward(run_id=run.id, checkpoint_id=judge, pair_id=pair.id, **given)


def read(engine: sa.Engine, run_id: int) -> HeldOut:
    with reading(engine) as session:
        found = read_held_out(session=session, run=session.get_one(Run, run_id))
    assert found is not None
    return found


def shares(found: HeldOut, kind: str) -> dict[str, tuple[float | None, float | None, int]]:
    return {each.name: (each.before.value, each.after.value, each.after.count) for each in found.by[kind]}


HAND = [
    # Lea chose a, as the votes came to; Max saw it the other way round. After: the reward prefers a.
    Asked([Said("Lea", "a", 3, {"tone": "b"}), Said("Max", "b", 1)], before=-1.0, after=2.0),
    # Chosen is b, and the reward prefers a afterwards: wrong. The criterion's choice is a: right.
    Asked([Said("Lea", "b", 2, {"tone": "a", "true": "tie"})], before=0.0, after=-0.5, chosen="b", source="web"),
    # Ties and both-bads are no choices; what is said of a criterion beside them counts.
    Asked([Said("Max", "a"), Said("Lea", "tie", criteria={"tone": "a"})], before=3.0, after=3.0),
    # Not judged (it came to no preference), so in no slice.
    Asked([Said("Max", "a", 3), Said("Lea", "b", 3)], before=None, after=None),
]


def test_slices_worked_by_hand(engine: sa.Engine) -> None:
    found = read(engine, told(engine, HAND))
    assert (found.checkpoint, found.parent) == ("round-1", "base")
    assert (found.pairs.before.value, found.pairs.after.value) == (0.5, pytest.approx(2 / 3))
    assert found.pairs.after.count == 3
    assert (found.choices.before.value, found.choices.after.value, found.choices.after.count) == (0.625, 0.5, 4)
    # Lea a: 0 -> 1; Max b: 1 -> 0; Lea b: 0.5 -> 0; Max a: 1 -> 1
    assert shares(found, "annotator") == {"Lea": (0.25, 0.5, 2), "Max": (1.0, 0.5, 2)}
    assert shares(found, "strength") == {
        "much better": (0.0, 1.0, 1),
        "clearly better": (0.5, 0.0, 1),
        "slightly better": (1.0, 0.0, 1),
        "no strength said": (1.0, 1.0, 1),
    }
    assert shares(found, "source") == {"file": (0.5, 1.0, 2), "web": (0.5, 0.0, 1)}
    # tone: b on the first (1 -> 0), a on the second (0.5 -> 1), a on the third (1 -> 1); a tie in "true" says nothing
    assert shares(found, "criterion") == {"tone": (pytest.approx(2.5 / 3), pytest.approx(2 / 3), 3)}


def test_a_run_from_before_parents_were_kept_has_no_before(engine: sa.Engine) -> None:
    found = read(engine, told(engine, HAND, with_parent=False))
    assert found.pairs.before.value is None
    assert found.pairs.after.value == pytest.approx(2 / 3)
    assert all(each.before.value is None for slices in found.by.values() for each in slices)


def test_intervals_count_the_pairs_of_a_prompt_together(engine: sa.Engine) -> None:
    asked = [Asked([Said("Lea", "a")], after=1.0 if number < 6 else -1.0, prompt=number // 6) for number in range(12)]
    found = read(engine, told(engine, asked))
    values, prompts = [1.0] * 6 + [0.0] * 6, [0] * 6 + [1] * 6
    assert found.pairs.after.interval == pytest.approx(share_interval(values, prompts))
    low, high = found.pairs.after.interval or (0, 0)
    assert high - low > 0.7  # as of two observations, not of twelve


def test_what_was_said_after_the_snapshot_or_left_out_of_it_does_not_count(engine: sa.Engine) -> None:
    run = told(engine, [*HAND[:1], Asked([Said("left out", "a"), Said("Gone", "a"), Said("Changed", "a")])])
    with writing(engine) as session:
        pair = session.get_one(Pair, 2)
        _say(session, pair, Said("Late", "b"), created_at=later(1200))
        for name in ("Gone", "Retracted later"):
            get_or_add_annotator(session=session, name=name).retracted_at = now() if name == "Gone" else later(1200)
        _say(session, pair, Said("Retracted later", "a"))
        changed = get_or_add_annotator(session=session, name="Changed")
        for one in session.exec(select(Comparison).where(Comparison.annotator_id == changed.id)):
            one.superseded_at = later(1200)
    assert set(shares(read(engine, run), "annotator")) == {"Lea", "Max", "Changed", "Retracted later"}


def test_rounds_that_the_snapshot_is_not_of_do_not_count(engine: sa.Engine) -> None:
    assert read(engine, told(engine, HAND, round_numbers=[2])).choices.after.count == 0


def test_the_same_two_texts_in_another_pair_are_the_same_pair(engine: sa.Engine) -> None:
    run = told(engine, HAND[:1])
    with writing(engine) as session:
        first = session.get_one(Pair, 1)
        twin = Pair(
            prompt_id=first.prompt_id,
            completion_a_id=first.completion_b_id,
            completion_b_id=first.completion_a_id,
            side_seed=0,
        )
        session.add(twin)
        session.flush()
        _say(session, twin, Said("Ben", "b", criteria={"true": "b"}))  # what the first pair calls a
    found = read(engine, run)
    assert shares(found, "annotator")["Ben"] == (0.0, 1.0, 1)
    assert shares(found, "criterion")["true"] == (0.0, 1.0, 1)


def voted(*verdicts: str, held_out: bool = True) -> Asked:
    """A pair that so many people judged."""
    said = [Said(who, verdict) for who, verdict in zip(PEOPLE, verdicts, strict=False)]
    return Asked(said, held_out=held_out, after=1.0 if held_out else None, before=0.0 if held_out else None)


def test_the_ceiling_is_how_often_two_agree_on_held_out_pairs(engine: sa.Engine) -> None:
    asked = [voted("a", "a")] * 7 + [voted("a", "b")] * 2 + [voted("a", "a", "b")] + [voted("a", "tie"), voted("b")]
    ceiling = read(engine, told(engine, asked)).ceiling
    assert (ceiling.told_from, ceiling.pairs) == ("held_out", 10)
    assert ceiling.value == pytest.approx(8 / 12)  # 7 alike, 2 not, and of three people one couple of three
    values = [1.0] * 7 + [0.0] * 2 + [1.0, 0.0, 0.0]
    assert (ceiling.low, ceiling.high) == pytest.approx(share_interval(values, [*range(9), 9, 9, 9]))


def test_pairs_that_came_to_no_preference_count_for_the_ceiling(engine: sa.Engine) -> None:
    """Or two people would agree on all that is left."""
    split = Asked(voted("a", "b").said, before=None, after=None)
    ceiling = read(engine, told(engine, [voted("a", "a")] * 6 + [split] * 6)).ceiling
    assert (ceiling.value, ceiling.pairs) == (0.5, 12)


def test_pairs_that_were_picked_by_hand_do_not_count_for_the_ceiling(engine: sa.Engine) -> None:
    run = told(engine, [voted("a", "a")] * 10 + [Asked(voted("a", "b").said, before=None, after=None)])
    assert read(engine, run).ceiling.pairs == 11
    with writing(engine) as session:
        pick_by_hand(session, session.get_one(Pair, 11))
    ceiling = read(engine, run).ceiling
    assert (ceiling.value, ceiling.pairs) == (1.0, 10)


def test_below_ten_pairs_the_rounds_own_agreement_is_the_ceiling(engine: sa.Engine) -> None:
    asked = [voted("a", "a")] * 9 + [voted("a", "b", held_out=False)]
    ceiling = read(engine, told(engine, asked)).ceiling
    assert (ceiling.told_from, ceiling.value, ceiling.pairs) == ("round", 0.9, 10)


def test_and_below_that_the_literature_is(engine: sa.Engine) -> None:
    ceiling = read(engine, told(engine, [voted("a", "a")] * 9)).ceiling
    assert (ceiling.low, ceiling.high) == LITERATURE
    assert (ceiling.told_from, ceiling.value, ceiling.pairs) == ("literature", None, 0)


def test_who_adjudicates_or_imports_is_no_second_annotator(engine: sa.Engine) -> None:
    ruled = [Asked([Said("Lea", "a"), Said("Rae", "a", adjudicates=True), Said("HH", "a")]) for _ in range(12)]
    run = told(engine, ruled)
    with writing(engine) as session:
        get_or_add_annotator(session=session, name="HH").role = Role.SOURCE
    found = read(engine, run)
    assert found.ceiling.told_from == "literature"
    assert set(shares(found, "annotator")) == {"Lea", "Rae", "HH"}  # their choices are held against the reward as any


def test_where_nothing_was_judged_there_is_nothing(engine: sa.Engine) -> None:
    run = told(engine, [Asked([Said("Lea", "a")], before=None, after=None)])
    with reading(engine) as session:
        assert read_held_out(session=session, run=session.get_one(Run, run)) is None
        assert read_held_out(session=session, run=Run(kind="train", settings={})) is None
        assert judging_run(session=session, checkpoint_id=2) is None


def test_the_run_that_judged_a_checkpoint_first(engine: sa.Engine) -> None:
    run = told(engine, HAND)
    with writing(engine) as session:
        again = Run(kind="evaluate", status="done", checkpoint_id=2, settings={"snapshot": "f" * 64})
        session.add(again)
        session.flush()
        session.add(_reward(again, session.get_one(Pair, 1), 2, "a", 1.0))
    with reading(engine) as session:
        judged = judging_run(session=session, checkpoint_id=2)
    assert judged is not None and judged.id == run


VERDICTS = st.sampled_from(["a", "b", "tie", "both_bad", "skip"])
SAID = st.builds(Said, st.just(""), VERDICTS, st.sampled_from(list(STRENGTHS)))


def by_different_people(said: list[Said]) -> list[Said]:
    return [Said(who, one.verdict, one.strength) for who, one in zip(PEOPLE, said, strict=False)]


ASKED = st.builds(
    Asked,
    st.lists(SAID, max_size=3).map(by_different_people),
    before=st.floats(-1, 1),
    after=st.sampled_from([-1.0, 0.0, 1.0]),
    chosen=st.sampled_from("ab"),
    source=st.sampled_from(["file", "web", "demo"]),
)


@settings(max_examples=15)
@given(st.lists(ASKED, min_size=1, max_size=6))
def test_slices_add_up_to_the_whole(blank_database: Path, asked: list[Asked]) -> None:
    """Counts add up, and their accuracies, weighed by these, are the whole's: for each kind that parts it."""
    with blank(blank_database) as engine:
        found = read(engine, told(engine, asked))
    for kind, whole in (("source", found.pairs), ("strength", found.choices), ("annotator", found.choices)):
        slices = found.by[kind]
        assert sum(each.after.count for each in slices) == whole.after.count
        for when in ("before", "after"):
            parts = [getattr(each, when) for each in slices]
            total = sum(part.count * part.value for part in parts)
            if parts:
                assert total / whole.after.count == pytest.approx(getattr(whole, when).value)
    assert found.pairs.after.count == len(asked)
    assert found.pairs.after.value == pytest.approx(sum(rightness(one.after or 0.0) for one in asked) / len(asked))


@contextmanager
def blank(database: Path) -> Iterator[sa.Engine]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pairloop.db"
        shutil.copy(database, path)
        engine = open_database(f"sqlite:///{path}")
        yield engine
        engine.dispose()


@settings(max_examples=15)
@given(st.lists(st.lists(st.sampled_from("ab"), min_size=2, max_size=3), min_size=10, max_size=14))
def test_the_ceiling_is_the_share_of_couples_that_agree(blank_database: Path, votes: list[list[str]]) -> None:
    with blank(blank_database) as engine:
        ceiling = read(engine, told(engine, [voted(*each) for each in votes])).ceiling
    met = [one == other for each in votes for one, other in combinations(each, 2)]
    assert ceiling.value == pytest.approx(sum(met) / len(met))
    assert ceiling.value is not None and ceiling.low <= ceiling.value <= ceiling.high + 1e-9
