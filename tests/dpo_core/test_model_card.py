"""A checkpoint's record, its model card, and its export with the weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from dpo_core.config import ModelSettings, TrainingSettings
from dpo_core.deciding import decide, roll_back
from dpo_core.errors import ModelError, RunError, WorkspaceError
from dpo_core.export import export_checkpoint
from dpo_core.lineage import Base, base_of, changed_settings, limits, read_record
from dpo_core.loop import start_training
from dpo_core.model_card import model_card, weights_below
from dpo_core.workspace import Workspace
from store.annotators import get_or_add_annotator, retract_annotator
from store.checkpoints import get_checkpoint
from store.comparisons import Choice
from store.database import reading, writing
from store.errors import UnknownRecordError
from store.models import Decision, Role, RunStatus, now
from tests.browser import seeding
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
    private = {str(tmp_path), str(workspace.folder), str(Path(workspace.settings.model.base).parent)}
    files = {path.name: path.read_bytes().decode("latin-1") for path in target.iterdir()}
    assert [name for name, text in files.items() if any(folder in text for folder in private)] == []
    AutoTokenizer.from_pretrained(target)
    if tuning == "lora":
        fill_in(target, workspace.settings.model.base)
    model = AutoModelForCausalLM.from_pretrained(target)
    if tuning == "full":
        assert model.state_dict()["model.norm.weight"].equal(weights(workspace)["model.norm.weight"])
    lineage = json.loads((target / "pairloop.json").read_text())
    assert (lineage["parent"], lineage["base"]) == ("base", Path(workspace.settings.model.base).name)


def fill_in(adapter: Path, base: str) -> None:
    """Do what the card says that one should with an adapter on a local model."""
    _, found = parts((adapter / "README.md").read_text())
    name = Path(base).name
    assert f"sits on the weights of `{name}`" in found["round-1"] and "`base_model_name_or_path`" in found["round-1"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == name
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))


@pytest.mark.parametrize(
    ("base", "below", "name", "filled_in"),
    [
        (Base("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), "base", "Qwen/Qwen3-0.6B", ""),
        (Base("mine", None), "base", "mine", "your copy of that model"),
        (
            Base("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
            "round-1",
            "round-1",
            "`pairloop lineage round-1 --export FOLDER`",
        ),
        (Base("mine", None), None, "mine", ""),
    ],
)
def test_what_an_adapter_sits_on(base: Base, below: str | None, name: str, filled_in: str, tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    seeding.compare(workspace, "Lea", [Choice.LEFT] * 3)
    seeding.train(workspace, steps=1, of=1)
    record = replace(read_record(workspace, "round-1"), base=base, below=below)
    assert weights_below(record) == name
    card = model_card(record)
    assert ("base_model_name_or_path" in card) == bool(filled_in) and filled_in in card


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


def test_the_card_and_its_limits_follow_later_decisions(make_workspace: Make) -> None:
    """Promoted, rolled back, and let serve again: the section says each, and the limit stands only in between."""
    workspace = trained(make_workspace)
    today = f"{now():%Y-%m-%d}"
    decide(workspace, decision=Decision.PROMOTE, by="Rae", force=True)
    assert f"Promoted, on {today}, against the gate. It has served since." in decision_of(workspace, "round-1")
    assert decision_of(workspace, "base") == (
        f"It is where the loop began. It served until round-1 was promoted on {today}."
    )
    roll_back(workspace, by="Rae")
    left = f"It served until base was let serve again in its place on {today}."
    assert left in decision_of(workspace, "round-1")
    undone = f"It was rolled back on {today}: base was let serve again in its place."
    assert undone in limits(read_record(workspace, "round-1"))
    roll_back(workspace, by="Rae", to="round-1")
    again = f"{left} It was let serve again on {today}, and has served since."
    assert again in decision_of(workspace, "round-1")
    assert undone not in limits(read_record(workspace, "round-1"))


def decision_of(workspace: Workspace, name: str) -> str:
    return parts(model_card(read_record(workspace, name)))[1]["Decision"]


@pytest.mark.parametrize(
    ("role", "trained_on", "limit"),
    [
        (Role.RESEARCHER, "pairs compared by people, by pairloop", "is one annotator's view."),
        (Role.SOURCE, "pairs imported with their verdicts, by pairloop", "comes from one imported source"),
        (Role.SIMULATED, "pairs compared by simulated annotators, by", "is one simulated annotator's taste."),
    ],
)
def test_who_compared_is_told_by_their_role(role: Role, trained_on: str, limit: str, tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "Lea", [Choice.LEFT] * 5)
    seeding.train(workspace, steps=1, of=1)
    with writing(workspace.engine) as session:
        get_or_add_annotator(session=session, name="Lea").role = role
    record = read_record(workspace, "round-1")
    assert f"on 5 {trained_on}" in model_card(record)
    [narrow] = [each for each in limits(record) if each.startswith("All it learned, 5 comparisons")]
    assert limit in narrow
    seeding.promote(workspace)
    seeding.open_round(workspace, [(f"Other {n}?", "This.", f"That {n}.") for n in range(3)])
    seeding.compare(workspace, "Max", [Choice.LEFT] * 3)
    seeding.train(workspace, steps=1, of=1)
    mixed = "8 pairs, partly compared by people, partly "
    assert (mixed in model_card(read_record(workspace, "round-2"))) == (role != Role.RESEARCHER)


@pytest.mark.parametrize(
    ("machine", "promise"),
    [
        ({"device": "cpu", "processes": 1, "threads": 2, "arithmetic": "AVX2"}, "with the same versions, they are the"),
        (
            {"device": "cpu", "processes": 2, "threads": 1, "arithmetic": "AVX2"},
            "It was trained in 2 processes",
        ),
        ({"device": "A card", "processes": 1, "threads": 1, "arithmetic": "AVX2"}, "a GPU adds in an order of its own"),
        ({}, "On what machine it was trained is not on record"),
    ],
)
def test_the_same_weights_are_promised_only_where_they_come_out(
    machine: dict[str, object], promise: str, tmp_path: Path
) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    seeding.open_round(workspace, seeding.plain_exchanges(6))
    seeding.compare(workspace, "Lea", [Choice.LEFT] * 5)
    seeding.train(workspace, steps=1, of=1)
    with writing(workspace.engine) as session:
        made = get_checkpoint(session=session, name="round-1")
        made.metrics = made.metrics | {"train": made.metrics["train"] | {"machine": machine}}
    said = parts(model_card(read_record(workspace, "round-1")))[1]["Reproducing it"]
    assert promise in said
    assert ("they are the same." in said) == (machine.get("device") == "cpu" and machine.get("processes") == 1)


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
