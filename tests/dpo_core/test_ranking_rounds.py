"""Rounds in which completions are ranked: how many are written, that the target is met, and what is trained on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select

from dpo_core import sampling
from dpo_core.carry_out import carry_out_here
from dpo_core.config import RoundSettings, SamplingSettings, Settings
from dpo_core.loop import Step, read_loop, sample_more, start_round, start_training
from dpo_core.queueing import prompts_for, prompts_wanted
from dpo_core.simulate import Persona, simulate
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator
from store.comparisons import count_round
from store.database import reading, writing
from store.models import Comparison, Completion, Pair, RunStatus, Snapshot
from store.pairs import NewCompletion, next_pair
from store.ranking_tables import Ranking, Slate
from store.rankings import record_ranking
from store.slates import comparisons_in, shown_slate
from store.snapshots import read_snapshot

Make = Callable[..., Workspace]


def asking(size: int, comparisons: int = 10, **more: Any) -> Settings:
    return Settings(round=RoundSettings(completions_per_prompt=size, comparisons=comparisons, **more))


def longer(prompt: str, completion: str) -> float:
    return len(completion)


def carry_out(workspace: Workspace) -> None:
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None and run.id is not None
    ended = carry_out_here(workspace, run.id)
    assert ended.status == RunStatus.DONE, ended.error


def rank_all(workspace: Workspace, name: str = "Ada") -> int:
    """Rank by length until the round has what it asked for; how many rankings that took."""
    made = 0
    with writing(workspace.engine) as session:
        person = get_or_add_annotator(session=session, name=name).id
    while True:
        with writing(workspace.engine) as session:
            if read_loop(session=session).step == Step.TRAIN:
                return made
            shown = next_pair(session=session, round_id=1, annotator_id=person)
            assert shown is not None and shown.slate_id is not None
            slate = shown_slate(session=session, slate_id=shown.slate_id, annotator_id=person)
            tiers = Persona(longer).rank(shown.messages, slate.texts, random.Random(0))
            record_ranking(session=session, slate_id=slate.slate_id, annotator_id=person, tiers=tiers)
        made += 1


@pytest.mark.parametrize("size", range(2, 7))
@pytest.mark.parametrize("comparisons", [2, 10, 40, 41])
@pytest.mark.parametrize("spare", [0.0, 0.25])
def test_the_prompts_come_to_what_the_round_asks_for(size: int, comparisons: int, spare: float) -> None:
    each = comparisons_in(size)
    prompts = prompts_wanted(asking(size, spare_pairs=spare), comparisons)
    if size == 2:
        assert prompts == max(1, round(comparisons * (1 + spare)))  # as it was before there were rankings
    else:
        assert comparisons * (1 + spare) <= prompts * each < comparisons * (1 + spare) + each
    assert prompts_for(asking(size), comparisons) * each >= comparisons


def test_overlap_is_counted_in() -> None:
    assert prompts_wanted(asking(4, comparisons_per_pair=2, spare_pairs=0), 24) == 2


@pytest.mark.parametrize("size", [1, 7])
def test_two_to_six_completions_can_be_asked_for(size: int) -> None:
    with pytest.raises(ValueError, match="completions_per_prompt"):
        asking(size)


def test_a_round_of_pairs_is_asked_for_as_before(make_workspace: Make) -> None:
    workspace = make_workspace()
    start_round(workspace, by="test")
    with reading(workspace.engine) as session:
        run = read_loop(session=session).run
    assert run is not None
    assert set(run.settings) == {"checkpoint", "prompt_ids", "first_position", "wanted", "overlap", "sampling"}
    carry_out(workspace)
    with reading(workspace.engine) as session:
        assert session.exec(select(Slate)).all() == []
        done = read_loop(session=session)
        assert done.pairs == {"pairs": 12, "duels": 0, "open": 12, "open_duels": 0}
        [run] = [done.run]
        assert run is not None
        assert set(run.result) == {"pairs", "skipped_identical", "skipped_long", "tokens", "seconds"}


def test_a_round_with_three_from_sampling_to_a_checkpoint(make_workspace: Make) -> None:
    workspace = make_workspace(round={"completions_per_prompt": 3, "comparisons": 20}, queue={"overlap": 1.0})
    start_round(workspace, by="test")
    carry_out(workspace)
    with reading(workspace.engine) as session:
        slates, pairs = session.exec(select(Slate)).all(), session.exec(select(Pair)).all()
        sizes = Counter(completion.prompt_id for completion in session.exec(select(Completion)))
        run = read_loop(session=session).run
    assert run is not None and run.settings["per_prompt"] == 3
    assert len(slates) == 9 and set(sizes.values()) == {3}  # 20 and a quarter more, in threes
    assert run.result["pairs"] == len(pairs) == 27 and run.result["prompts"] == 9
    assert sum(pair.open_slots for pair in pairs) == 9
    assert [slate.size for slate in slates] == [3] * 9
    assert rank_all(workspace) == 7  # of three comparisons each
    with reading(workspace.engine) as session:
        assert count_round(session=session, round_id=1)["done"] == 21
        assert len(session.exec(select(Ranking)).all()) == 7
    start_training(workspace, by="test")
    with reading(workspace.engine) as session:
        snapshot = session.exec(select(Snapshot)).one()
    rows = [
        row
        for split in ("train", "test")
        for row in read_snapshot(snapshot=snapshot, folder=workspace.folder, split=split)
    ]
    assert rows and all(len(row["chosen"]) > len(row["rejected"]) for row in rows)
    assert {row["ranked_together"] for row in rows} == {3}
    carry_out(workspace)
    with reading(workspace.engine) as session:
        state = read_loop(session=session)
        assert state.step == Step.DECIDE
        assert state.round is not None and state.round.result_checkpoint_id is not None


def test_more_pairs_are_as_many_as_were_asked_for_or_a_few_more(make_workspace: Make) -> None:
    workspace = make_workspace(round={"completions_per_prompt": 4, "comparisons": 6})
    start_round(workspace, by="test")
    carry_out(workspace)
    sample_more(workspace, pairs=7, by="test")
    carry_out(workspace)
    with reading(workspace.engine) as session:
        slates = session.exec(select(Slate)).all()
        pairs = session.exec(select(Pair)).all()
    assert len(slates) == 4  # two to begin with, and two more for seven pairs
    leaders = [pair for pair in pairs if pair.follows is None]
    assert len({pair.position for pair in leaders}) == len(leaders) == 4
    assert len({slate.prompt_id for slate in slates}) == 4


def test_a_prompt_with_fewer_different_texts_is_not_lost(make_workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace(round={"completions_per_prompt": 4, "comparisons": 12, "spare_pairs": 0.0})
    kept = iter([[], ["one"], ["one", "two"], ["one", "two", "three"], ["one", "two", "three", "four"]])
    by_prompt: dict[str, list[str]] = {}

    def scripted(_model: Any, _tokenizer: Any, prompts: Any, *_: Any, per_prompt: int, **__: Any) -> Any:
        assert per_prompt == 4
        texts = [by_prompt.setdefault(str(messages), next(kept)) for messages in prompts]
        return [[NewCompletion(text, tokens=3) for text in each] for each in texts]

    monkeypatch.setattr(sampling, "sample_completions", scripted)
    start_round(workspace, by="test", comparisons=30)  # five prompts
    carry_out(workspace)
    with reading(workspace.engine) as session:
        assert sorted(slate.size for slate in session.exec(select(Slate))) == [3, 4]
        pairs = session.exec(select(Pair)).all()
        run = read_loop(session=session).run
    assert len(pairs) == 1 + 3 + 6 and sum(pair.slate_id is None for pair in pairs) == 1
    assert run is not None
    assert (run.result["pairs"], run.result["prompts"], run.result["skipped_identical"]) == (10, 3, 2)


def test_the_first_two_texts_are_those_that_a_pair_would_have(make_workspace: Make) -> None:
    from dpo_core.policies import load_policy
    from dpo_core.sampling import sample_completions
    from store.checkpoints import base_checkpoint

    workspace = make_workspace()
    with reading(workspace.engine) as session:
        model, tokenizer = load_policy(workspace, base_checkpoint(session=session))
    asked = [[{"role": "user", "content": f"Say {number}."}] for number in range(3)]
    settings = SamplingSettings(max_new_tokens=12)
    two = sample_completions(model, tokenizer, asked, settings, seed=1)
    four = sample_completions(model, tokenizer, asked, settings, per_prompt=4, seed=1)
    assert [each[:2] for each in four] == two
    assert all(len({new.text for new in each}) == 4 for each in four)


def test_simulated_annotators_rank_too(make_workspace: Make) -> None:
    workspace = make_workspace(prompts=40, round={"completions_per_prompt": 3})
    [report] = simulate(workspace, rounds=1, comparisons=12, persona=Persona(longer, noise=0.2), seed=3)
    assert report.checkpoint == "round-1" and report.comparisons == 12
    with reading(workspace.engine) as session:
        assert len(session.exec(select(Ranking)).all()) == 4
        assert len(session.exec(select(Comparison)).all()) == 12


def test_a_simulated_ranking_follows_its_taste() -> None:
    asked, texts = [{"role": "user", "content": "Why?"}], ["same", "longest", "size", "x"]
    assert Persona(longer).rank(asked, texts, random.Random(0)) == [[1], [0, 2], [3]]
    assert Persona(longer, left_bias=1.0).rank(asked, texts, random.Random(0)) == [[0], [1], [2], [3]]
    draw = random.Random(0)
    drawn = Counter(tuple(map(tuple, Persona(longer, noise=1.0).rank(asked, texts, draw))) for _ in range(2400))
    assert len(drawn) == 24 and min(drawn.values()) > 60  # 100 expected of each
