"""Duels: on held-out prompts alone, mixed in, counted apart, and told as won or lost by the new checkpoint."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session, select

from store.annotators import retract_annotator
from store.checkpoints import add_checkpoint, get_checkpoint
from store.comparisons import Choice, count_round, record_comparison
from store.database import reading, writing
from store.duels import add_duels, all_met, answers_of_both, count_duels, judged_duels, move_open_duels, prompts_to_duel
from store.models import Annotator, Completion, Pair, Prompt, Purpose, Round, RoundStatus
from store.pairs import NewCompletion, add_completion, add_pair, count_pairs, next_pair, shown_pair
from store.win_rate import Outcome
from tests.store.asking import add_prompt
from tests.store.queueing import add_gold


def held_out_prompts(session: Session, count: int) -> list[Prompt]:
    return [add_prompt(session, f"held out {number}?", held_out_share=1) for number in range(count)]


def text_by(session: Session, prompt: Prompt, checkpoint: str, text: str) -> Completion:
    found = get_checkpoint(session=session, name=checkpoint)
    assert prompt.id is not None and found.id is not None
    return add_completion(session=session, prompt_id=prompt.id, new=NewCompletion(text=text), checkpoint_id=found.id)


@pytest.fixture
def duelled(engine: sa.Engine, make_round: Any) -> int:
    """A round of 30 pairs, and twelve duels of round-1 with the base; the round's id."""
    opened, _ = make_round(engine, pairs=30)
    with writing(engine) as session:
        add_checkpoint(session=session, name="round-1", path="x", parent_id=1)
        both = [
            (text_by(session, prompt, "round-1", "a new one"), text_by(session, prompt, "base", "old"))
            for prompt in held_out_prompts(session, 12)
        ]
        assert add_duels(session=session, round_id=opened.id, duels=both, seed=1) == 12
    return int(opened.id)


def the_duels(session: Session) -> list[Pair]:
    return list(session.exec(select(Pair).where(Pair.purpose == Purpose.DUEL).order_by(Pair.id)))  # type: ignore[arg-type]


def say(engine: sa.Engine, pair_id: int, annotator_id: int, verdict: str) -> None:
    with writing(engine) as session:
        side = shown_pair(session=session, pair_id=pair_id, annotator_id=annotator_id).left_side
        choice = {side: Choice.LEFT}.get(verdict, Choice.RIGHT) if verdict in "ab" else Choice(verdict)
        record_comparison(session=session, pair_id=pair_id, annotator_id=annotator_id, choice=choice)


def test_they_stand_among_the_pairs_that_are_asked(engine: sa.Engine, duelled: int, people: list[int]) -> None:
    with reading(engine) as session:
        assert count_pairs(session=session, round_id=duelled) == {"pairs": 30, "duels": 12, "open": 42}
        assert session.get_one(Round, duelled).duels == 12
        places = [pair.position for pair in the_duels(session)]
        assert len(set(places)) > 6 and min(places) >= 0 and max(places) < 30
        purposes = {pair.id: pair.purpose for pair in session.exec(select(Pair))}
    served = []
    while True:
        with writing(engine) as session:
            shown = next_pair(session=session, round_id=duelled, annotator_id=people[0])
        if shown is None:
            break
        served.append(purposes[shown.pair_id])
        say(engine, shown.pair_id, people[0], "a")
    assert Counter(served) == {"train": 30, "duel": 12}
    assert served[:12].count("duel") < 12, "mixed in, not all at once"


def test_after_the_last_pair_they_follow_it(engine: sa.Engine, make_round: Any) -> None:
    opened, _ = make_round(engine, pairs=2)
    with writing(engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
        add_checkpoint(session=session, name="round-1", path="x", parent_id=1)
        both = [
            (text_by(session, prompt, "round-1", "new"), text_by(session, prompt, "base", "old"))
            for prompt in held_out_prompts(session, 3)
        ]
        add_duels(session=session, round_id=opened.id, duels=both, seed=1)
        assert [pair.position for pair in the_duels(session)] == [2, 3, 4]


def test_without_pairs_to_be_mixed_among_their_order_is_drawn(engine: sa.Engine, make_round: Any) -> None:
    """Those with the parent, which are given first, do not all come before those with the base."""
    opened, _ = make_round(engine, pairs=2)
    with writing(engine) as session:
        session.execute(sa.update(Pair).values(open_slots=0))
        for number in (1, 2):
            add_checkpoint(session=session, name=f"round-{number}", path="x", parent_id=number)
        both = [
            (text_by(session, prompt, "round-2", "new"), text_by(session, prompt, against, "old"))
            for prompt, against in zip(held_out_prompts(session, 20), ["round-1"] * 10 + ["base"] * 10, strict=True)
        ]
        add_duels(session=session, round_id=opened.id, duels=both, seed=1)
        in_turn = sorted(the_duels(session), key=lambda pair: pair.position)
        writers = [session.get_one(Completion, pair.completion_b_id).checkpoint_id for pair in in_turn]
    assert Counter(writers) == {1: 10, 2: 10}
    assert 2 < writers[:10].count(1) < 8


def test_where_both_wrote_the_same_there_is_no_duel(engine: sa.Engine, make_round: Any) -> None:
    opened, _ = make_round(engine)
    with writing(engine) as session:
        add_checkpoint(session=session, name="round-1", path="x", parent_id=1)
        [prompt] = held_out_prompts(session, 1)
        same = text_by(session, prompt, "round-1", "same"), text_by(session, prompt, "base", "same")
        assert add_duels(session=session, round_id=opened.id, duels=[same], seed=1) == 0
        assert session.get_one(Round, opened.id).duels == 0


def test_what_was_said_is_told_as_won_and_lost(engine: sa.Engine, duelled: int, people: list[int]) -> None:
    with reading(engine) as session:
        pairs = [pair.id or 0 for pair in the_duels(session)]
    with writing(engine) as session:
        session.get_one(Pair, pairs[0]).wanted = 2
    verdicts = ["a", "b", "a", "tie", "both_bad", "skip", "a"]
    for pair_id, verdict in zip(pairs, verdicts, strict=False):
        say(engine, pair_id, people[0], verdict)
    say(engine, pairs[0], people[1], "b")
    with writing(engine) as session:
        told = judged_duels(session=session, checkpoint_id=2, against_id=1)
        assert [duel.outcome for duel in told] == [
            *(Outcome.WON, Outcome.LOST, Outcome.WON, Outcome.TIE, Outcome.BOTH_BAD, Outcome.WON, Outcome.LOST),
        ]
        assert {duel.length_difference for duel in told} == {len("a new one") - len("old")}
        assert told[0].prompt == told[-1].prompt != told[1].prompt
        assert judged_duels(session=session, checkpoint_id=1, against_id=2) == []
        assert all_met(session=session) == [(2, 1)]
        counts = count_duels(session=session, checkpoint_id=2, against_id=1)
        assert (counts.written, counts.open) == (12, 6)
        of_round = count_round(session=session, round_id=duelled)
        assert (of_round["duels"], of_round["done"], of_round["total"]) == (7, 0, 0)
        name = session.get_one(Annotator, people[0]).name
        retract_annotator(session=session, name=name)
        [left] = judged_duels(session=session, checkpoint_id=2, against_id=1)
        assert left.outcome == Outcome.LOST


def test_prompts_are_held_out_and_those_met_least_come_first(engine: sa.Engine, duelled: int, tmp_path: Path) -> None:
    add_gold(engine, tmp_path, 3)
    with writing(engine) as session:
        new = [add_prompt(session, f"never met {number}?", held_out_share=1).id for number in range(4)]
        asked = {"round_id": duelled, "checkpoint_id": 2, "against_id": 1, "seed": 5}
        found = prompts_to_duel(session=session, count=6, **asked)
        assert {prompt.id for prompt in found[:4]} == set(new)
        assert all(prompt.held_out for prompt in prompts_to_duel(session=session, count=100, **asked))
        assert len(prompts_to_duel(session=session, count=100, **asked)) == 16
        others = prompts_to_duel(session=session, count=6, **(asked | {"seed": 6}))
        assert [prompt.id for prompt in others] != [prompt.id for prompt in found]
        left = prompts_to_duel(session=session, count=100, taken=new, **asked)
        assert len(left) == 12 and not {prompt.id for prompt in left} & set(new)


def test_prompts_that_the_round_asks_anyway_come_last_among_equals(engine: sa.Engine, duelled: int) -> None:
    with writing(engine) as session:
        fresh = [add_prompt(session, f"never met {number}?", held_out_share=1) for number in range(6)]
        for prompt in fresh[:3]:
            both = text_by(session, prompt, "base", "one"), text_by(session, prompt, "base", "another")
            add_pair(session=session, prompt_id=prompt.id or 0, completions=both, round_id=duelled, position=30)
        asked = {"session": session, "checkpoint_id": 2, "against_id": 1, "count": 6}
        for seed in range(5):
            found = [prompt.id for prompt in prompts_to_duel(round_id=duelled, seed=seed, **asked)]
            assert set(found[:3]) == {prompt.id for prompt in fresh[3:]}
            assert set(found[3:]) == {prompt.id for prompt in fresh[:3]}, "before those on which they met already"


def test_what_is_open_moves_to_the_next_round_and_what_was_said_stays(
    engine: sa.Engine, duelled: int, people: list[int], make_round: Any
) -> None:
    with reading(engine) as session:
        pairs = [pair.id or 0 for pair in the_duels(session)]
    for pair_id in pairs[:5]:
        say(engine, pair_id, people[0], "a")
    with writing(engine) as session:
        session.get_one(Round, duelled).status = RoundStatus.DONE
    following, _ = make_round(engine, pairs=20)
    with writing(engine) as session:
        asked = {"session": session, "round_id": following.id, "places": 20, "seed": 3}
        assert move_open_duels(checkpoint_id=2, against_ids=[], **asked) == 0, "none that wants to know more"
        moved = move_open_duels(checkpoint_id=2, against_ids=[1], **asked)
        assert moved == 7
        assert [session.get_one(Round, each).duels for each in (duelled, following.id)] == [5, 7]
        there = [pair for pair in the_duels(session) if pair.round_id == following.id]
        assert [pair.id for pair in there] == pairs[5:] and all(0 <= pair.position < 20 for pair in there)
        assert move_open_duels(checkpoint_id=1, against_ids=[2], **asked) == 0, "the new one comes first"
        assert len(judged_duels(session=session, checkpoint_id=2, against_id=1)) == 5


def test_the_new_one_stands_left_as_often_as_right(engine: sa.Engine, duelled: int) -> None:
    with reading(engine) as session:
        sides = [
            shown_pair(session=session, pair_id=pair.id or 0, annotator_id=annotator).left_side
            for pair in the_duels(session)
            for annotator in range(1, 101)
        ]
    assert 0.45 < sides.count("a") / len(sides) < 0.55


def both(engine: sa.Engine, count: int, checkpoint: str = "round-1") -> list[tuple[str, str, str]]:
    with reading(engine) as session:
        ids = [get_checkpoint(session=session, name=name).id or 0 for name in (checkpoint, "base")]
        found = answers_of_both(session=session, checkpoint_id=ids[0], against_id=ids[1], count=count)
    return [(messages[-1]["content"], new, old) for messages, new, old in found]


def test_answers_of_two_checkpoints_are_shown_by_a_rule_that_does_not_look_at_them(
    engine: sa.Engine, duelled: int, people: list[int]
) -> None:
    with writing(engine) as session:
        hashes = {prompt.messages[0]["content"]: prompt.content_hash for prompt in held_out_prompts(session, 12)}
        duels = [(pair.id or 0, session.get_one(Prompt, pair.prompt_id)) for pair in the_duels(session)]
        # round-2 never met the base: both were asked the same by others.
        add_checkpoint(session=session, name="round-2", path="x", parent_id=2)
        texts = [
            (text_by(session, prompt, "round-2", "newer"), text_by(session, prompt, "round-1", "later"))
            for _, prompt in duels[:5]
        ]
        assert add_duels(session=session, round_id=duelled, duels=texts, seed=2) == 5
    assert both(engine, 3) == [], "all of them are still judged, blind"
    with writing(engine) as session:
        for pair in the_duels(session):
            pair.open_slots = 0
    in_order = sorted(hashes, key=lambda asked: hashes[asked])
    assert both(engine, 3) == [(asked, "a new one", "old") for asked in in_order[:3]]
    assert len(both(engine, 99)) == 12
    met = {prompt.messages[0]["content"] for _, prompt in duels[:5]}
    assert both(engine, 99, "round-2") == [(asked, "newer", "old") for asked in in_order if asked in met]
    with writing(engine) as session:
        the_duels(session)[0].open_slots = 1
        asked = session.get_one(Prompt, the_duels(session)[0].prompt_id).messages[0]["content"]
    assert [each for each, _, _ in both(engine, 99)] == [each for each in in_order if each != asked]
