"""What several processes of a training need: a launcher's words as the launchers take them, and figures by hand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from dpo_core.memory_plan import PROCESS, Work, draw_plan, needs
from dpo_core.run_plan import change_words, free_memory
from dpo_core.shares import GRADIENTS, ONE, WEIGHTS, Processes, read_launcher
from tests.dpo_core.test_memory_plan import FULL, LARGE, LONG, LORA, MEDIUM, MEGA, ONE_PAIR, SHAPE, settings

CONFIG = "num_processes: {count}\ndistributed_type: {kind}\n{more}\n"
FSDP1 = "fsdp_config: {fsdp_version: 1, fsdp_sharding_strategy: %s}"


def configured(folder: Path, kind: str, more: str = "", count: int = 4) -> str:
    path = folder / "launch.yaml"
    path.write_text(CONFIG.format(count=count, kind=kind, more=more))
    return f"accelerate launch --config_file {path}"


@pytest.mark.parametrize(
    ("launcher", "cards", "expected"),
    [
        ("", 8, ONE),
        ("torchrun --nproc_per_node 4", 0, Processes(4)),
        ("torchrun --standalone --nproc-per-node=3", 8, Processes(3, on_cards=True)),
        ("torchrun --nproc_per_node gpu", 8, Processes(8, on_cards=True)),
        ("torchrun --nproc_per_node cpu", 0, Processes(os.cpu_count() or 1)),
        ("torchrun --standalone", 0, Processes(1)),
        ("accelerate launch --config_file pairloop:ddp", 0, Processes(2)),
        ("accelerate launch --config_file pairloop:ddp --num_processes 3", 0, Processes(3)),
        ("accelerate-launch --config_file pairloop:ddp --num-processes=1", 2, ONE),
        ("accelerate launch --config_file pairloop:ddp --cpu", 0, ONE),
        ("accelerate launch --config_file pairloop:fsdp2", 2, Processes(2, WEIGHTS, on_cards=True)),
        ("accelerate launch --config_file pairloop:fsdp2", 0, Processes(2)),  # accelerate splits between cards only
        ("accelerate launch --config_file pairloop:deepspeed-zero2", 2, Processes(2, GRADIENTS, on_cards=True)),
        ("accelerate launch --use_deepspeed --zero_stage 3 --num_processes 4", 4, Processes(4, WEIGHTS, on_cards=True)),
        ("accelerate launch --num_processes 2", 2, Processes(2, on_cards=True)),
    ],
)
def test_a_launcher_says_how_many_processes_it_starts(launcher: str, cards: int, expected: Processes) -> None:
    assert read_launcher(launcher, cards=cards) == expected


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("MULTI_GPU", "", ()),
        ("FSDP", "fsdp_config: {fsdp_version: 2}", WEIGHTS),
        ("FSDP", "fsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: false}", GRADIENTS),
        ("FSDP", FSDP1 % "FULL_SHARD", WEIGHTS),
        ("FSDP", FSDP1 % "SHARD_GRAD_OP", GRADIENTS),
        ("FSDP", FSDP1 % "NO_SHARD", ()),
        ("DEEPSPEED", "deepspeed_config: {zero_stage: 1}", ("optimizer",)),
        ("DEEPSPEED", "deepspeed_config: {zero_stage: 3}", WEIGHTS),
    ],
)
def test_a_configuration_says_what_is_split(tmp_path: Path, kind: str, more: str, expected: tuple[str, ...]) -> None:
    assert read_launcher(configured(tmp_path, kind, more), cards=4) == Processes(4, expected, on_cards=True)


def test_accelerate_starts_one_process_for_cpus_whatever_it_is_told(tmp_path: Path) -> None:
    assert read_launcher(configured(tmp_path, "MULTI_CPU", "use_cpu: true"), cards=0) == ONE
    assert read_launcher(configured(tmp_path, "'NO'"), cards=0) == ONE


def test_of_several_machines_this_ones_share_counts(tmp_path: Path) -> None:
    assert read_launcher(configured(tmp_path, "MULTI_GPU", "num_machines: 2"), cards=0).count == 2


def test_what_cannot_be_told_is_planned_for_one_process_with_the_reason(tmp_path: Path) -> None:
    broken, words = tmp_path / "broken.yaml", tmp_path / "words.yaml"
    broken.write_text("num_processes: [")
    words.write_text("hello")
    launch = "accelerate launch --config_file"
    puzzling = ["env A=1 torchrun", "no-such-program --nproc_per_node 2", "accelerate launch", f"{launch} {broken}"]
    puzzling += ["torchrun --nproc_per_node many", f"{launch} {tmp_path}/none.yaml", f"{launch} {words}", '"']
    puzzling += [
        f"{launch} pairloop:none",
        f"{launch}=pairloop:ddp",
        configured(tmp_path, "MULTI_CPU", "mpirun_config: {mpirun_ccl: '1'}"),
    ]
    for launcher in puzzling:
        found = read_launcher(launcher, cards=0)
        assert found.unknown and found == Processes(unknown=found.unknown), launcher


def test_processes_on_a_cpu_share_its_memory_and_keep_gradients_twice() -> None:
    two = needs(SHAPE, ONE_PAIR, settings(), FULL, Processes(2))
    assert (two.weights, two.gradients, two.optimizer, two.exchange) == (4 * MEGA, 4 * MEGA, 8 * MEGA, 4 * MEGA)
    assert two.total == 2 * (PROCESS + (4 + 4 + 8 + 4) * MEGA)
    adapter = needs(SHAPE, ONE_PAIR, settings(), LORA, Processes(2))
    assert adapter.exchange == adapter.gradients == 4 * 4 * 3000  # the rank, times rows and columns


def test_what_the_leader_does_alone_counts_once() -> None:
    written = Work(1, ONE_PAIR.longest, 20, written=10**7)
    alone = needs(replace(SHAPE, keys=4), written, settings(), FULL, Processes(3))
    assert alone.writing == 2 * 4 * 2 * 4 * 10**7  # more than all three hold while they train
    assert alone.total == 3 * PROCESS + 4 * MEGA + alone.writing


def test_processes_on_cards_have_a_memory_each() -> None:
    whole = needs(SHAPE, ONE_PAIR, settings(), FULL, Processes(4, on_cards=True))
    assert whole.total == PROCESS + (4 + 4 + 8 + 4) * MEGA
    zero_2 = needs(SHAPE, ONE_PAIR, settings(), FULL, Processes(4, GRADIENTS, on_cards=True))
    assert (zero_2.weights, zero_2.gradients, zero_2.optimizer) == (4 * MEGA, MEGA, 2 * MEGA)
    assert zero_2.exchange == 4 * MEGA  # the gradients of two layers, which are all that this model has
    fsdp = needs(SHAPE, ONE_PAIR, settings(), FULL, Processes(4, WEIGHTS, on_cards=True))
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == (MEGA, MEGA, 2 * MEGA)
    assert fsdp.exchange == 4 * MEGA + 4 * MEGA  # and the weights of two layers and of the vocabulary
    assert fsdp.total == PROCESS + MEGA + 2 * MEGA + 8 * MEGA + MEGA


def test_what_is_split_still_has_to_be_whole_once_to_be_judged() -> None:
    many = needs(LARGE, ONE_PAIR, settings(), FULL, Processes(64, WEIGHTS, on_cards=True))
    assert many.total == PROCESS + 4 * LARGE.parameters + many.judging


def test_a_plan_that_does_not_fit_names_the_other_launcher() -> None:
    training = settings(gradient_checkpointing=True)
    one, two = (needs(MEDIUM, LONG, training, FULL, each).total for each in (ONE, Processes(2)))
    plan = draw_plan(MEDIUM, LONG, training, FULL, available=int(one / 0.89), processes=Processes(2))
    assert (plan.total, plan.fits, plan.needs.exchange) == (two, False, 4 * MEDIUM.parameters)
    assert (plan.changes[0].settings, plan.changes[0].fits) == ('launcher = "", one process', True)
    cards = Processes(8, on_cards=True)
    plan = draw_plan(LARGE, ONE_PAIR, training, FULL, available=80 * 2**30, processes=cards)
    assert not plan.fits and "pairloop:fsdp2: about" in change_words(plan) and plan.changes[0].fits


@pytest.mark.parametrize(("processes", "expected"), [(1, 40), (2, 11), (9, 11)])
def test_the_fullest_card_counts(processes: int, expected: int) -> None:
    assert free_memory([40, 11, 30], processes) == expected
