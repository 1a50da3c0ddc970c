"""pairloop.toml as `pairloop init` writes it: every setting, with what it means. Importable without torch."""

from __future__ import annotations

import json

from dpo_core.config import Section, Settings


def render_settings(settings: Settings) -> str:
    """A commented pairloop.toml with these values. Reading it gives the same settings back."""
    parts = ["# pairloop's settings for this workspace. Every line is optional: what is left out keeps its default."]
    parts.append(
        "# The app goes by a change at once. [worker], [server], [store] and another base wait for a new start."
    )
    for name, field in Settings.model_fields.items():
        section: Section = getattr(settings, name)
        parts.append(f"\n# {type(section).__doc__}\n[{name}]")
        parts += [_setting_line(section, key) for key in type(section).model_fields]
        assert field.annotation is type(section)
    return "\n".join(parts) + "\n"


def _setting_line(section: Section, key: str) -> str:
    value = json.dumps(getattr(section, key), ensure_ascii=False)
    return f"{f'{key} = {value}':<44} # {type(section).model_fields[key].description}"
