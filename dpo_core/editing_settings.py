"""A pairloop.toml changed in place: comments, order and whatever is not changed stay as they are."""

from __future__ import annotations

from typing import Any

import tomlkit

from dpo_core.config import FILE_NAME, Settings, parse_settings
from dpo_core.errors import SettingsError
from dpo_core.workspace import Workspace, write_atomically
from store.database import reading
from store.roles import require_researcher


def change_section(workspace: Workspace, section: str, values: dict[str, Any]) -> Settings:
    """Set these values of one [section] of a workspace's file, and return all settings as they are then.

    The file is written whole or not at all, and only if it can be used. Raises SettingsError, NotAllowedError.
    """
    with reading(workspace.engine) as session:
        require_researcher(session=session, to="change settings")
    path = workspace.folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    parse_settings(text, path)  # somebody may be in the middle of editing it
    document = tomlkit.parse(text)
    table = document.setdefault(section, tomlkit.table())
    for key, value in values.items():
        if table.get(key) != value:
            table[key] = value
    changed = tomlkit.dumps(document)
    settings = parse_settings(changed, path)
    if changed != text:
        write_atomically(path, changed)
    return settings
