"""A checkpoint to take away: weights, tokenizer and model card in one folder, without a path of this machine.

Importable without torch: weights are copied, not loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpo_core.errors import RunError, WorkspaceError
from dpo_core.lineage import CheckpointRecord, read_record
from dpo_core.model_card import model_card, weights_below
from dpo_core.workspace import Workspace
from store.checkpoints import BASE
from store.writing_files import folder_written_aside

CARD = "README.md"
LINEAGE = "pairloop.json"
ADAPTER = "adapter_config.json"


def export_checkpoint(workspace: Workspace, name: str, target: Path) -> Path:
    """Write a checkpoint as a folder that `from_pretrained` opens, with its card; whole or not at all.

    An adapter on a model that is no id of the hub is opened once its base's place is filled in: the card says where.
    Raises RunError for the base, which is not ours, WorkspaceError where `target` holds something already, ModelError
    where the weights are gone, SnapshotError where the disk refuses.
    """
    record, target = read_record(workspace, name), target.expanduser().absolute()
    if name == BASE:
        raise RunError("The base is the model that you began with: there is nothing of ours to export.")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise WorkspaceError(f"{target} is there already and not empty. Nothing was written; name another folder.")
    weights = Path(workspace.checkpoint_path(record.ancestry.checkpoint))
    with folder_written_aside(target) as aside:
        for path in sorted(weights.iterdir()):
            if path.name in REWRITTEN:
                found = REWRITTEN[path.name](json.loads(path.read_text(encoding="utf-8")), record)
                (aside / path.name).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            elif path.is_file() and not path.name.startswith(".") and path.name != CARD:
                shutil.copyfile(path, aside / path.name)
        (aside / CARD).write_text(model_card(record), encoding="utf-8")
    return target


def _lineage(found: dict[str, Any], record: CheckpointRecord) -> dict[str, Any]:
    model = found.get("model", {}) | {"base": record.base.shown}
    return found | {"base": record.base.shown, "model": model}


def _adapter(found: dict[str, Any], record: CheckpointRecord) -> dict[str, Any]:
    return found | {"base_model_name_or_path": weights_below(record)}


# What lies with the weights and names folders of this machine, and what it says elsewhere.
REWRITTEN: dict[str, Callable[[dict[str, Any], CheckpointRecord], dict[str, Any]]] = {
    LINEAGE: _lineage,
    ADAPTER: _adapter,
}
