"""What only simulations know: from which prompts it is told, how draws are counted, and its interval by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlmodel import select

from dpo_core import truth
from dpo_core.errors import RunError
from dpo_core.truth import DUELS, Truth
from dpo_core.workspace import Workspace
from store.checkpoints import add_checkpoint, base_checkpoint
from store.database import reading, writing
from store.intervals import share_interval
from store.models import Checkpoint, Prompt
from store.pairs import NewCompletion

Make = Callable[..., Workspace]


class Scripted:
    """Completions that say how often their model and prompt were asked before: "base 0", "new 1"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, int, str]] = []
        monkeypatch.setattr(truth, "load_policy", lambda workspace, checkpoint: (checkpoint.name, None))
        monkeypatch.setattr(truth, "sample_completions", self.write)

    def write(self, model: str, tokenizer: None, prompts: Sequence[Any], settings: Any, **given: Any) -> Any:
        assert given["per_prompt"] == 1
        times = len({seed for name, seed, _ in self.asked if name == model})
        self.asked += [(model, given["seed"], messages[-1]["content"]) for messages in prompts]
        return [[NewCompletion(f"{model} {times}")] for _ in prompts]


def checkpoints(workspace: Workspace) -> tuple[Checkpoint, Checkpoint]:
    with writing(workspace.engine) as session:
        new = add_checkpoint(session=session, name="new", path="checkpoints/new")
        return base_checkpoint(session=session), new


def held_out(workspace: Workspace) -> set[str]:
    with reading(workspace.engine) as session:
        return {prompt.messages[-1]["content"] for prompt in session.exec(select(Prompt).where(Prompt.held_out))}


def test_held_out_prompts_are_answered_until_there_are_enough(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, script = make_workspace(prompts=40), Scripted(monkeypatch)
    _, new = checkpoints(workspace)
    known = held_out(workspace)
    found = Truth(workspace, lambda prompt, text: float(text.startswith("new")), seed=0).win_rate(new)
    assert {prompt for _, _, prompt in script.asked} == known and 1 < len(known) < 40
    draws = -(-DUELS // len(known))
    assert found.count == draws * len(known) >= DUELS > (draws - 1) * len(known)
    seeds = {name: {seed for asked, seed, _ in script.asked if asked == name} for name in ("new", "base")}
    assert len(seeds["new"]) == len(seeds["base"]) == draws and not seeds["new"] & seeds["base"]
    assert found.value == 1 and found.interval == share_interval([1.0] * len(known), range(len(known)))


def test_half_wins_count_half_and_prompts_as_what_they_are_worth(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one pleases more on every third prompt, as much on the next, less on the others, in each draw alike."""
    workspace = make_workspace(prompts=40)
    Scripted(monkeypatch)
    base, new = checkpoints(workspace)
    order = sorted(held_out(workspace))

    def taste(prompt: str, text: str) -> float:
        return (1.0, 0.0, -1.0)[order.index(prompt) % 3] if text.startswith("new") else 0.0

    found = Truth(workspace, taste, seed=0)
    each = [(1.0, 0.5, 0.0)[place % 3] for place in range(len(order))]
    rate = found.win_rate(new)
    assert rate.value == pytest.approx(sum(each) / len(each))
    # Draws that agree say nothing more than one of them: the interval is that of so many prompts.
    assert rate.interval == pytest.approx(share_interval(each, range(len(each))))
    won, lost = each.count(1.0) / len(each), each.count(0.0) / len(each)
    shares = found.shares(new, base)
    assert (shares.won, shares.lost) == pytest.approx((won, lost))
    assert found.win_rate(base).value == 0.5


def test_without_a_held_out_prompt_nothing_is_measured(make_workspace: Make) -> None:
    with pytest.raises(RunError, match=r"No prompt is held out.*held_out_share"):
        Truth(make_workspace(prompts=0), lambda prompt, text: 0.0, seed=0)
