"""What a training will need: figures worked by hand, laws, and that what does not fit is not queued."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from dpo_core import run_plan
from dpo_core.base_model import Weights, weights_here
from dpo_core.config import ModelSettings, TrainingSettings
from dpo_core.errors import MemoryRefusedError
from dpo_core.loop import Step, plan_training, read_loop, start_training
from dpo_core.memory_plan import (
    PROCESS,
    MemoryPlan,
    ModelShape,
    PairTokens,
    Work,
    draw_plan,
    measure_texts,
    needs,
    read_shape,
)
from dpo_core.run_plan import change_words, free_memory, free_on_cards
from dpo_core.shares import ONE, Processes
from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.importing import import_preferences
from store.models import Run, RunKind, RunStatus
from store.runs import list_runs
from store.wording import sized

Make = Callable[..., Workspace]
MEGA = 1_000_000
SHAPE = ModelShape(
    parameters=MEGA,
    layers=2,
    hidden=8,
    intermediate=16,
    attention=8,
    vocabulary=100,
    linear=700,
    sides=3000,
    context=64,
)
FULL, LORA = ModelSettings(tuning="full"), ModelSettings(tuning="lora", lora_r=4)
ONE_PAIR = Work(1, (PairTokens(10, 5, 5),), 20)
LARGE = ModelShape(7 * 10**9, 32, 4096, 11008, 4096, 32000, 6 * 10**9, 8 * MEGA, 4096)
MEDIUM = ModelShape(500 * MEGA, 24, 1024, 4096, 1024, 50_000, 400 * MEGA, MEGA, 4096)
LONG = Work(100, (PairTokens(800, 400, 400),) * 8, 160_000)


def settings(**changes: object) -> TrainingSettings:
    plain = {"gradient_checkpointing": False, "max_length": 4096, "bf16": False, "pass_tokens": 100_000}
    return TrainingSettings.model_validate(plain | changes)


def test_weights_gradients_and_optimizer_are_four_four_and_eight_bytes_a_parameter() -> None:
    full, lora = needs(SHAPE, ONE_PAIR, settings(), FULL), needs(SHAPE, ONE_PAIR, settings(), LORA)
    assert (full.weights, full.gradients, full.optimizer) == (4 * MEGA, 4 * MEGA, 8 * MEGA)
    trained = 4 * 3000  # the rank, times rows and columns of all matrices
    assert (lora.weights, lora.gradients, lora.optimizer) == (4 * (MEGA + trained), 4 * trained, 8 * trained)


def test_activations_and_logits_worked_by_hand() -> None:
    plain = needs(SHAPE, ONE_PAIR, settings(), FULL)
    a_layer = 20 * 4 * (6 * 8 + 7 * 8 + 4 * 16)  # 20 tokens, the prompt's once
    assert plain.activations == 2 * a_layer == 26_880
    assert plain.head == 8.25 * 4 * 10 * 100 + 4 * 100 * 8 == 36_200  # 10 tokens are predicted; and its gradient
    saved = needs(SHAPE, ONE_PAIR, settings(gradient_checkpointing=True), FULL)
    assert saved.activations == a_layer + 2 * 20 * 4 * 8
    assert plain.total == PROCESS + 4 * MEGA + 8 * MEGA + 4 * MEGA  # all gradients outweigh all activations here
    added_up = needs(SHAPE, ONE_PAIR, settings(gradient_accumulation_steps=2), FULL)
    assert added_up.total == plain.total + 26_880 + 36_200


def test_without_sharing_every_position_of_two_padded_rows_counts() -> None:
    work = Work(2, (PairTokens(10, 5, 5), PairTokens(2, 1, 1)), 24)
    apart = needs(SHAPE, work, settings(prefix_sharing=False), FULL)
    assert apart.activations == 2 * (4 * 15) * 4 * (6 * 8 + 7 * 8 + 4 * 16)


def test_texts_are_cut_where_training_cuts_them() -> None:
    assert PairTokens(10, 5, 30).cut(20) == PairTokens(10, 5, 10)
    assert PairTokens(30, 5, 5).cut(20) == PairTokens(20, 0, 0)
    in_the_models_room = needs(SHAPE, Work(1, (PairTokens(10, 500, 500),), 1010), settings(), FULL)
    assert in_the_models_room.activations == 2 * (10 + 54 + 54) * 672


lengths = st.builds(PairTokens, *[st.integers(1, 2000)] * 3)
works = st.lists(lengths, min_size=1, max_size=8).map(lambda found: Work(9, tuple(found), sum(p.unique for p in found)))
some_settings = st.builds(settings, bf16=st.booleans(), prefix_sharing=st.booleans(), batch_size=st.integers(1, 8))
some_shapes = st.sampled_from([SHAPE, LARGE])
tunings = st.sampled_from([FULL, LORA])


@given(some_shapes, works, some_settings, tunings, st.integers(0, 500))
def test_more_tokens_never_need_less(
    shape: ModelShape, work: Work, training: TrainingSettings, model: ModelSettings, more: int
) -> None:
    longer = tuple(PairTokens(p.prompt, p.chosen + more, p.rejected + more) for p in work.longest)
    grown = Work(work.pairs, longer, work.tokens + 2 * more * len(longer))
    assert needs(shape, grown, training, model).total >= needs(shape, work, training, model).total


@given(some_shapes, works, some_settings, tunings)
def test_checkpointing_never_needs_more(
    shape: ModelShape, work: Work, training: TrainingSettings, model: ModelSettings
) -> None:
    saving = training.model_copy(update={"gradient_checkpointing": True})
    assert needs(shape, work, saving, model).total <= needs(shape, work, training, model).total


short = st.lists(st.builds(PairTokens, *[st.integers(1, 100)] * 3), min_size=1, max_size=2)


@given(short, some_settings)
def test_an_adapter_needs_less_than_all_weights_where_weights_are_what_is_large(
    pairs: list[PairTokens], training: TrainingSettings
) -> None:
    work = Work(9, tuple(pairs), 2000)  # with many tokens what an adapter adds to activations outweighs it
    assert needs(LARGE, work, training, LORA).total < needs(LARGE, work, training, FULL).total


def test_a_shape_is_read_from_a_model_as_it_lies_there(tiny_model: Path, tmp_path: Path) -> None:
    weights = weights_here(str(tiny_model), tmp_path)
    assert weights is not None
    shape = read_shape(weights)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = model.config
    assert shape.parameters == model.num_parameters()
    assert (shape.layers, shape.hidden, shape.intermediate, shape.attention) == (2, 32, 64, 32)
    assert (shape.vocabulary, shape.context, shape.keys) == (config.vocab_size, 256, 16)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    assert shape.trained(LORA) == adapted.get_nb_trainable_parameters()[0]


def test_families_name_their_figures_differently(tmp_path: Path) -> None:
    gpt2 = {"n_embd": 8, "n_layer": 3, "n_head": 2, "vocab_size": 50, "n_positions": 64, "n_inner": None}
    shapes = {"wte.weight": (50, 8), "h.0.mlp.c_fc.weight": (8, 32), "h.0.ln_1.weight": (8,)}
    shape = read_shape(Weights(tmp_path, gpt2, shapes))
    assert (shape.layers, shape.intermediate, shape.attention, shape.context) == (3, 32, 8, 64)
    assert (shape.parameters, shape.linear, shape.sides) == (400 + 256 + 8, 256, 40)
    nested = {"text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}}
    assert read_shape(Weights(tmp_path, nested | {"hidden_size": 99}, shapes)).hidden == 8
    with pytest.raises(ValueError, match="num_hidden_layers"):
        read_shape(Weights(tmp_path, {"n_embd": 8, "n_head": 2}, shapes))


def test_a_model_that_is_not_on_this_machine_has_no_shape(tmp_path: Path) -> None:
    assert weights_here("somebody/something", tmp_path) is None
    assert weights_here("no such name: a sentence", tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"half a hea")
    assert weights_here(str(tmp_path), tmp_path) is None


def test_the_longest_pairs_are_counted_in_tokens_and_the_rest_by_their_letters() -> None:
    rows = [("aaaa", "bb", "cc"), ("a" * 40, "b" * 20, "c" * 20), ("a" * 8, "b" * 4, "c" * 4)]
    work = measure_texts(rows, lambda text: len(text) // 2, settings(batch_size=2))
    assert work == Work(3, (PairTokens(20, 10, 10), PairTokens(4, 2, 2)), (8 + 80 + 16) // 2)


def test_pairs_that_will_be_left_out_are_not_counted_and_texts_count_as_far_as_they_are_read() -> None:
    long, near, short = ("a" * 200, "b" * 20, "c" * 20), ("a" * 60, "b" * 20, "c" * 20), ("a" * 8, "b" * 90, "c" * 4)
    work = measure_texts([short, near, long], lambda text: len(text) // 2, settings(max_length=64), context=30)
    assert work == Work(1, (PairTokens(4, 26, 2),), (8 + 90 + 4) // 2)
    roomy = measure_texts([short, near, long], lambda text: len(text) // 2, settings(max_length=64), context=31)
    assert roomy.pairs == 2
    nothing = measure_texts([long], lambda text: len(text) // 2, settings(max_length=64))
    assert nothing == Work(0, (), 0)
    assert draw_plan(SHAPE, nothing, settings(), FULL, available=2**40).fits


def test_what_is_remembered_while_samples_are_written() -> None:
    shape = replace(SHAPE, keys=4)
    answering = needs(shape, replace(ONE_PAIR, written=10**7), settings(), FULL)
    assert answering.writing == 2 * 4 * 2 * 4 * 10**7  # keys and values, 2 layers, 4 numbers of 4 bytes each
    assert answering.total == PROCESS + 4 * MEGA + answering.writing
    assert needs(shape, ONE_PAIR, settings(), FULL).writing == 0


def plan_in(available: float, shape: ModelShape = MEDIUM, **changes: object) -> MemoryPlan:
    training = settings(**{"gradient_checkpointing": "auto"} | changes)
    return draw_plan(shape, LONG, training, FULL, available=int(available))


def test_auto_turns_checkpointing_on_only_where_memory_asks_for_it() -> None:
    without = needs(MEDIUM, LONG, settings(), FULL).total
    saving = needs(MEDIUM, LONG, settings(gradient_checkpointing=True), FULL).total
    assert saving < without / 2
    assert plan_in(2 * without).training.gradient_checkpointing is False
    between = plan_in(without)  # a tenth is left to others, so it is not enough
    assert (between.training.gradient_checkpointing, between.total, between.fits) == (True, saving, True)
    told = plan_in(without, gradient_checkpointing=False)
    assert (told.training.gradient_checkpointing, told.fits) == (False, False)
    assert plan_in(2 * without, gradient_checkpointing=True).total == saving


def test_what_to_change_is_said_with_what_it_comes_to() -> None:
    plan = plan_in(44e9, gradient_checkpointing=False)
    assert [change.settings for change in plan.changes] == [
        "pass_tokens = 2048",
        "gradient_checkpointing = true",
        "max_length = 600",
    ]  # and no adapter: what it adds to activations is more than what it saves here
    assert all(change.fits and change.total <= 0.9 * 44e9 for change in plan.changes)
    smaller = needs(MEDIUM, LONG, settings(pass_tokens=2048), FULL).total
    assert plan.changes[0].total == smaller < plan.total
    assert f"pass_tokens = 2048: about {sized(smaller)}, which fits" in change_words(plan)


def test_a_pass_holds_its_budget_or_the_longest_pair() -> None:
    pairs = tuple(PairTokens(6, 3, 1) for _ in range(8))  # 10 tokens each
    work = Work(8, pairs, tokens=80)

    def kept(**changes: int) -> int:
        return needs(SHAPE, work, settings(**changes), FULL).activations

    assert kept(pass_tokens=40) == kept(batch_size=4, gradient_accumulation_steps=2), "half of the pairs at once"
    assert kept(pass_tokens=7) == kept(batch_size=1, gradient_accumulation_steps=8), "no less than a pair"
    assert kept(pass_tokens=80) == kept() == 8 * kept(batch_size=1)


def test_several_processes_keep_whole_batches_and_are_offered_smaller_ones() -> None:
    two = Processes(2)
    budget, none = settings(pass_tokens=1024), settings()
    assert needs(MEDIUM, LONG, budget, FULL, two) == needs(MEDIUM, LONG, none, FULL, two)
    plan = draw_plan(MEDIUM, LONG, none, FULL, available=int(84e9), processes=two)
    assert "batch_size = 4 with gradient_accumulation_steps = 2" in [change.settings for change in plan.changes]


@pytest.mark.parametrize("changes", [{"loss_type": ["sigmoid", "sft"]}, {"prefix_sharing": False}])
def test_what_is_not_computed_in_passes_is_planned_whole(changes: dict[str, Any]) -> None:
    budget, none = settings(pass_tokens=1024, **changes), settings(**changes)
    assert needs(MEDIUM, LONG, budget, FULL) == needs(MEDIUM, LONG, none, FULL)
    offered = [change.settings for change in draw_plan(MEDIUM, LONG, none, FULL, available=int(20e9)).changes]
    assert any(words.startswith("batch_size") for words in offered)
    assert not any(words.startswith("pass_tokens") for words in offered)


def test_there_is_room_for_either_precision_while_it_is_undecided() -> None:
    for work in (ONE_PAIR, LONG):
        either = [needs(MEDIUM, work, settings(bf16=bf16), FULL).total for bf16 in (False, True)]
        assert needs(MEDIUM, work, settings(bf16="auto"), FULL).total == max(either)


def test_weights_that_do_not_fit_leave_only_an_adapter() -> None:
    plan = plan_in(100e9, LARGE, batch_size=1)
    assert plan.training.gradient_checkpointing is True
    assert [(change.settings, change.fits) for change in plan.changes] == [('tuning = "lora"', True)]


def test_where_nothing_is_enough_by_itself_all_of_it_is_offered_together() -> None:
    *alone, together = plan_in(7e9, gradient_checkpointing=False).changes
    assert alone and not any(change.fits for change in alone)
    assert together.fits
    assert together.settings.startswith("pass_tokens = 256, gradient_checkpointing = true")
    assert 'tuning = "lora"' in together.settings


@pytest.fixture
def with_imports(make_workspace: Make, tmp_path: Path) -> Workspace:
    """Sixteen or so comparisons to train on."""
    workspace = make_workspace(prompts=0)
    path = tmp_path / "preferences.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": f"Yes, {n}.", "rejected": f"No {n}."} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_preferences(engine=workspace.engine, path=path, held_out_share=0.2)
    return workspace


def free(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(run_plan, "free_memory", lambda *_: available)


def test_what_does_not_fit_is_refused_before_anything_is_queued(
    with_imports: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 10 * 2**20)
    with pytest.raises(MemoryRefusedError, match=r"10 MB are free(.|\n)*Close other(.|\n)*--anyway"):
        start_training(with_imports, by="test", changes={"max_length": 64})
    with reading(with_imports.engine) as session:
        state = read_loop(session=session)
        assert list_runs(session=session) == []
    assert (state.step, state.round) == (Step.START_ROUND, None)
    run = start_training(with_imports, by="test", force=True)
    assert (run.kind, run.settings["plan"]["free_mb"]) == (RunKind.TRAIN, 10)


def test_the_run_keeps_its_plan_and_has_auto_decided(with_imports: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 4 * 2**30)
    plan = plan_training(with_imports)
    assert plan is not None and plan.fits
    run = start_training(with_imports, by="test")
    assert run.settings["training"]["gradient_checkpointing"] is False
    known = {"free_mb": 4096, "seconds": None, "processes": 1, "pace": 1}
    assert run.settings["plan"] == {"mb": round(plan.total / 2**20)} | known
    with reading(with_imports.engine) as session:
        snapshot_pairs = plan.work.pairs
        story = read_loop(session=session)
    assert story.step == Step.WAIT_FOR_TRAINING and 10 < snapshot_pairs < 20  # those held out are not trained on


@pytest.mark.parametrize(("cards", "expected"), [([], 5 * 2**30), ([7], 4 * 2**30)])
def test_an_idle_chats_memory_counts_as_free_but_on_a_card(
    cards: list[int], expected: int, with_imports: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 4 * 2**30)
    monkeypatch.setattr(run_plan, "free_on_cards", lambda: cards)
    monkeypatch.setattr(run_plan, "idle_memory", lambda *, session: 2**30)
    plan = plan_training(with_imports)
    assert plan is not None and plan.available == expected


@pytest.mark.parametrize("trained_on", [{"pairs": 10}, {"pairs": 7, "ties": 3}])
def test_time_is_what_the_last_training_took_for_each_pair_and_epoch(
    with_imports: Workspace, trained_on: dict[str, int]
) -> None:
    plan = plan_training(with_imports)
    assert plan is not None and plan.seconds is None
    took = {"train": trained_on | {"seconds": 30.0}}
    known = {"model": with_imports.settings.model.model_dump(), "training": {"num_train_epochs": 3}}
    with writing(with_imports.engine) as session:
        session.add(Run(kind=RunKind.TRAIN, status=RunStatus.DONE, settings=known, result=took))
        session.add(Run(kind=RunKind.TRAIN, status=RunStatus.FAILED, settings=known, result={}))
    planned = plan_training(with_imports, changes={"num_train_epochs": 2})
    assert planned is not None and planned.seconds == pytest.approx(1.0 * 2 * planned.work.pairs)


def test_only_processes_on_cards_of_their_own_share_out_the_time(with_imports: Workspace) -> None:
    model, figures = with_imports.settings.model, {"train": {"pairs": 10, "seconds": 30.0}}
    known = {"model": model.model_dump(), "training": {"num_train_epochs": 3}, "plan": {"processes": 2, "pace": 2}}
    with writing(with_imports.engine) as session:
        session.add(Run(kind=RunKind.TRAIN, status=RunStatus.DONE, settings=known, result=figures))

    def seconds(processes: Processes) -> float | None:
        with reading(with_imports.engine) as session:
            return run_plan._seconds(session, Work(40, (), 0), settings(num_train_epochs=1), model, processes)

    assert seconds(Processes(2, on_cards=True)) == 40  # one second for a pair, as it was on two cards
    assert seconds(ONE) == seconds(Processes(8)) == 80  # eight that share a CPU are no faster than one
    assert seconds(Processes(8, on_cards=True)) == 10


def test_an_unknown_model_is_trained_without_a_plan(make_workspace: Make, with_imports: Workspace) -> None:
    elsewhere = with_imports.settings.model.model_copy(update={"base": "somebody/something"})
    workspace = Workspace(with_imports.folder, with_imports.settings.model_copy(update={"model": elsewhere}))
    assert plan_training(workspace) is None
    run = start_training(workspace, by="test")
    assert (run.settings["plan"], run.settings["training"]["gradient_checkpointing"]) == (None, False)


def test_a_container_has_only_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_plan, "CGROUP", tmp_path)
    monkeypatch.setattr(run_plan, "_torch_version", lambda: "2.13.0+cpu")
    whole = free_memory([])
    assert whole > 0
    (tmp_path / "memory.current").write_text(f"{30 * MEGA}\n")
    (tmp_path / "memory.max").write_text(f"{50 * MEGA}\n")
    assert free_memory([]) == 20 * MEGA
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory([]) == pytest.approx(whole, rel=0.5)


@pytest.mark.parametrize(
    ("torch", "says", "expected"),
    [
        ("2.13.0", "echo 40960; echo 11", 40 * 2**30),  # the first card's
        ("2.13.0+cpu", "echo 40960", None),
        ("2.13.0", "echo No devices were found; exit 6", None),
        ("2.13.0", "echo '[N/A]'", None),
    ],
)
def test_a_card_counts_where_torch_can_use_it(
    torch: str, says: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{says}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(run_plan, "_torch_version", lambda: torch)
    monkeypatch.setattr(run_plan, "_free_on_machine", lambda: 1)
    assert free_memory(free_on_cards()) == (expected or 1)


def test_sizes_in_words() -> None:
    assert [sized(size * 2**20) for size in (640, 1229, 23552)] == ["640 MB", "1.2 GB", "23 GB"]


def test_a_plan_is_drawn_without_torch(with_imports: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from dpo_core.workspace import open_workspace\n"
        "from dpo_core.loop import plan_training\n"
        f"print(plan_training(open_workspace(Path({str(with_imports.folder)!r}))).total > 0)\n"
        "print({'torch', 'transformers', 'trl', 'peft'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:2] == ["True", "set()"]
