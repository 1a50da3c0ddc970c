"""A checkpoint's record, its model card, and its export with the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpo_core.config import ModelSettings, TrainingSettings
from dpo_core.deciding import decide
from dpo_core.errors import ModelError, RunError, WorkspaceError
from dpo_core.lineage import base_of, changed_settings, limits, read_record
from dpo_core.loop import start_training
from dpo_core.model_card import export_checkpoint, model_card
from dpo_core.workspace import Workspace
from store.annotators import retract_annotator
from store.checkpoints import get_checkpoint
from store.database import reading, writing
from store.errors import UnknownRecordError
from store.models import Decision, RunStatus
from tests.dpo_core.test_train import ready_to_train, run_next, weights

Make = Callable[..., Workspace]


def trained(make_workspace: Make, **sections: Any) -> Workspace:
    workspace = make_workspace(training={"drift_samples": 4}, gate={"win_rate": "better"}, **sections)
    ready_to_train(workspace)
    start_training(workspace, by="test")
    finished = run_next(workspace)
    assert finished.status == RunStatus.DONE, finished.error
    return workspace


def parts(card: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The header, and the sections by their headings."""
    _, header, text = card.split("---\n", 2)
    found = dict(re.findall(r"^##? (.+?)\n\n(.*?)(?=\n\n##? |\Z)", text, re.M | re.S))
    return yaml.safe_load(header), found


def test_the_card_says_what_is_on_record(make_workspace: Make) -> None:
    workspace = trained(make_workspace)
    decide(workspace, decision=Decision.PROMOTE, by="Rae Quist", force=True)
    card = model_card(read_record(workspace, "round-1"))
    header, found = parts(card)
    assert header == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "pairloop", "trl"],
    }, "the base is a folder, which is no id of the hub; and nobody chose a license"
    names = ["round-1", "Data", "Training", "Evaluation", "Decision", "Limits", "Reproducing it"]
    assert list(found) == names
    with reading(workspace.engine) as session:
        checkpoint = get_checkpoint(session=session, name="round-1")
    record = read_record(workspace, "round-1")
    assert record.ancestry.snapshot is not None and record.teaching is not None
    manifest = record.ancestry.snapshot.manifest
    assert f"{manifest['pairs']['train']} pairs to train on and {manifest['pairs']['test']} held out" in found["Data"]
    assert f"Compared by people: 1, with {manifest['used']} comparisons" in found["Data"]
    assert "| `learning_rate` | `0.01` | `5e-06` |" in found["Training"]
    assert "`beta`" not in found["Training"].partition("\n\n")[0], "only what differs is in the table"
    assert checkpoint.code_version in found["Training"] and "1 process" in found["Training"]
    judged = checkpoint.metrics["eval"]
    assert f"{100 * judged['accuracy_after']:.0f}% (" in found["Evaluation"]
    assert "KL to its parent" in found["Evaluation"] and "canary.txt" in found["Evaluation"]
    assert "against the gate" in found["Decision"] and "not known: Better than base" in found["Decision"]
    for said in ("promoted against the gate", "one annotator's view", "No blind duel", "pairs alone"):
        assert said in found["Limits"], said
    assert "`pairloop reproduce round-1`" in found["Reproducing it"]
    private = ("ann", "Rae", "Say something about", str(workspace.folder), "/tmp")
    assert [word for word in private if re.search(rf"{word}\b", card)] == []
    assert card == model_card(read_record(workspace, "round-1"))
    _, base = parts(model_card(read_record(workspace, "base")))
    assert "The model that everything started from" in base["base"]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_export_opens_and_has_the_same_weights(make_workspace: Make, tmp_path: Path, tuning: str) -> None:
    workspace = trained(make_workspace, model={"tuning": tuning})
    target = export_checkpoint(workspace, "round-1", tmp_path / "out" / "mine")
    header, _ = parts((target / "README.md").read_text())
    assert header["library_name"] == {"full": "transformers", "lora": "peft"}[tuning]
    for name in ("model.safetensors", "adapter_model.safetensors"):
        there = workspace.folder / "checkpoints" / "round-1" / name
        assert there.exists() == (target / name).exists()
        assert not there.exists() or there.read_bytes() == (target / name).read_bytes()
    AutoTokenizer.from_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(target)
    if tuning == "full":
        assert model.state_dict()["model.norm.weight"].equal(weights(workspace)["model.norm.weight"])
    lineage = json.loads((target / "pairloop.json").read_text())
    assert (lineage["parent"], lineage["base"]) == ("base", Path(workspace.settings.model.base).name)
    assert str(tmp_path) not in (target / "pairloop.json").read_text()


def test_an_export_writes_over_nothing_and_leaves_no_half(make_workspace: Make, tmp_path: Path) -> None:
    workspace = trained(make_workspace)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match="there already and not empty"):
        export_checkpoint(workspace, "round-1", tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert (export_checkpoint(workspace, "round-1", tmp_path / "empty") / "README.md").is_file()
    with pytest.raises(RunError, match="nothing of ours to export"):
        export_checkpoint(workspace, "base", tmp_path / "base")
    with pytest.raises(UnknownRecordError, match="no checkpoint called"):
        export_checkpoint(workspace, "round-9", tmp_path / "nine")
    (workspace.folder / "checkpoints" / "round-1").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="The weights of round-1 are not there"):
        export_checkpoint(workspace, "round-1", tmp_path / "gone")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name in ("base", "nine", "gone")) == []


def test_what_was_retracted_since_is_among_the_limits(make_workspace: Make) -> None:
    workspace = trained(make_workspace)
    record = read_record(workspace, "round-1")
    assert record.teaching is not None
    assert not any("retracted" in each for each in limits(record))
    with writing(workspace.engine) as session:
        retract_annotator(session=session, name="ann")
    after = read_record(workspace, "round-1")
    assert after.retracted == {"ann": record.teaching.trained}
    assert f"trained on {record.teaching.trained} comparisons by annotators who were retracted" in str(limits(after))


def test_only_settings_that_are_not_as_they_come_are_named() -> None:
    given = {"training": TrainingSettings().model_dump(), "model": ModelSettings(base="x", lora_r=4).model_dump()}
    assert changed_settings(given) == []
    given["training"] |= {"beta": 0.3, "bf16": True}
    given["model"] |= {"tuning": "lora"}
    found = [(each.name, each.value, each.default) for each in changed_settings(given)]
    assert found == [("beta", 0.3, 0.1), ("tuning", "lora", "full"), ("lora_r", 4, 16)]


@pytest.mark.parametrize(
    ("path", "shown", "hub_id"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/lea/models/mine", "mine", None),
        ("../models/mine", "mine", None),
        ("pairloop:demo", "pairloop:demo", None),
    ],
)
def test_what_the_base_is_called(path: str, shown: str, hub_id: str | None, tmp_path: Path) -> None:
    found = base_of(path, tmp_path)
    assert (found.shown, found.hub_id) == (shown, hub_id)
