"""The canary's perplexity against transformers' own loss, and its alarm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, set_seed

from dpo_core import canary
from dpo_core.alarms import alarms_canary
from dpo_core.canary import Canary, compare_canary, predict_text, read_canary
from dpo_core.errors import RunError
from dpo_core.packaged import packaged
from dpo_core.progress import RunProgress
from dpo_core.workspace import Workspace
from store.checkpoints import base_checkpoint
from store.database import writing
from store.models import Checkpoint, RunKind
from store.runs import claim_run, queue_run
from tests.browser.seeding import LEASE
from tests.dpo_core.conftest import build_model, build_tokenizer

Make = Callable[..., Workspace]
TEXT = "The ferry leaves the island at twenty past six."  # a token for each of its 47 bytes


def own_loss(model: Any, ids: list[int]) -> float:
    """transformers' mean loss of these tokens, the first given."""
    row = torch.tensor([ids])
    with torch.no_grad():
        return float(model(input_ids=row, labels=row).loss)


def test_one_window_is_the_models_own_loss() -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).eval()
    found = predict_text(model, tokenizer, TEXT)
    assert (found.tokens, found.vocabulary) == (len(TEXT) - 1, len(tokenizer))
    assert found.nats == pytest.approx(own_loss(model, tokenizer(TEXT).input_ids), abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.nats))


@pytest.mark.parametrize("window", [10, 46, 24, 2])
def test_a_long_text_is_cut_into_windows_that_each_begin_anew(window: int) -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).eval()
    ids = tokenizer(TEXT).input_ids
    parts = [ids[start : start + window] for start in range(0, len(ids), window)]
    whole = [own_loss(model, part) * (len(part) - 1) for part in parts if len(part) > 1]
    found = predict_text(model, tokenizer, TEXT, window=window)
    assert found.tokens == sum(len(part) - 1 for part in parts)
    assert found.nats == pytest.approx(sum(whole) / found.tokens, abs=1e-5)


def test_the_models_positions_are_never_exceeded() -> None:
    tokenizer = build_tokenizer()
    set_seed(0)
    small = GPT2Config(vocab_size=len(tokenizer), n_positions=16, n_embd=32, n_layer=1, n_head=2)
    model = GPT2LMHeadModel(small).eval()  # learned positions: a seventeenth would be an error
    assert predict_text(model, tokenizer, TEXT) == predict_text(model, tokenizer, TEXT, window=16)


def test_where_the_tokenizer_begins_texts_with_bos_every_token_is_predicted() -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).eval()

    class WithBos:
        bos_token_id = 7

        def __call__(self, text: str, *, add_special_tokens: bool = True, verbose: bool = True) -> Any:
            found = tokenizer(text)
            found["input_ids"] = [7] * add_special_tokens + found["input_ids"]
            return found

    ids = tokenizer(TEXT).input_ids
    losses = [own_loss(model, [7, *part]) * len(part) for part in (ids[:29], ids[29:])]
    found = predict_text(model, WithBos(), TEXT, window=30)
    assert found.tokens == len(ids)
    assert found.nats == pytest.approx(sum(losses) / len(ids), abs=1e-5)


@pytest.fixture
def at_work(make_workspace: Make) -> tuple[Workspace, Checkpoint, RunProgress]:
    """A workspace with a run under way, and its base."""
    workspace = make_workspace(prompts=0)
    with writing(workspace.engine) as session:
        queue_run(session=session, kind=RunKind.TRAIN, settings={}, requested_by="test")
        run = claim_run(session=session, owner="test", lease=LEASE)
        base = base_checkpoint(session=session)
    assert run is not None and run.id is not None
    return workspace, base, RunProgress(workspace, run.id, run.attempt)


def test_a_checkpoint_is_no_worse_than_itself_and_read_once(
    at_work: tuple[Workspace, Checkpoint, RunProgress], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, base, progress = at_work
    loaded: list[str] = []
    real = canary.load_policy
    monkeypatch.setattr(canary, "load_policy", lambda *given: loaded.append(given[1].name) or real(*given))
    found = compare_canary(workspace, Canary("mine.txt", TEXT), base, base, bf16=False, progress=progress)
    assert found["before"] == found["after"] and found["perplexity_before"] == found["perplexity_after"]
    assert (found["text"], found["tokens"]) == ("mine.txt", len(TEXT) - 1)
    assert compare_canary(workspace, Canary("mine.txt", TEXT), base, base, bf16=False, progress=progress) == found
    assert loaded == ["base"]
    assert alarms_canary(found) == []
    json.dumps(found, allow_nan=False)
    assert compare_canary(workspace, Canary("one.txt", "T"), base, base, bf16=False, progress=progress) == {}
    assert alarms_canary({}) == []


def test_the_text_that_ships_and_ones_own(make_workspace: Make) -> None:
    ships = read_canary(make_workspace("ships", prompts=0))
    assert ships.name == "canary.txt"
    assert ships.text == packaged("canary.txt").read_text(encoding="utf-8").strip()
    assert 500 < len(ships.text.split()) < 800
    workspace = make_workspace("own", prompts=0, evaluation={"canary": "texts/mine.txt"})
    with pytest.raises(RunError, match=r"mine\.txt cannot be read .*No such file.* Nothing was started\. Mend canary"):
        read_canary(workspace)
    path = workspace.folder / "texts" / "mine.txt"
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="no text in UTF-8"):
        read_canary(workspace)
    path.write_text(" \n")
    with pytest.raises(RunError, match="is empty"):
        read_canary(workspace)
    path.write_text(TEXT)
    assert read_canary(workspace) == Canary("mine.txt", TEXT)


def record(before: float, after: float) -> dict[str, Any]:
    given = {"before": before, "after": after, "tokens": 800, "vocabulary": 50_000, "text": "canary.txt"}
    return given | {"perplexity_before": math.exp(before), "perplexity_after": math.exp(after)}


def test_more_than_a_tenth_is_an_alarm_in_words() -> None:
    assert alarms_canary(record(3.0, 3.0 + math.log(1.099))) == []
    assert alarms_canary(record(3.0, 2.0)) == []
    (alarm,) = alarms_canary(record(3.0, 3.0 + math.log(1.25)))
    assert (alarm.name, alarm.level) == ("canary-perplexity-risen", "warning")
    assert "its perplexity is 25.1 against 20.1 before, 25% more" in alarm.text
    assert alarms_canary(record(11.0, 12.0)) == []  # a parent that guessed had nothing to lose
    (worst,) = alarms_canary(record(3.0, 700.0) | {"after": 900.0})
    assert "more. It may have lost" in worst.text
