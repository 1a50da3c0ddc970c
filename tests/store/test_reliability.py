"""Reliability: annotators simulated by the model itself are found out; laws; and what snapshots make of it."""

from datetime import timedelta
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.annotators import retract_annotator
from store.database import reading, writing
from store.dawid_skene import KNOWN, PRIOR, fit_reliability
from store.exporting import export_snapshot
from store.models import Purpose
from store.preferences import poll_comparisons
from store.quality import read_quality
from store.reliability import chance_by_votes, read_reliability
from store.snapshot_filter import SnapshotFilter
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


def test_saying_the_same_again_is_no_second_vote():
    votes, _ = simulated(TEAM, pairs=60, each=3)
    assert fit_reliability(votes * 2, {}) == fit_reliability(votes, {})
    assert values(fit_reliability([(0, "Ada", True), (0, "Ada", False)], {0: False}))["Ada"] == pytest.approx(
        (PRIOR[0] + KNOWN) / (sum(PRIOR) + 1)
    ), "the last counts"


@pytest.mark.parametrize("agreed", range(0, 31, 3))
def test_two_who_are_told_apart_by_nothing(agreed):
    """Ada and Ben agree on so many of 30 pairs, and nobody else says anything: whatever holds of her holds of him."""
    votes = [(pair, name, name == "Ada" or pair < agreed) for pair in range(30) for name in ("Ada", "Ben")]
    found = fit_reliability(votes, {})
    ada, ben = found.accuracy["Ada"], found.accuracy["Ben"]
    assert ada.value == pytest.approx(ben.value, abs=1e-6)
    assert agreed == 30 or found.first[29] == pytest.approx(0.5, abs=1e-6), "where they disagree, nobody knows"
    assert agreed == 0 or found.first[0] > 0.75
    for each in (ada, ben):
        assert each.interval is None or 0 < each.interval[0] < each.value < each.interval[1] < 1
    assert (ada.interval is None) == (ben.interval is None) == (agreed <= 12)


def test_who_disagree_more_often_than_chance_are_not_both_as_good_as_a_coin():
    """One of them is right and the other wrong: as both fits are as probable, either is believed by half."""
    votes = [(pair, name, name == "Ada" or pair < 3) for pair in range(30) for name in ("Ada", "Ben")]
    ada = fit_reliability(votes, {}).accuracy["Ada"]
    told = fit_reliability([*votes, *((pair, "Ada", True) for pair in (30, 31, 32))], dict.fromkeys((30, 31, 32), True))
    assert (ada.interval, ada.value) == (None, pytest.approx(0.6, abs=0.01))
    assert told.accuracy["Ada"].value > 0.85 and told.accuracy["Ben"].value < 0.35


def ranked(lapses: dict[str, float], *, prompts: int, texts: int, seed: int):
    """Everybody ranks the texts of each prompt as they are, but now and then by lot; all comparisons, and the prompts.

    Of what is ranked by lot half is right, so that who lapses in a share of prompts errs in half as many comparisons.
    """
    draw, votes = np.random.default_rng(seed), []
    for prompt in range(prompts):
        worth = draw.permutation(texts)
        for name, share in lapses.items():
            seen = draw.permutation(texts) if draw.random() < share else worth
            votes += [
                ((prompt, one, other), name, bool(seen[one] > seen[other]))
                for one, other in combinations(range(texts), 2)
            ]
    return votes, {item: item[0] for item, _, _ in votes}


def test_intervals_allow_for_comparisons_that_came_of_one_ranking():
    lapses, covered = {"Ada": 0.2, "Ben": 0.4, "Cleo": 0.6}, {"by prompt": [], "by pair": []}
    for seed in range(40):
        votes, prompts = ranked(lapses, prompts=30, texts=6, seed=seed)
        for how, named in (("by prompt", prompts), ("by pair", None)):
            found = fit_reliability(votes, {}, named).accuracy
            inside = [
                found[name].interval[0] <= 1 - share / 2 <= found[name].interval[1] for name, share in lapses.items()
            ]
            covered[how] += inside
    assert np.mean(covered["by prompt"]) > 0.9
    assert np.mean(covered["by pair"]) < 0.8, "what counting them as independent comes to"


def test_an_interval_by_prompts_where_all_answers_are_known_is_that_of_their_shares():
    """Five pairs of each prompt, all right or all wrong: as wide as if each prompt were one pair."""
    votes = [((prompt, pair), "Ada", prompt % 10 > 2) for prompt in range(200) for pair in range(5)]
    known = {item: True for item, _, _ in votes}
    found = fit_reliability(votes, known, {item: item[0] for item in known}).accuracy["Ada"]
    error = (0.7 * 0.3 / 200) ** 0.5 / (0.7 * 0.3)  # of the log-odds, by the delta method
    odds = [np.log(each / (1 - each)) for each in found.interval]
    assert odds[1] - odds[0] == pytest.approx(2 * 1.96 * error, rel=0.05)


@pytest.mark.parametrize(
    ("named", "against", "chance"),
    # (1 + 1/3) / (1 + 2/3) = 4/5, as one unknown annotator; 10/11; (2 + 1/3) / (3 + 2/3) = 7/11; and a half.
    [(1, 0, 0.8), (0, 1, 0.2), (2, 0, 0.875), (3, 0, 0.9091), (2, 1, 0.6364), (1, 1, 0.5), (0, 0, 0.5)],
)
def test_what_votes_alone_are_worth(named, against, chance):
    assert chance_by_votes(named, against) == chance


VOTES = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["Ada", "Ben", "Cleo"]), st.booleans()),
    max_size=20,
    unique_by=lambda vote: vote[:2],
)


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
        assert each.interval is None or 0 <= each.interval[0] < each.value < each.interval[1] <= 1
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


def by_snapshot(engine):
    """What a snapshot's confidence comes from."""
    with reading(engine) as session:
        return poll_comparisons(session=session, filter=SnapshotFilter(confidence=True)).reliability


def test_gold_and_decisions_inform_it(engine):
    with writing(engine) as session:
        pair = ask(session, {"Ada": "a", "Mal": "b"})
        ask(session, {"Ada": "tie", "Ben": "both_bad", "Cleo": "skip"})
        ask(session, {"Ada": "a"}, purpose=Purpose.GOLD, gold="b")
        ask(session, {"Ben": "a"}, purpose=Purpose.CALIBRATION, gold="b")
        decided = ask(session, {"Ben": "b"})
        say(session, decided, "Rea", verdict="a", adjudicates=True)
        retract_annotator(session=session, name="Mal")
    found = reliability(engine)
    assert set(found.accuracy) == {"Ada", "Ben"}
    assert found.informative == 2  # Ada's gold verdict, Ben's on the pair that was decided
    for each in found.accuracy.values():
        assert each.value == pytest.approx((PRIOR[0] + 1 - KNOWN) / (sum(PRIOR) + 1))
    assert found.chance(decided.id, first=True) == KNOWN
    assert found.chance(pair.id, first=True) == pytest.approx(found.accuracy["Ada"].value, abs=1e-4)
    assert by_snapshot(engine).accuracy == found.accuracy


def test_consistency_is_not_taken_for_being_right(engine):
    """Ada is right on 13 of 20 gold pairs, and says the same each time she is asked again, as on 20 pairs of hers."""
    with writing(engine) as session:
        for number in range(20):
            said = "a" if number < 13 else "b"
            gold = ask(session, {"Ada": said}, purpose=Purpose.GOLD, gold="a")
            for pair in (gold, ask(session, {"Ada": said})):
                ask_again(session, pair, "Ada", "b" if said == "a" else "a")
    with reading(engine) as session:
        (ada,) = read_quality(session=session).annotators
    assert (ada.habits.consistency.value, ada.habits.consistency.count) == (1, 40)
    found = reliability(engine)
    right = (PRIOR[0] + 13 * KNOWN + 7 * (1 - KNOWN)) / (sum(PRIOR) + 20)
    assert values(found) == {"Ada": pytest.approx(right)} == values(by_snapshot(engine))
    assert found.chance(2, first=True) == pytest.approx(right, abs=1e-4), "a single vote, whatever was repeated"


def test_second_looks_do_not_count_against_anybody(engine):
    """They were picked for being probably wrong: Ada takes back what she is asked of again, Cleo knows those alone."""
    with writing(engine) as session:
        pairs = [ask(session, {"Ada": "a", "Ben": "a"}) for _ in range(20)]
    before, snapshot_before = reliability(engine), by_snapshot(engine)
    with writing(engine) as session:
        for pair in pairs[:5]:
            ask_again(session, pair, "Ada", "a").wanted = 1
        ask_again(session, pairs[6], "Cleo", "a").wanted = 1
    assert reliability(engine) == before and by_snapshot(engine) == snapshot_before
    assert before.accuracy["Ada"].value > 0.9


def test_of_two_decisions_the_latest_is_the_answer(engine):
    """In the reliability of a training as on the Team page; and the latest that names neither leaves none."""
    with writing(engine) as session:
        for number in range(10):
            pair = ask(session, {"Ada": "a"})
            for day, (researcher, verdict) in enumerate((("Rea", "a"), ("Rob", "b"))):
                say(session, pair, researcher, verdict=verdict, adjudicates=True, after=timedelta(days=day))
            if number == 9:
                say(session, pair, "Rex", verdict="tie", adjudicates=True, after=timedelta(days=2))
    wrong = pytest.approx((PRIOR[0] + 9 * (1 - KNOWN)) / (sum(PRIOR) + 9))
    assert values(reliability(engine)) == {"Ada": wrong}
    assert values(by_snapshot(engine)) == {"Ada": wrong}


def test_who_saw_the_same_two_texts_twice_has_one_vote(engine):
    with writing(engine) as session:
        for _ in range(3):
            ask(session, {"Ada": "a", "Ben": "a"}, prompt="the same")
    assert by_snapshot(engine).informative == 2


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
