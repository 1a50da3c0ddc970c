"""Reliability: annotators simulated by the model itself are found out; laws; and what snapshots make of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.annotators import retract_annotator
from store.database import reading, writing
from store.exporting import export_snapshot
from store.models import Purpose
from store.preferences import SnapshotFilter
from store.reliability import KNOWN, PRIOR, fit_reliability, read_reliability
from store.snapshots import cut_snapshot, read_snapshot, snapshot_pairs
from tests.store.teams import ask, ask_again, say

BEFORE = PRIOR[0] / sum(PRIOR)


def simulated(accuracies: dict[str, float], *, pairs: int, each: int, seed: int = 0):
    """Votes of annotators who are right that often, each pair asked of some of them; and the truth."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 2, pairs).astype(bool)
    names = list(accuracies)
    votes = [
        (pair, name, bool(truth[pair] == (draw.random() < accuracies[name])))
        for pair in range(pairs)
        for name in draw.choice(names, each, replace=False)
    ]
    return votes, truth


TEAM = {"sure": 0.95, "good": 0.85, "fair": 0.75, "poor": 0.6, "coin": 0.5, "contrary": 0.2}


def test_simulated_annotators_are_found_out():
    votes, _ = simulated(TEAM, pairs=3000, each=4)
    assert values(fit_reliability(votes, {})) == pytest.approx(TEAM, abs=0.03)


@pytest.mark.parametrize(("pairs", "team"), [(40, None), (1500, TEAM)])
def test_the_intervals_hold_who_was_planted(pairs, team):
    """Of 95% intervals, 95% hold the truth: on little data for annotators as the prior has them, on more for any."""
    covered = []
    for seed in range(60):
        drawn = np.random.default_rng(seed).beta(PRIOR[0] + 1, PRIOR[1] + 1, 6)
        planted = team or {f"annotator {number}": accuracy for number, accuracy in enumerate(drawn)}
        votes, truth = simulated(planted, pairs=pairs, each=3, seed=seed)
        known = {pair: bool(truth[pair]) for pair in range(0, pairs, 10)}
        found = fit_reliability(votes, known).accuracy
        covered += [found[name].interval[0] <= right <= found[name].interval[1] for name, right in planted.items()]
    assert 0.92 < np.mean(covered) < 0.98


def test_an_interval_where_all_answers_are_known_is_that_of_a_coin():
    votes = [(pair, "Ada", pair % 4 > 0) for pair in range(400)]
    found = fit_reliability(votes, dict.fromkeys(range(400), True)).accuracy["Ada"]
    error = (found.value * (1 - found.value) / (400 + sum(PRIOR))) ** 0.5
    assert found.interval == pytest.approx((found.value - 1.96 * error, found.value + 1.96 * error), abs=0.005)
    assert found.count == 400


def values(found):
    return {name: each.value for name, each in found.accuracy.items()}


def test_chances_are_what_they_say():
    votes, truth = simulated(TEAM, pairs=6000, each=3, seed=1)
    found = fit_reliability(votes, {})
    chances = np.array([found.first[pair] for pair in range(6000)])
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        within = (chances >= low) & (chances < low + 0.2)
        assert within.sum() > 100
        three_errors = 3 * 0.5 / np.sqrt(within.sum())
        assert truth[within].mean() == pytest.approx(chances[within].mean(), abs=three_errors)


def test_it_beats_the_majority_where_annotators_differ():
    votes, truth = simulated({"sure": 0.97, "fair": 0.7, "poor": 0.6}, pairs=2000, each=3, seed=2)
    found = fit_reliability(votes, {})
    by_model = np.mean([(found.first[pair] > 0.5) == truth[pair] for pair in range(2000)])
    for_first = np.bincount([pair for pair, _, first in votes if first], minlength=2000) >= 2
    assert by_model > np.mean(for_first == truth) + 0.06


def test_one_annotator_alone_is_taken_at_the_priors_word():
    found = fit_reliability([(pair, "Ada", pair % 3 == 0) for pair in range(500)], {})
    assert values(found) == {"Ada": pytest.approx(BEFORE)}
    assert found.chance(0, first=True) == found.chance(1, first=False) == round(BEFORE, 4)
    assert found.informative == 0


def test_few_labels_prove_nobody_perfect_or_useless():
    right, wrong = PRIOR
    agreed = fit_reliability([(0, "Ada", True), (0, "Ben", True)], {}).accuracy["Ada"].value
    assert BEFORE < agreed < (right + 1) / (right + wrong + 1)
    known = (
        fit_reliability([(pair, "Ada", False) for pair in range(3)], dict.fromkeys(range(3), True))
        .accuracy["Ada"]
        .value
    )
    assert known == pytest.approx((right + 3 * (1 - KNOWN)) / (right + wrong + 3))


def test_known_answers_are_believed_and_tell_who_is_right():
    votes = [(pair, name, name == "Ada") for pair in range(40) for name in ("Ada", "Ben", "Cleo")]
    known = dict.fromkeys(range(30), True)
    found = fit_reliability(votes, known)
    assert values(found)["Ada"] > 0.9
    assert values(found)["Ben"] < 0.3
    assert found.first[0] == pytest.approx(KNOWN)
    assert found.first[39] > 0.9, "against the majority"


def test_contradicting_oneself_costs_credit():
    def accuracy(again: bool) -> float:
        said = [(pair, "Ada", first) for pair in range(30) for first in (True, again)]
        return fit_reliability(said, {}).accuracy["Ada"].value

    assert accuracy(again=True) > 0.9
    assert accuracy(again=False) == pytest.approx((PRIOR[0] + 30) / (sum(PRIOR) + 60))  # right in one of two, whichever


VOTES = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["Ada", "Ben", "Cleo"]), st.booleans()), max_size=30)


@given(VOTES, st.sets(st.integers(0, 6)), st.dictionaries(st.integers(0, 6), st.booleans(), max_size=2), st.randoms())
@settings(max_examples=30)
def test_neither_the_order_nor_what_is_called_first_matters(votes, turned, known, shuffled):
    found = fit_reliability(votes, known)
    swapped = [(item, name, first != (item in turned)) for item, name, first in votes]
    shuffled.shuffle(swapped)
    other = fit_reliability(swapped, {item: first != (item in turned) for item, first in known.items()})
    assert values(other) == pytest.approx(values(found), abs=1e-7)
    for name, each in found.accuracy.items():
        assert other.accuracy[name].interval == pytest.approx(each.interval, abs=1e-6)
        assert 0 <= each.interval[0] < each.value < each.interval[1] <= 1
    for item in found.first:
        assert other.chance(item, first=item not in turned) == pytest.approx(found.chance(item, first=True), abs=1e-4)
        assert found.chance(item, first=True) + found.chance(item, first=False) == pytest.approx(1, abs=1e-3)
    assert fit_reliability(list(reversed(votes)), known) == found


def test_a_hundred_thousand_votes_settle():
    votes, truth = simulated({f"annotator {n}": 0.6 + 0.01 * n for n in range(30)}, pairs=50_000, each=2, seed=3)
    found = fit_reliability(votes, {})
    assert np.mean([(found.first[pair] > 0.5) == truth[pair] for pair in range(50_000)]) > 0.75


# From rows, and into snapshots


def reliability(engine):
    with reading(engine) as session:
        return read_reliability(session=session)


def test_gold_repeats_and_decisions_inform_it(engine):
    with writing(engine) as session:
        pair = ask(session, {"Ada": "a", "Mal": "b"})
        ask_again(session, pair, "Ada", "b")  # the same completion again
        ask(session, {"Ada": "tie", "Ben": "both_bad", "Cleo": "skip"})
        ask(session, {"Ada": "a"}, purpose=Purpose.GOLD, gold="b")
        ask(session, {"Ben": "a"}, purpose=Purpose.CALIBRATION, gold="b")
        decided = ask(session, {"Ben": "b"})
        say(session, decided, "Rea", verdict="a", adjudicates=True)
        retract_annotator(session=session, name="Mal")
    found = reliability(engine)
    assert set(found.accuracy) == {"Ada", "Ben"}
    assert found.informative == 4  # Ada twice on one pair, her gold verdict, Ben's on the pair that was decided
    assert found.accuracy["Ben"].value == pytest.approx((PRIOR[0] + 1 - KNOWN) / (sum(PRIOR) + 1))
    assert found.chance(decided.id, first=True) == KNOWN
    assert found.chance(pair.id, first=True) > 0.8


def cut(engine, folder, **options):
    with writing(engine) as session:
        return cut_snapshot(session=session, folder=folder, filter=SnapshotFilter(**options))


def rows(snapshot, folder) -> dict[str, dict]:
    return {row["prompt"][0]["content"]: row for row in read_snapshot(snapshot=snapshot, folder=folder, split="train")}


@pytest.fixture
def team(engine):
    """Ada agrees with what is known, Ben and Cleo with each other alone."""
    with writing(engine) as session:
        for number in range(30):
            ask(session, {"Ada": "a", "Ben": "b", "Cleo": "b"}, purpose=Purpose.GOLD, gold="a", prompt=f"gold {number}")
        ask(session, {"Ada": "a"}, prompt="Ada")
        ask(session, {"Ben": "a"}, prompt="Ben")
        ask(session, {"Ada": "a", "Ben": "b", "Cleo": "b"}, prompt="against Ada")
        ask(session, {"Ada": "a", "Ben": "tie", "Cleo": "a"}, prompt="with Cleo")
        ask(session, {"Dan": "b"}, prompt="Dan")
    return engine


def test_snapshots_carry_confidence_where_it_is_asked_for(team, tmp_path):
    snapshot = cut(team, tmp_path, confidence=True)
    found = rows(snapshot, tmp_path)
    assert set(found) == {"Ada", "Dan", "with Cleo"}  # the others are no more likely right than wrong
    assert found["Ada"]["confidence"] > 0.9
    assert found["Dan"]["confidence"] == BEFORE
    assert 0.5 < found["with Cleo"]["confidence"] < found["Ada"]["confidence"]
    assert snapshot.manifest["dropped"]["low_agreement"] == 4
    assert snapshot.manifest["filter"]["confidence"] is True
    assert snapshot.manifest["confidence"]["annotators"] == 4
    assert "Ada" not in str(snapshot.manifest)
    with reading(team) as session:
        pairs = snapshot_pairs(session=session, snapshot=snapshot, folder=tmp_path, split="train")
    assert {pair.confidence for pair in pairs} == {row["confidence"] for row in found.values()}


def test_the_same_comparisons_give_the_same_confidence(team, tmp_path):
    assert cut(team, tmp_path, confidence=True).hash == cut(team, tmp_path, confidence=True).hash
    plain = cut(team, tmp_path)
    assert "confidence" not in plain.manifest and "confidence" not in plain.manifest["filter"]
    assert all("confidence" not in row for row in rows(plain, tmp_path).values())


def test_who_is_left_out_says_nothing_of_the_others_either(team, tmp_path):
    found = rows(cut(team, tmp_path, confidence=True, exclude_annotators=("Ben", "Cleo")), tmp_path)
    assert set(found) == {"Ada", "against Ada", "with Cleo", "Dan"}
    assert found["against Ada"]["confidence"] == found["Ada"]["confidence"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_exports_have_the_column_too(team, tmp_path, kind):
    snapshot = cut(team, tmp_path, confidence=True)
    with reading(team) as session:
        export_snapshot(session=session, snapshot=snapshot, folder=tmp_path, target=tmp_path / "out", file_format=kind)
    assert "| `confidence` | float64 |" in (tmp_path / "out" / "README.md").read_text()
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert sorted(loaded["confidence"]) == sorted(row["confidence"] for row in rows(snapshot, tmp_path).values())
    assert "adjudicated" not in loaded.column_names
