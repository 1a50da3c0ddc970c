"""What decides a training's last bits beside its settings: the versions of the code, and the machine it ran on."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from dpo_core import ranks

PACKAGES = ("pairloop", "torch", "transformers", "trl", "peft")


@dataclass(frozen=True)
class Fact:
    """Something on record, as it was and as it is here and now."""

    name: str
    then: str
    now: str


def code_version() -> str:
    """The versions that decide what training does."""
    return " ".join(f"{name}=={version(name)}" for name in PACKAGES)


def machine_facts() -> dict[str, Any]:
    """The device that trains, how it computes, and with how many threads and processes."""
    import torch

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    card = torch.cuda.get_device_name() if found is not None and found.type == "cuda" else None
    return {
        "device": card or str(found or "cpu"),
        "arithmetic": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "processes": ranks.count(),
    }


def differing_facts(versions: str, machine: Mapping[str, Any]) -> list[Fact]:
    """What of a recorded training is otherwise here and now; what the record does not say is left out."""
    then = dict(part.split("==", 1) for part in versions.split() if "==" in part) | dict(machine)
    now = dict(part.split("==", 1) for part in code_version().split()) | machine_facts()
    return [Fact(name, str(then[name]), str(now[name])) for name in now if name in then and then[name] != now[name]]
