"""How many processes a launcher will start on this machine, and what of a training each of them holds.

Told from the words of `launcher` in pairloop.toml and the configuration that they name, before anything is started.
What cannot be told is planned for one process, with the reason (`unknown`). Importable without torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dpo_core.errors import RunError
from dpo_core.ranks import launcher_command

OPTIMIZER, GRADIENTS, WEIGHTS = ("optimizer",), ("optimizer", "gradients"), ("optimizer", "gradients", "weights")
ZERO_STAGES = {"1": OPTIMIZER, "2": GRADIENTS, "3": WEIGHTS}
FSDP_KEPT = {"false", "shard_grad_op", "2"}  # weights stay together between forward and backward pass
FSDP_WHOLE = {"no_shard", "3"}  # nothing is split
MODES = {"--use_fsdp": "FSDP", "--use_deepspeed": "DEEPSPEED", "--multi_gpu": "MULTI_GPU"}


@dataclass(frozen=True)
class Processes:
    """The processes that share a training on this machine.

    `split`: what each holds only its part of. `on_cards`: each has a card's memory for itself; else all share the
    machine's. `unknown`: why nothing better than one process could be planned for.
    """

    count: int = 1
    split: tuple[str, ...] = ()
    on_cards: bool = False
    unknown: str = ""

    @property
    def pace(self) -> int:
        """How many times as fast as one they are at best: on a CPU they share its cores."""
        return self.count if self.on_cards else 1

    def part(self, what: str, size: int) -> int:
        """Of so many bytes, those that one process holds."""
        return -(-size // self.count) if what in self.split else size

    def at_once(self, process: int, training: int, alone: int) -> int:
        """Bytes held at most in the memory that counts, where all train, and before and after it the leader is alone.

        `process`: what each has in any case. The others wait meanwhile, or have ended.
        """
        if self.on_cards:
            return process + max(training, alone)
        return self.count * process + max(self.count * training, alone)


ONE = Processes()


def read_launcher(setting: str, *, cards: int) -> Processes:
    """The processes that this launcher starts on a machine with so many graphics cards."""
    if not setting.strip():
        return ONE
    try:
        program, *words = launcher_command(setting)
        if words[:1] == ["launch"]:
            words = words[1:]
        reader = READERS[Path(program).name]
        return reader(_options(words), cards)
    except KeyError:
        return Processes(unknown="only accelerate's and torchrun's words are understood")
    except RunError:
        return Processes(unknown="its program or its configuration is not on this machine")
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        return Processes(unknown=str(error).splitlines()[0] if str(error) else type(error).__name__)


def _options(words: Sequence[str]) -> dict[str, str]:
    """Options by name, with underscores, as both launchers take them; the last of a name counts. Flags are "true"."""
    found = {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found[name.replace("-", "_").replace("__", "--", 1)] = (
                value if equals else "true" if after.startswith("--") else after
            )
    return found


def _torchrun(options: dict[str, str], cards: int) -> Processes:
    """Whole models, as many as --nproc_per_node says."""
    said = options.get("--nproc_per_node", "1")
    names = {"gpu": cards, "cpu": os.cpu_count() or 1, "auto": cards or os.cpu_count() or 1}
    return Processes(max(1, names[said] if said in names else int(said)), (), cards > 0)


def _accelerate(options: dict[str, str], cards: int) -> Processes:
    """As accelerate launch reads its words: the command line before the file."""
    config = _read_config(options.get("--config_file"))
    kind = next((kind for flag, kind in MODES.items() if flag in options), config.get("distributed_type"))
    said = options.get("--num_processes", config.get("num_processes"))
    if said is None or (kind is None and cards < 2):
        raise ValueError("it names no configuration (--config_file) that says what to start")
    here = max(1, int(said) // max(1, int(options.get("--num_machines", config.get("num_machines") or 1))))
    if config.get("mpirun_config") or "--mpirun_hostfile" in options:
        raise ValueError("how many processes MPI starts is not known beforehand")
    # For these accelerate starts one process, whatever number it is told: several need MPI, or a kind with GPUs in it.
    if "--cpu" in options or str(kind) in {"NO", "MULTI_CPU"}:
        return ONE
    split = _split(str(kind), options, config) if cards else ()  # between CPU processes accelerate splits nothing
    return Processes(here, split, cards > 0) if here > 1 else ONE


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no configuration of accelerate")
    return config


def _split(kind: str, options: dict[str, str], config: dict[str, Any]) -> tuple[str, ...]:
    """What is split between processes, by accelerate's own defaults where nothing is said."""
    if kind == "DEEPSPEED":
        stage = options.get("--zero_stage", (config.get("deepspeed_config") or {}).get("zero_stage", 2))
        return ZERO_STAGES.get(str(stage), ())
    if kind != "FSDP":
        return ()
    said = config.get("fsdp_config") or {}
    names = ("fsdp_reshard_after_forward", "fsdp_sharding_strategy")
    strategies = {str(options.get(f"--{name}", said.get(name, "true"))).lower() for name in names}
    if strategies & FSDP_WHOLE:
        return ()
    return GRADIENTS if strategies & FSDP_KEPT else WEIGHTS


READERS = {"torchrun": _torchrun, "accelerate": _accelerate, "accelerate-launch": _accelerate}
