"""Simulated annotators: how they choose, and a whole round of them on a tiny model."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sqlmodel import select

from dpo_core.simulate import Persona, simulate
from dpo_core.workspace import Workspace
from store.comparisons import Choice
from store.database import reading
from store.models import Annotator, Comparison
from store.pairs import ShownPair

SHOWN = ShownPair(1, [{"role": "user", "content": "Why?"}], "a longer text", "short", "a", 1)
EQUAL = ShownPair(1, [{"role": "user", "content": "Why?"}], "same", "size", "a", 1)


def longer(prompt: str, completion: str) -> float:
    return len(completion)


def choices(persona: Persona, shown: ShownPair, count: int = 4000) -> dict[Choice, float]:
    draw = random.Random(0)
    made = [persona.choose(shown, draw) for _ in range(count)]
    return {choice: made.count(choice) / count for choice in Choice}


def test_a_steady_annotator_follows_the_taste() -> None:
    assert choices(Persona(longer), SHOWN)[Choice.LEFT] == 1
    assert choices(Persona(lambda prompt, text: -len(text)), SHOWN)[Choice.RIGHT] == 1
    assert choices(Persona(longer), EQUAL)[Choice.TIE] == 1


@pytest.mark.parametrize(("noise", "left_bias"), [(0.4, 0.0), (0.0, 0.3), (0.4, 0.3)])
def test_noise_and_left_bias_are_what_they_say(noise: float, left_bias: float) -> None:
    found = choices(Persona(lambda prompt, text: -len(text), noise, left_bias), SHOWN)
    expected = left_bias + (1 - left_bias) * noise / 2  # left is against the taste: bias, or a coin toss
    assert found[Choice.LEFT] == pytest.approx(expected, abs=0.03)
    assert found[Choice.RIGHT] == pytest.approx(1 - expected, abs=0.03)


def test_the_prompt_given_to_a_taste_is_what_was_asked() -> None:
    seen: list[str] = []

    def taste(prompt: str, completion: str) -> float:
        seen.append(prompt)
        return 0.0

    Persona(taste).choose(SHOWN, random.Random(0))
    assert set(seen) == {"Why?"}


def test_a_round_goes_through_the_same_store_as_people(make_workspace: Callable[..., Workspace]) -> None:
    reports = []
    for name in ("one", "two"):
        workspace = make_workspace(name, prompts=40)
        heard: list[int] = []
        [report] = simulate(
            workspace,
            rounds=1,
            comparisons=12,
            persona=Persona(longer, noise=0.2),
            seed=3,
            on_round=lambda report, heard=heard: heard.append(report.round),
        )
        reports.append(report)
        assert heard == [1] and (report.checkpoint, report.serving, report.decision) == ("round-1",) * 2 + ("promote",)
        assert report.trained_on + (report.duels > 0) > 1
        assert report.interval[0] <= report.win_rate <= report.interval[1]
        with reading(workspace.engine) as session:
            assert [who.role for who in session.exec(select(Annotator))] == ["simulated"]
            assert len(session.exec(select(Comparison)).all()) == 12
    assert reports[0] == reports[1]  # the same seed, the same simulation


GATED = {
    "duels": {"against_parent": 8, "against_base": 0},
    "automatic": {"most_duels": 28},
    "gate": {"win_rate": "better", "alarms": "ignore", "held_out": "ignore", "canary": 0},
}


def test_the_gate_is_followed_as_automatic_rounds_do(make_workspace: Callable[..., Workspace]) -> None:
    """Annotators who toss coins: more duels until there are no more, and chance is not promoted."""
    workspace = make_workspace("gated", prompts=60, **GATED)
    persona = Persona(longer, noise=1.0)
    [report] = simulate(workspace, rounds=1, comparisons=8, persona=persona, seed=1, follow_gate=True)
    found = report.measured
    assert found is not None and found.truth == 0.5 and found.covered
    assert (report.decision, report.serving, found.verdict) == ("keep", "base", "undecided")
    assert report.win_rate == 0.5, "the base beside itself"
    assert 20 < found.duels <= 28, "written anew while undecided, up to [automatic] most_duels"
    with reading(workspace.engine) as session:
        verdicts = len(session.exec(select(Comparison)).all())
    assert report.labels == verdicts >= 8 + found.duels, "spare pairs that stood among the duels were judged as well"
