"""Every alarm sounds where it should, and is silent on healthy data; a real run has its alarms in the record."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from dpo_core.alarms import (
    QUOTED,
    SHOWN,
    Alarm,
    TrainingWatch,
    alarms_after,
    alarms_before,
    alarms_held_out,
    left_out,
    recorded_alarms,
    run_alarms,
    with_examples,
)
from dpo_core.config import TrainingSettings
from dpo_core.errors import DivergedError
from dpo_core.loop import start_training
from dpo_core.policies import load_tokenizer, saved_stop_ids, stop_ids
from dpo_core.tokenization import TokenizedPair, tokenize_pairs
from dpo_core.trainer import PairTrainer, forget_after, last_complete_checkpoint
from dpo_core.training_plan import unfounded
from dpo_core.workspace import Workspace
from store.checkpoints import get_checkpoint
from store.database import reading, writing
from store.models import Run, RunStatus
from store.runs import cancel_run
from tests.dpo_core.conftest import build_model
from tests.dpo_core.test_tokenization import pair as preference
from tests.dpo_core.test_train import Cut, cut_at, lapse, ready_to_train, run_next
from tests.dpo_core.test_trainer import SETTINGS, pair_trainer

Make = Callable[..., Workspace]
EOS = 99


def pair(
    number: int,
    chosen: list[int],
    rejected: list[int],
    *,
    lost: int = 0,
    cut: tuple[int, int] = (0, 0),
    eos: bool = True,
) -> TokenizedPair:
    end = [EOS] if eos else []
    return TokenizedPair(number, "a", [1, 2], [*chosen, *end], [*rejected, *end], lost, *cut)


def healthy(count: int = 40) -> list[TokenizedPair]:
    """Pairs of unlike texts of about 30 tokens, neither side the longer one on the whole."""
    draw = random.Random(1)
    texts = [[draw.randrange(90) for _ in range(draw.randint(20, 40))] for _ in range(2 * count)]
    return [pair(number, texts[2 * number], texts[2 * number + 1]) for number in range(count)]


def before(pairs: list[TokenizedPair], ties: list[TokenizedPair] | None = None) -> dict[str, Alarm]:
    found = alarms_before(pairs, ties=ties or [], eos_ids={EOS, 98}, max_length=64)
    assert len({alarm.name for alarm in found}) == len(found)
    return {alarm.name: alarm for alarm in found}


def test_healthy_pairs_give_no_alarm() -> None:
    assert before(healthy()) == {}
    assert before([]) == {}


def test_pairs_that_hardly_differ() -> None:
    words = list(range(30))
    alike = pair(100, words, [*words[:12], 77, *words[13:]])  # 30 of 31 tokens are the same
    reordered = pair(101, words, words[::-1])  # the same tokens, but another text
    differing = pair(102, words, [*words[:10], 77, 78, *words[12:]])  # 29 of 31, 94%
    alarm = before([*healthy(), alike, reordered, differing])["near-identical-pairs"]
    assert alarm.pairs == (100,)
    assert "1 of 43 pairs" in alarm.text
    assert alarm.level == "note"
    twins = [pair(200 + number, words, words) for number in range(30)]
    many = before([*healthy(), *twins])["near-identical-pairs"]
    assert many.level == "warning"
    assert many.pairs == tuple(range(200, 200 + SHOWN))
    assert "30 of them are the same token for token" in many.text
    assert many.whole_text.endswith("218, 219 and more.")


def test_completions_that_max_length_cuts() -> None:
    cut = pair(7, list(range(60)), list(range(60, 80)), cut=(12, 0), eos=False)
    found = before([*healthy(), cut])
    assert found["cut-completions"].pairs == (7,)
    assert "needs 74 tokens" in found["cut-completions"].text  # 2 of the prompt, 60 that are left, 12 that are gone
    # The side that was not cut has no EOS either: that is an alarm of its own, the lost end of the other is not.
    assert found["missing-eos"].pairs == (7,)
    ended = TokenizedPair(8, "a", [1, 2], list(range(60)), [5, EOS], 0, 12, 0)
    assert set(before([*healthy(), ended])) == {"cut-completions"}


def test_ties_are_read_to_their_ends_but_may_be_alike() -> None:
    alike = [pair(100 + number, [5] * 60, [5] * 60, cut=(12, 12), eos=False) for number in range(40)]
    longer = [pair(200 + number, list(range(50)), list(range(10))) for number in range(40)]
    found = before(healthy(), ties=[*alike, *longer])
    assert set(found) == {"cut-completions"}
    assert "40 of 120 pairs" in found["cut-completions"].text
    assert {"near-identical-pairs", "length-bias"} <= set(before([*healthy(), *alike, *longer]))


def test_a_model_without_more_positions_is_not_said_to_need_a_higher_max_length() -> None:
    cut = [pair(number, list(range(60)), list(range(60, 80)), cut=(12, 0)) for number in (9, 7)]
    [full] = alarms_before(cut, eos_ids={EOS}, max_length=64, context=64)
    assert "the model's own 64 positions" in full.text and "cannot help" in full.text
    assert "raise" not in full.text
    assert full.pairs == (7, 9)
    [room] = alarms_before(cut, eos_ids={EOS}, max_length=64, context=128)
    assert "raise training.max_length, up to the 128 positions" in room.text
    [full] = left_out([preference("p", "a", "b")], [], max_length=8, context=8)
    assert "Raise" not in full.text and "shorter prompts" in full.text


def test_texts_that_are_the_same_only_as_far_as_they_were_read() -> None:
    words = list(range(30))
    twins = [pair(1, words, words, cut=(5, 9), eos=False), pair(2, words, words), pair(3, words, [*words[1:], 77])]
    alarm = before([*healthy(), *twins])["near-identical-pairs"]
    assert "2 of them are the same token for token" in alarm.text
    assert "(1 of these only because the rest was cut off)" in alarm.text


def test_an_alarm_quotes_the_first_pair_it_names() -> None:
    found = [preference("Why is\nthe sky blue" + " and so on" * 9, "a", "b")]
    [alarm] = left_out(found, [], max_length=8)
    assert alarm.example.startswith("Why is the sky blue and") and alarm.example.endswith("…")
    assert len(alarm.example) <= QUOTED + 1
    assert f"Pairs concerned: 1; the first asks: “{alarm.example}”." in alarm.whole_text
    assert with_examples([Alarm("length-bias", "note", "Longer.")], found)[0].example == ""


def test_prompts_that_lose_their_end() -> None:
    found = before([*healthy(), pair(5, [1] * 20, [2] * 20, lost=3), pair(6, [3] * 20, [4] * 20, lost=1)])
    assert set(found) == {"lost-prompt-tails"}
    assert found["lost-prompt-tails"].pairs == (5, 6)
    assert "up to 3 tokens" in found["lost-prompt-tails"].text


def test_completions_without_an_end() -> None:
    closed = pair(3, list(range(20)), list(range(30, 50)), eos=False)
    broken = TokenizedPair(4, "a", [1], [5, 6, 98, 10], [7, 8, EOS, 10], 0)  # EOS and a line break, as in ChatML
    found = before([*healthy(), closed, broken])
    assert set(found) == {"missing-eos"}
    assert found["missing-eos"].pairs == (3,)


def test_chosen_texts_that_are_longer_as_a_rule() -> None:
    draw = random.Random(2)

    def text(mean: int) -> list[int]:
        return [draw.randrange(90) for _ in range(draw.randint(mean - 10, mean + 10))]

    longer = [pair(number, text(40), text(30)) for number in range(40)]
    found = before(longer)
    assert set(found) == {"length-bias"}
    assert "longer than rejected ones" in found["length-bias"].text
    assert "shorter" in before([pair(number, text(20), text(40)) for number in range(40)])["length-bias"].text
    assert before([pair(number, text(33), text(30)) for number in range(40)]) == {}  # a tenth is nothing unusual
    assert before(longer[:9]) == {}  # too few to tell
    wild = [pair(n, [n] * (100 if n % 2 else 20), [50 + n] * (20 if n % 2 else 60)) for n in range(20)]
    assert before(wild) == {}  # a fifth longer and more on average, but well within chance


def test_pairs_that_are_left_out() -> None:
    found = [preference("p", "a", "b") for _ in range(2)]
    kept = [pair(1, [1], [2])]
    assert left_out(found, kept, max_length=8) == []
    [alarm] = left_out(found, [], max_length=8)
    assert alarm.pairs == (1, 1)
    assert "2 of 2 pairs are left out" in alarm.text


def test_held_out_pairs_have_alarms_of_their_own() -> None:
    found = [preference("p", "a", "b")] * 3  # all are pair 1
    whole = [pair(number, [1] * 20, [2] * 20) for number in range(1, 41)]
    assert alarms_held_out([], [], max_length=64) == alarms_held_out(found, whole, max_length=64) == []
    [alarm] = alarms_held_out(found, [], max_length=64)
    assert (alarm.name, alarm.level, alarm.pairs, alarm.example) == (
        "held-out-pairs-left-out",
        "warning",
        (1,) * 3,
        "p",
    )
    assert "3 of 3 held-out pairs are not judged by" in alarm.text and "max_length = 64" in alarm.text
    cut = [pair(number, [3] * 60, [4] * 20, cut=(12, 0), eos=False) for number in (50, 49)]
    tail = pair(51, [5] * 20, [5] * 20, lost=2)  # that both are the same is nothing to be judged by, and no alarm
    short, elsewhere = alarms_held_out(found, [*whole, *cut, tail], max_length=64)
    assert (short.name, short.level, short.pairs) == ("held-out-completions-cut", "note", (49, 50))  # 2 of 43
    assert "In 2 of 43 held-out pairs" in short.text and "needs 74 tokens: raise training.max_length." in short.text
    assert (elsewhere.name, elsewhere.level) == ("held-out-prompt-tails-lost", "warning")
    assert elsewhere.pairs == (51,) and "1 of 43 held-out pairs" in elsewhere.text
    [full] = alarms_held_out(found, [*cut, *whole], max_length=64, context=64)
    assert "the model's own 64 positions" in full.text and "raise" not in full.text


def watched(
    metrics: list[tuple[float, float, float]], *, epochs: float = 1, pairs_per_step: int = 8
) -> list[tuple[int, str]]:
    """(step, name) of the alarms; metrics are (rewards/chosen, rewards/accuracies, rewards/margins)."""
    watch = TrainingWatch(beta=0.1, chosen_tokens=50, pairs_per_step=pairs_per_step, epochs=epochs)
    said = []
    for step, (chosen, accuracy, margin) in enumerate(metrics, 1):
        entry = {"rewards/chosen": chosen, "rewards/accuracies": accuracy, "rewards/margins": margin, "loss": 0.5}
        said += [(step, alarm.name) for alarm in watch.hear(step, len(metrics), entry)]
    return said


def test_healthy_training_gives_no_alarm() -> None:
    # Chosen log-probs dip a little, as they do; accuracy rises to three in four and a batch is all right now and then.
    steady = [(-0.2 * step / 40, 1.0 if step % 5 == 0 else 0.75, 0.05 * step) for step in range(40)]
    assert watched(steady) == []
    assert watched([(0.0, 0.5, 0.0)]) == []
    watch = TrainingWatch(beta=0.1, chosen_tokens=50, pairs_per_step=8, epochs=1)
    assert [watch.hear(step, 9, {"loss": 0.7}) for step in range(1, 10)] == [[]] * 9  # no such metrics


def test_chosen_log_probs_that_fall() -> None:
    # 0.1 nats a token of 50 tokens are 5 nats, a reward of -0.5: passed at step 21 of 40 by the mean of ten steps.
    falling = [(-0.03 * step, 0.7, 0.1) for step in range(40)]
    mean_at = {step: sum(0.03 * at for at in range(step - 10, step)) / 10 for step in range(20, 41)}
    first = min(step for step, mean in mean_at.items() if mean > 0.5)
    assert watched(falling) == [(first, "chosen-log-probs-falling")]
    dip = [(-2.0 if step < 10 else -0.1, 0.7, 0.1) for step in range(40)]  # at first, as the rate rises
    assert watched(dip) == []
    blip = [(-3.0 if step == 30 else -0.1, 0.7, 0.1) for step in range(40)]
    assert watched(blip) == []


def test_the_fall_is_told_in_figures() -> None:
    watch = TrainingWatch(beta=0.1, chosen_tokens=50, pairs_per_step=8, epochs=1)
    found = [alarm for step in range(1, 13) for alarm in watch.hear(step, 12, {"rewards/chosen": -1.0})]
    assert [alarm.name for alarm in found] == ["chosen-log-probs-falling"]
    assert "10 nats below the parent's, 0.2 a token (each 18% less likely)" in found[0].text  # 1 - e^-0.2 = 0.181


def test_steps_of_ties_alone_are_passed_over() -> None:
    watch = TrainingWatch(beta=0.1, chosen_tokens=50, pairs_per_step=8, epochs=1)
    rewards = [{} if step % 2 else {"rewards/chosen": -1.0} for step in range(1, 13)]
    said = [alarm.name for step, entry in enumerate(rewards, 1) for alarm in watch.hear(step, 12, {"loss": 1} | entry)]
    assert said == ["chosen-log-probs-falling"]


def test_accuracy_that_is_perfect_at_once() -> None:
    perfect = [(0.1, 0.0 if step == 0 else 1.0, 0.3 * step) for step in range(20)]
    assert watched(perfect) == [(11, "accuracy-at-once")]  # ten steps, half an epoch, all but the first of all
    assert watched(perfect, epochs=2) == [(7, "accuracy-at-once")]  # five steps; before, the mean margin was below 1
    assert watched(perfect, epochs=10) == []  # an epoch of two steps: what is right later was seen before
    assert watched(perfect, epochs=2, pairs_per_step=1) == []  # ten pairs right in a row may be luck
    assert watched([(0.1, accuracy, margin / 20) for _, accuracy, margin in perfect]) == []  # by a hair's breadth
    once_wrong = [(0.1, 0.875 if step % 9 == 0 else 1.0, 2.0) for step in range(20)]
    assert watched(once_wrong) == []


def test_answers_that_grow() -> None:
    draw = random.Random(3)
    parent = [draw.randint(20, 60) for _ in range(16)]
    [alarm] = alarms_after(parent, [min(80, length + draw.randint(15, 45)) for length in parent], max_new_tokens=80)
    assert alarm.name == "sample-length-drift"
    assert "longer than its parent's" in alarm.text and "max_new_tokens = 80" in alarm.text
    [alarm] = alarms_after(parent, [length // 2 for length in parent], max_new_tokens=80)
    assert "shorter than its parent's" in alarm.text
    assert alarms_after(parent, [length + draw.randint(-4, 4) for length in parent], max_new_tokens=80) == []
    assert alarms_after(parent, random.Random(4).sample(parent, 16), max_new_tokens=80) == []
    assert alarms_after(parent[:7], [2 * length for length in parent[:7]], max_new_tokens=80) == []  # too few
    assert alarms_after([], [], max_new_tokens=80) == []


def test_an_alarm_is_read_as_it_was_recorded() -> None:
    alarm = Alarm("missing-eos", "warning", "No end.", (3, 5))
    record = {"alarms": [{"name": "missing-eos", "level": "warning", "text": "No end.", "pairs": [3, 5]}]}
    assert recorded_alarms(record) == [alarm]
    assert recorded_alarms({}) == []
    assert alarm.title == "missing eos"
    assert alarm.whole_text == "No end. Pairs concerned: 3, 5."


def test_what_ends_a_completion_is_known_without_the_weights(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    assert saved_stop_ids(str(tiny_model), tokenizer) == stop_ids(build_model(tokenizer), tokenizer)


def test_tokenization_says_what_it_cut_and_where_it_ends(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    pairs = [preference("p", "x" * 30, "yes"), preference("p", "no", "hm")]
    long, short = tokenize_pairs(pairs, tokenizer, max_length=24)
    whole = tokenize_pairs(pairs, tokenizer, max_length=64)
    assert (long.chosen_cut, long.rejected_cut) == (len(whole[0].chosen_ids) - len(long.chosen_ids), 0)
    assert long.chosen_cut == 11  # <|user|>p<|end|><|assistant|> and 20 of the 31 tokens fit into 24
    assert (short.chosen_cut, short.rejected_cut) == (0, 0)
    ends = saved_stop_ids(str(tiny_model), tokenizer)
    assert [alarm.name for alarm in alarms_before([long, short], eos_ids=ends, max_length=24)] == ["cut-completions"]
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "{{ '<|end|>' if message.role == 'user' }}")
    endless = tokenize_pairs(pairs[1:], tokenizer, max_length=64)
    assert [alarm.name for alarm in alarms_before(endless, eos_ids=ends, max_length=64)] == ["missing-eos"]


FALLING = {"num_train_epochs": 4, "loss_type": ["apo_down"]}  # the loss that lowers chosen log-probs on purpose


def names(run: Run) -> list[str]:
    return [alarm.name for alarm in run_alarms(run)]


def test_a_run_has_its_alarms_in_its_record_while_it_lasts_and_after(make_workspace: Make) -> None:
    workspace = make_workspace(training=FALLING | {"max_length": 40})
    ready_to_train(workspace)
    start_training(workspace, by="test")
    live: list[list[str]] = []

    def look(progress: dict[str, Any]) -> None:
        if progress["phase"] == "train" and progress["step"] == 2:
            with reading(workspace.engine) as session:
                live.append(names(session.get_one(Run, 2)))

    finished = run_next(workspace, look)
    assert finished.status == RunStatus.DONE, finished.error
    # The prompts have 29 to 30 tokens and completions up to 9: where prompts are ten and more, the end is cut.
    assert live and "cut-completions" in live[0]
    assert "chosen-log-probs-falling" not in live[0]
    assert "chosen-log-probs-falling" in names(finished)
    assert finished.result["alarms"] == finished.progress["alarms"]
    with reading(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name="round-1")
    assert recorded_alarms(checkpoint.metrics) == run_alarms(finished)
    lengths = finished.result["lengths"]
    assert (
        lengths["samples"] == sum(finished.result[part]["pairs"] for part in ("train", "eval")) == 12
    )  # all there are
    assert 1 <= lengths["before"] <= 8 and 1 <= lengths["after"] <= 8
    log = (workspace.run_folder(2) / "log.txt").read_text()
    assert log.count("Chosen log-probs are falling") == 1


def test_a_run_on_healthy_pairs_has_none(make_workspace: Make) -> None:
    workspace = make_workspace(training={"learning_rate": 1e-4, "drift_samples": 0, "confidence": "reliability"})
    ready_to_train(workspace)
    start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    expected = {"length-bias", "confidence-unfounded"}  # the one annotator of these tests prefers what is longer
    assert {"confidence-unfounded"} <= set(names(finished)) <= expected
    assert all(alarm.level == "note" for alarm in run_alarms(finished))
    assert finished.result["lengths"] == {}


@pytest.mark.parametrize(
    ("confidence", "told", "said"),
    [("reliability", 0, True), ("reliability", 2, False), ("agreement", 0, False), ("ignore", 0, False)],
)
def test_reliability_without_anything_to_go_by_is_smoothing(confidence: Any, told: int, said: bool) -> None:
    training = TrainingSettings(confidence=confidence)
    found = unfounded(training, {"confidence": {"informative_comparisons": told}})
    assert [alarm.name for alarm in found] == ["confidence-unfounded"] * said
    assert unfounded(training, {}) == []


def test_a_run_says_what_held_out_pairs_are_not_judged_by_whole(make_workspace: Make) -> None:
    workspace = make_workspace(training={"max_length": 32, "drift_samples": 0})  # two or three tokens for a completion
    ready_to_train(workspace)
    start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    assert {"cut-completions", "held-out-completions-cut"} <= set(names(finished))
    [alarm] = [alarm for alarm in run_alarms(finished) if alarm.name == "held-out-completions-cut"]
    assert f"of {finished.result['eval']['pairs']} held-out pairs" in alarm.text and alarm.example


@pytest.mark.parametrize("where", ["train", "write samples"])
def test_a_run_that_was_cut_off_ends_with_the_same_alarms_and_lengths(make_workspace: Make, where: str) -> None:
    found = []
    for name in ("whole", "cut"):
        workspace = make_workspace(name, training=FALLING)
        ready_to_train(workspace)
        start_training(workspace, by="test")
        if name == "cut":
            with pytest.raises(Cut):
                run_next(workspace, cut_at(5) if where == "train" else cut_while_sampling())
            lapse(workspace)
        finished = run_next(workspace)
        assert finished.status == RunStatus.DONE, finished.error
        found.append((finished.result["alarms"], finished.result["lengths"]))
    assert "chosen-log-probs-falling" in [alarm["name"] for alarm in found[0][0]]
    assert found[0] == found[1]


def cut_while_sampling() -> Callable[[dict[str, Any]], None]:
    heard = []

    def listener(progress: dict[str, Any]) -> None:
        heard.extend([1] if progress["phase"] == "write samples of round-1" else [])
        if len(heard) == 3:
            raise Cut

    return listener


def test_writing_samples_can_be_cancelled(make_workspace: Make) -> None:
    workspace = make_workspace(sampling={"max_new_tokens": 64, "batch_size": 1})
    ready_to_train(workspace)
    run = start_training(workspace, by="test")

    def cancel(progress: dict[str, Any]) -> None:
        if progress["phase"].startswith("write samples") and progress["step"] == 0:
            with writing(workspace.engine) as session:
                cancel_run(session=session, run_id=run.id or 0)

    assert run_next(workspace, cancel).status == RunStatus.CANCELLED


def test_a_run_whose_numbers_break_says_so_and_keeps_its_last_good_state(
    make_workspace: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(training={"num_train_epochs": 4, "save_steps": 1})
    ready_to_train(workspace)
    run = start_training(workspace, by="test")
    compute = PairTrainer.compute_loss

    def broken(self: PairTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, *args, **kwargs)
        return loss * math.nan if self.state.global_step == 4 else loss  # the loss of step 5

    monkeypatch.setattr(PairTrainer, "compute_loss", broken)
    finished = run_next(workspace)
    assert finished.status == RunStatus.FAILED
    assert "step 5" in (finished.error or "") and "learning_rate" in (finished.error or "")
    alarm = run_alarms(finished)[-1]
    assert alarm.name == "diverged"
    assert "checkpoint-3, is kept" in alarm.text  # what came of step 4 has given the NaN
    kept = last_complete_checkpoint(workspace.run_folder(run.id or 0) / "trainer" / "round-1")
    assert kept is not None and kept.name == "checkpoint-3"
    assert not (workspace.folder / "checkpoints" / "round-1").exists()


@pytest.mark.parametrize("what", ["gradient", "weights"])
def test_weights_that_are_no_numbers_are_never_saved(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    trainer = pair_trainer(tiny_model, tmp_path, SETTINGS.model_copy(update={"save_steps": 1}), [], "full")
    step = trainer.training_step

    def broken(*args: Any, **kwargs: Any) -> Any:
        loss = step(*args, **kwargs)
        if trainer.state.global_step == 2:  # in step 3, after a loss that was sound
            weight = trainer.model.get_output_embeddings().weight
            (weight.grad if what == "gradient" else weight.data)[0, 0] = math.inf
        return loss

    monkeypatch.setattr(trainer, "training_step", broken)
    with pytest.raises(DivergedError, match="step 3") as caught:
        trainer.train()
    assert caught.value.last_good == 2
    newest = last_complete_checkpoint(tmp_path)
    assert newest is not None and newest.name == "checkpoint-2"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_sound_training_is_not_stopped(tiny_model: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"save_steps": 1})
    trainer = pair_trainer(tiny_model, tmp_path, settings, [], "lora")
    trainer.train()
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())
    assert [path.name for path in [forget_after(tmp_path, 5)] if path] == ["checkpoint-5"]
    assert forget_after(tmp_path, 0) is None
