"""Log-probs of pairs: against a plain computation, and computed only once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpo_core import logps
from dpo_core.config import TrainingSettings
from dpo_core.logps import PairLogps, checkpoint_logps, pair_logps
from dpo_core.progress import RunProgress
from dpo_core.tokenization import TokenizedPair
from dpo_core.workspace import Workspace
from store.checkpoints import base_checkpoint
from store.database import reading, writing
from store.models import RunKind
from store.runs import claim_run, queue_run
from tests.dpo_core import conftest
from tests.dpo_core.conftest import tokenized

Make = Callable[..., Workspace]
TRAINING = TrainingSettings()


PAIRS = [*conftest.PAIRS, tokenized(4, [7, 6], [9, 9, 9], [9, 9, 4])]


def plain_logp(model: torch.nn.Module, prompt: list[int], completion: list[int]) -> float:
    """The definition: the sum over the completion of log softmax of the logits one position before."""
    ids = torch.tensor([prompt + completion])
    found = model(ids).logits[0].log_softmax(-1)
    return sum(found[len(prompt) - 1 + index, token].item() for index, token in enumerate(completion))


@pytest.mark.parametrize("batch_tokens", [1, 15, 1000])
@pytest.mark.parametrize("prefix_sharing", [True, False])
def test_they_are_the_definition_for_any_batch_size(tiny_model: Path, batch_tokens: int, prefix_sharing: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    heard: list[int] = []
    found = pair_logps(
        model,
        tokenizer,
        PAIRS,
        batch_tokens=batch_tokens,
        prefix_sharing=prefix_sharing,
        on_batch=heard.extend,
    )
    for pair, known in zip(PAIRS, found, strict=True):
        assert known.chosen == pytest.approx(plain_logp(plain, pair.prompt_ids, pair.chosen_ids), abs=1e-4)
        assert known.rejected == pytest.approx(plain_logp(plain, pair.prompt_ids, pair.rejected_ids), abs=1e-4)
    assert sorted(heard) == [0, 1, 2, 3]


@pytest.mark.parametrize("prefix_sharing", [True, False])
def test_however_often_it_is_asked_a_model_is_wrapped_once(tiny_model: Path, prefix_sharing: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    first = pair_logps(model, tokenizer, PAIRS, prefix_sharing=prefix_sharing)
    wrapped = model.forward
    assert pair_logps(model, tokenizer, PAIRS, prefix_sharing=prefix_sharing) == first
    assert model.forward is wrapped


class Counted:
    """Stands in for `pair_logps`: says what it was asked, and can die after a batch."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[int]] = []
        self._real = logps.pair_logps
        patch.setattr(logps, "pair_logps", self)

    def __call__(self, model: object, tokenizer: object, pairs: list[TokenizedPair], **options: object) -> object:
        self.asked.append([pair.pair_id for pair in pairs])
        return self._real(model, tokenizer, pairs, **options)


def ask(workspace: Workspace, pairs: list[TokenizedPair], training: TrainingSettings = TRAINING) -> list[PairLogps]:
    with writing(workspace.engine) as session:
        queue_run(session=session, kind=RunKind.EVALUATE, settings={}, requested_by="test")
        run = claim_run(session=session, owner="test", lease=timedelta(seconds=30))
        base = base_checkpoint(session=session)
    assert run is not None and run.id is not None
    return checkpoint_logps(workspace, base, pairs, training, RunProgress(workspace, run.id, run.attempt))


def test_what_is_known_is_not_computed_again(make_workspace: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = make_workspace()
    counted = Counted(monkeypatch)
    first = ask(workspace, PAIRS[:2])
    assert ask(workspace, PAIRS[:2]) == first
    assert ask(workspace, [*PAIRS[2:], PAIRS[0]])[2] == first[0]
    other_losses = TRAINING.model_copy(update={"beta": 0.7, "loss_type": ["ipo"], "learning_rate": 1.0})
    ask(workspace, PAIRS, other_losses)
    assert counted.asked == [[1, 2], [3, 4]]


@pytest.mark.parametrize("change", ["weights", "tokens", "precision"])
def test_other_weights_tokens_or_precision_are_computed(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, change: str
) -> None:
    workspace = make_workspace()
    counted = Counted(monkeypatch)
    ask(workspace, PAIRS[:1])
    if change == "weights":
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        with torch.no_grad():
            model.get_output_embeddings().weight[3, 3] += 1
        folder = workspace.folder / "other"
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
        with writing(workspace.engine) as session:
            base_checkpoint(session=session).path = str(folder)
        ask(workspace, PAIRS[:1])
    elif change == "tokens":
        ask(workspace, [tokenized(1, [5, 6, 7], [8, 9], [11])])
    else:
        ask(workspace, PAIRS[:1], TRAINING.model_copy(update={"bf16": True}))
    assert counted.asked == [[1], [1]]


def test_a_pass_that_was_cut_off_goes_on_and_ends_with_the_same_bits(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logps, "token_passes", lambda lengths, _: one_by_two(lengths))
    whole = ask(make_workspace("whole"), PAIRS)
    workspace = make_workspace("cut")
    real = logps._Memory.add

    def die_after_one(memory: logps._Memory, found: dict[str, PairLogps]) -> None:
        real(memory, found)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(logps._Memory, "add", die_after_one)
        with pytest.raises(KeyboardInterrupt):
            ask(workspace, PAIRS)
    [kept] = (workspace.folder / "logps").iterdir()
    with kept.open("a") as stream:
        stream.write('\n{"pair": "half a li')  # and the write after it was cut in the middle
    counted = Counted(monkeypatch)
    assert ask(workspace, PAIRS) == whole
    assert len(counted.asked[0]) == 2, "two of four were known"
    with reading(workspace.engine) as session:
        assert base_checkpoint(session=session).path
    assert ask(workspace, PAIRS) == whole


def one_by_two(lengths: list[int]) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + 2] for start in range(0, len(order), 2)]
