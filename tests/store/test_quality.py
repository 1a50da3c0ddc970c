"""Quality: hand-worked figures, evalica's alpha as an independent one, and laws that hold whatever was said."""

import csv
import time
from datetime import timedelta

import evalica
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from store.agreement import LEAST_PROMPTS, Couple, agreements, alphas, meetings
from store.annotators import retract_annotator
from store.answers import NONE, Answers, answers_version, read_answers, swapped
from store.comparisons import Choice, record_comparison
from store.database import reading, writing
from store.dawid_skene import fit_reliability
from store.errors import StoreError
from store.models import Comparison, Purpose, now
from store.quality import measure_quality, read_quality
from store.quality_tables import csv_text, quality_tables, write_tables
from store.rankings import record_ranking
from store.spreadsheets import safe_cell
from tests.store.teams import ask, ask_again, say
from tests.store.test_rankings import make_slates

A, B, TIE, BAD = range(4)


def answers(said: list[tuple[int, int, int]], prompts: list[int] | None = None) -> Answers:
    """(annotator, pair, verdict) as columns; every pair on a prompt of its own unless told."""
    who, pair, verdict = (np.array(column, dtype=np.int64) for column in zip(*said, strict=True))
    none = np.full(len(said), NONE)
    nothing = np.full(len(said), np.nan)
    prompt = pair if prompts is None else np.array(prompts)
    return Answers(who, pair, prompt, verdict, none, none, none * 0, none, none, none, none, none, nothing, nothing)


def alpha(given: Answers):
    return alphas(given)[0]


def couples(given: Answers) -> list[Couple]:
    return agreements(meetings(given), np.unique(given.annotator)).couples


def table(rows: dict[int, str]) -> Answers:
    """A verdict of each annotator on each pair, by letter; a dot where there is none."""
    codes = {"a": A, "b": B, "t": TIE, "x": BAD}
    said = [(who, pair, codes[each]) for who, row in rows.items() for pair, each in enumerate(row) if each != "."]
    return answers(said)


def other_way_round(given: Answers, pairs: set[int]) -> Answers:
    """The same verdicts with a and b called the other way round in these pairs."""
    turned = np.isin(given.pair, list(pairs))
    return Answers(**vars(given) | {"verdict": np.where(turned, swapped(given.verdict), given.verdict)})


def by_evalica(given: Answers) -> float:
    frame = pd.DataFrame({"who": given.annotator, "pair": given.pair, "said": given.verdict})
    return evalica.alpha(frame.pivot_table(index="who", columns="pair", values="said")).alpha


# Alpha and kappa


def test_an_alpha_worked_out_by_hand():
    found = alpha(table({1: "aabb", 2: "aaba"}))
    # 8 verdicts; one pair of four disagrees: 2 of its 2 verdicts unlike. Expected: (64 - 2 * 16) / 7 = 32 / 7.
    assert found.value == pytest.approx(1 - 2 / (32 / 7))
    assert (found.count, found.interval) == (4, None)  # too few prompts for an interval


def test_a_kappa_worked_out_by_hand():
    found = agreements(meetings(table({1: "aabbt", 2: "aabat"})), np.array([1, 2]))
    assert [each.value for each in (found.all, *found.shares)] == [0.8, 0.8, 0.8]
    assert found.couples == []  # five pairs are too few to hold them against each other
    (kappa, other) = found.kappas
    assert kappa == other
    chance = 0.8 * 0.8 / 2 + 0.2 * 0.2  # both decide in 4 of 5, either side being as likely; both tie in 1 of 5
    assert kappa.value == pytest.approx((0.8 - chance) / (1 - chance))


VERDICTS = st.lists(st.lists(st.sampled_from("abtx."), min_size=12, max_size=12), min_size=2, max_size=5)


@given(VERDICTS)
@settings(max_examples=15)
def test_alpha_is_evalicas_where_a_and_b_are_as_frequent(rows):
    once = table({who: "".join(row) for who, row in enumerate([*rows, ["a", "b"] * 6, ["a", "b"] * 6])})
    turned = other_way_round(once, set(range(12)))
    both = Answers(**{name: np.concatenate([column, vars(turned)[name]]) for name, column in vars(once).items()})
    both = Answers(**vars(both) | {"pair": both.pair + 100 * (np.arange(len(both)) >= len(once))})
    assert alpha(both).value == pytest.approx(by_evalica(both), abs=1e-9)


@given(VERDICTS, st.sets(st.integers(0, 11)), st.permutations(range(10, 15)))
@settings(max_examples=15)
def test_what_is_called_a_and_who_is_who_changes_nothing(rows, turned, names):
    given_ = table({who: "".join(row) for who, row in enumerate([*rows, ["a", "b"] * 6])})
    renamed = Answers(**vars(given_) | {"annotator": np.array([*names, 15])[given_.annotator]})
    turned_round = other_way_round(given_, turned)
    assert alphas(given_) == alphas(turned_round) == alphas(renamed)
    before, *after = ({(one.kappa, one.agreement) for one in couples(each)} for each in (given_, turned_round, renamed))
    assert after == [before, before]


def test_perfect_agreement_is_one_and_not_beyond_doubt():
    found = alpha(table({1: "abt" * 10, 2: "abt" * 10, 3: "abt" * 10}))
    assert found.value == 1
    assert 0.5 < found.interval[0] < found.interval[1] == 1


def test_no_agreement_at_all_is_not_beyond_doubt_either():
    (couple,) = couples(table({1: "ab" * 10, 2: "ba" * 10}))
    assert couple.agreement.value == 0
    assert couple.agreement.interval[0] == 0 < couple.agreement.interval[1] < 0.3
    assert couple.kappa.value == -1


def test_chance_is_about_zero():
    draw = np.random.default_rng(1)
    said = [(who, pair, int(draw.integers(0, 4))) for pair in range(2000) for who in range(3)]
    given_ = answers(said)
    for found in (*alphas(given_), *(each.kappa for each in couples(given_))):
        assert abs(found.value) < 0.06
        assert found.interval[0] < 0 < found.interval[1]


def test_pairs_of_one_prompt_are_not_counted_as_independent():
    draw = np.random.default_rng(2)
    alike = np.repeat(draw.integers(0, 2, 60), 10)  # ten pairs of a prompt: all agreed on, or all not
    said = [(who, pair, int(who * (1 - alike[pair]))) for pair in range(600) for who in range(2)]
    apart, together = answers(said), answers(said, prompts=[pair // 10 for _, pair, _ in said])
    widths = [np.ptp(alpha(each).interval) for each in (apart, together)]
    assert widths[1] > 2.5 * widths[0]


def test_intervals_hold_what_they_promise():
    """Two who are right in 80%: agreement beyond chance is (2 * .8 - 1) squared; 95% of intervals should hold it."""
    draw, held = np.random.default_rng(3), 0
    for _ in range(40):
        truth = draw.integers(0, 2, 150)
        said = [(who, pair, int(truth[pair] ^ (draw.random() > 0.8))) for pair in range(150) for who in range(2)]
        low, high = alpha(answers(said)).interval
        held += low <= 0.36 <= high
    assert held >= 34


def test_too_little_is_said_to_be_too_little():
    nobody = answers([(1, 1, A)])
    assert alpha(nobody).value is None
    assert couples(nobody) == []
    few = table({1: "ab" * 4, 2: "ab" * 4})
    assert alpha(few).count == 8 < LEAST_PROMPTS
    assert alpha(few).interval is None


def test_a_hundred_thousand_comparisons_take_seconds():
    draw = np.random.default_rng(4)
    pair, who = np.repeat(np.arange(40_000), 2), draw.integers(0, 40, 80_000)
    who[1::2] = (who[::2] + 1 + draw.integers(0, 38, 40_000)) % 40
    once = answers(list(zip(who.tolist(), pair.tolist(), draw.integers(0, 4, 80_000).tolist(), strict=True)))
    began = time.process_time()
    alphas(once)
    found = couples(once)
    assert time.process_time() - began < 20  # 3 on the machine it was written on; a bootstrap in Python takes minutes
    assert len(found) > 700


# Everything else, from rows


def measured(engine, **options):
    with reading(engine) as session:
        return read_quality(session=session, **options)


def one(quality, name="Ada"):
    return next(each for each in quality.annotators if each.name == name)


def test_what_is_not_looked_at(engine):
    with writing(engine) as session:
        ask(session, {"Ada": "a", "Ben": "b", "import:file": "a", "Mal": "a"})
        ask(session, {"Ada": "a"}, purpose=Purpose.REWRITE)
        ask(session, {"Ada": "a"}, purpose=Purpose.CALIBRATION, gold="b")
        pair = ask(session, {"Ada": {"verdict": "a", "superseded_at": now()}})
        say(session, pair, "Rea", verdict="b", adjudicates=True)
        retract_annotator(session=session, name="Mal")
    found = measured(engine)
    assert [each.name for each in found.annotators] == ["Ada", "Ben"]
    assert (found.habits.comparisons, found.imported) == (2, 1)
    assert (found.agreement.value, found.agreement.count, found.alpha.count) == (0, 1, 1)
    with_retracted = measured(engine, with_retracted=True)
    assert [(each.name, each.retracted) for each in with_retracted.annotators][2] == ("Mal", True)
    assert with_retracted.agreement.count == 3


def test_nothing_said_is_nothing_told(engine):
    found = measured(engine)
    assert found.annotators == found.couples == []
    assert {found.alpha.value, found.habits.left.value, found.habits.consistency.value, found.habits.seconds} == {None}


def test_a_repeat_shows_the_completions_the_other_way_round(engine):
    with writing(engine) as session:
        for said, again in (("a", "b"), ("b", "a"), ("tie", "tie"), ("a", "a"), ("a", "skip")):
            ask_again(session, ask(session, {"Ada": said, "Ben": "a"}), "Ada", again)
        ask_again(session, ask(session, {"Ben": "a"}), "Ada", "a")  # no verdict of hers to hold it against
    found = measured(engine)
    assert (one(found).habits.consistency.value, one(found).habits.consistency.count) == (0.75, 4)
    assert one(found, "Ben").habits.consistency.value is None
    assert found.habits.consistency.value == 0.75
    assert one(found).agreement.count == 5  # repeats meet nobody
    assert one(found).habits.comparisons == 10  # but are answers: 5 + 4 + 1, a skip apart
    assert one(found).habits.skips == 1


def test_known_answers(engine):
    with writing(engine) as session:
        for known, said in (("a", "a"), ("b", "a"), ("tie", "tie"), ("both_bad", "skip")):
            ask(session, {"Ada": said}, purpose=Purpose.GOLD, gold=known)
        ask(session, {"Ada": "a"})
    gold = one(measured(engine)).habits.gold
    assert (gold.value, gold.count) == (pytest.approx(2 / 3), 3)


def test_the_left_side_and_the_longer_text(engine):
    with writing(engine) as session:
        for number in range(20):
            left = {"verdict": "ab"[number % 2], "left_side": "ab"[number % 2]}
            ask(session, {"Ada": left, "Ben": {"verdict": "b", "left_side": "ab"[number % 2]}})
        ask(session, {"Ada": "a"}, texts=("so long", "as long"))
        ask(session, {"Ada": {"verdict": "tie", "left_side": "a"}})
    found = measured(engine)
    ada, ben = one(found).habits, one(found, "Ben").habits
    assert (ada.left.value, ada.left.count, ada.left_departs) == (1, 20, True)
    assert (ben.left.value, ben.left_departs) == (0.5, False)
    assert (ada.longer.value, ada.longer.count, ben.longer.value) == (0.5, 20, 1)
    assert ada.left.interval == pytest.approx((0.8389, 1), abs=1e-4)  # Wilson, 20 of 20
    assert ada.ties == 1
    assert found.habits.left.value == 0.75 and found.habits.left_departs


def test_a_large_fair_team_has_nobody_flagged():
    draw = np.random.default_rng(5)
    said = [(who, 100 * who + each, int(draw.integers(0, 2))) for who in range(60) for each in range(100)]
    sided = Answers(**vars(answers(said)) | {"left": draw.integers(0, 2, len(said))})
    people = [
        type("Person", (), {"id": who, "name": str(who), "role": "annotator", "retracted_at": None})()
        for who in range(60)
    ]
    found = measure_quality(sided, people=people, reliability=fit_reliability([], {}))
    assert not any(each.habits.left_departs for each in found.annotators)


def test_pace_haste_and_strengths(engine):
    seconds = [0.5, 2.0, 4.0, 4.0, None]
    long = ("x" * 500, "y" * 100)  # four seconds at 150 characters a second
    with writing(engine) as session:
        for number, each in enumerate(seconds):
            said = {"verdict": "a", "seconds": each, "strength": [None, 1, 3, 3, None][number]}
            said["after"] = timedelta(seconds=10 * number if number < 4 else 4000)  # then a break
            ask(session, {"Ada": said}, texts=long if number else ("x", "y"))
    ada = one(measured(engine))
    assert ada.habits.seconds == 3.0
    assert (ada.habits.fast.value, ada.habits.fast.count) == (0.5, 4)  # half a second, and two for 600 characters
    assert ada.per_hour == 360
    assert ada.habits.strengths == {1: 1, 2: 0, 3: 2}


def test_a_ranking_is_one_piece_of_work(engine, people):
    slates, begun = make_slates(engine, slates=5, size=4), now()
    with writing(engine) as session:
        for number, slate_id in enumerate(slates):  # one a minute, and then a break
            ranking = record_ranking(session=session, slate_id=slate_id, annotator_id=people[0], tiers=[[0, 1], [2, 3]])
            moment = begun + timedelta(minutes=number if number < 4 else 100)
            theirs = sa.update(Comparison).where(Comparison.ranking_id == ranking.id)
            session.execute(theirs.values(created_at=moment))
    assert one(measured(engine)).per_hour == pytest.approx(60)


def test_the_version_moves_with_whatever_is_said(engine, make_round, people):
    _, pairs = make_round(engine, pairs=2)

    def version():
        with reading(engine) as session:
            return answers_version(session=session)

    seen = {version()}
    for choice in (Choice.LEFT, Choice.RIGHT):
        with writing(engine) as session:
            record_comparison(session=session, pair_id=pairs[0].id, annotator_id=people[0], choice=choice, replace=True)
        seen.add(version())
    with writing(engine) as session:
        retract_annotator(session=session, name="Ada")
    assert len(seen | {version()}) == 4
    with reading(engine) as session:
        assert len(read_answers(session=session)) == 0
        assert len(read_answers(session=session, with_retracted=True)) == 1


def test_tables_are_written_over_those_of_last_time(engine, tmp_path):
    with writing(engine) as session:
        for number in range(12):
            ask(session, {"Ada": "a", "Ben": "ab"[number % 2], 'Cleo, "C"': "tie"})
    found = measured(engine)
    write_tables(found, tmp_path / "out")
    written = write_tables(found, tmp_path / "out")
    assert [path.name for path in written] == ["overall.csv", "annotators.csv", "couples.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    for path, rows in zip(written, quality_tables(found).values(), strict=True):
        with path.open(newline="", encoding="utf-8") as stream:
            read = list(csv.DictReader(stream))
        assert read == [{name: "" if cell is None else str(cell) for name, cell in row.items()} for row in rows]
    assert [row["first"] for row in quality_tables(found)["couples"]] == ["Ada", "Ada", "Ben"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be written"):
        write_tables(found, tmp_path / "file")


def test_no_name_is_a_formula_in_a_spreadsheet():
    rows = [{"annotator": "=HYPERLINK(1)", "value": -0.5}, {"annotator": "Ada-Lee", "value": None}]
    assert list(csv.reader(csv_text(rows).splitlines())) == [
        ["annotator", "value"],
        ["'=HYPERLINK(1)", "-0.5"],
        ["Ada-Lee", ""],
    ]
    assert [safe_cell(f"{mark}1") for mark in '+-@\t\r"1'] == ["'+1", "'-1", "'@1", "'\t1", "'\r1", '"1', "11"]
