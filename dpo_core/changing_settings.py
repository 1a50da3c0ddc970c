"""Settings changed for one run, as a command is given them; pairloop.toml stays as it is. Importable without torch."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from dpo_core.config import Settings, TrainingSettings, problem_words
from dpo_core.errors import SettingsError


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["beta=0.2", "loss_type=ipo"]` as values, each written as in pairloop.toml; a word needs no quotes.

    Raises SettingsError.
    """
    return dict(_assignment(text) for text in assignments)


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SettingsError(f"{text!r} is not a setting. Write it as KEY=VALUE, for instance beta=0.2.")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def change_training(settings: TrainingSettings, changes: dict[str, Any]) -> TrainingSettings:
    """These training settings with some changed. Raises SettingsError that names the setting, and the nearest one."""
    return change_section(Settings(training=settings), "training", changes).training


def change_section(settings: Settings, section: str, changes: dict[str, Any]) -> Settings:
    """These settings with some of one section changed. Raises SettingsError that says what does not go together."""
    given = settings.model_dump()
    try:
        return Settings.model_validate(given | {section: given[section] | changes})
    except ValidationError as error:
        said = f"These {section} settings cannot be used. Nothing was started.\n{problem_words(error)}"
        raise SettingsError(said) from error
