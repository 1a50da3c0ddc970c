"""What [queue] of pairloop.toml makes of a round, and the guidelines of a workspace."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from dpo_core.backup import back_up
from dpo_core.config import Settings
from dpo_core.guidelines import GUIDELINES_FILE, current_guidelines
from dpo_core.loop import start_round
from dpo_core.queueing import comparisons_wanted, meter_figures, per_pair, queue_rules
from dpo_core.workspace import Workspace
from store.database import reading
from store.guidelines import guidelines_id_in_force
from store.models import Completion, Run
from store.queue_rules import PLAIN_RULES
from store.round_work import WorkDone
from tests.browser import seeding


def settings(**queue: float) -> Settings:
    return Settings.model_validate({"queue": queue, "round": {"comparisons_per_pair": 3}})


def texts(number: int) -> list[Completion]:
    return [Completion(prompt_id=1, text="", text_hash=f"{number}{side}") for side in "ab"]


def test_out_of_the_box_nothing_is_mixed_in() -> None:
    assert queue_rules(Settings()) == PLAIN_RULES
    assert queue_rules(settings(hold_minutes=5, gold=0.1)).hold == timedelta(minutes=5)
    with pytest.raises(ValueError, match="at most"):
        settings(gold=0.3, repeats=0.3)


def test_a_share_of_the_pairs_is_judged_by_several() -> None:
    run = {"wanted": 3, "overlap": 0.25}
    drawn = [comparisons_wanted(run, texts(number)) for number in range(2000)]
    assert drawn == [comparisons_wanted(run, texts(number)) for number in range(2000)]
    assert set(drawn) == {1, 3} and abs(drawn.count(3) - 500) < 80  # four standard deviations
    assert {comparisons_wanted({"wanted": 3}, texts(number)) for number in range(50)} == {3}
    assert per_pair(settings(overlap=0.25)) == 1.5


def test_a_round_has_as_many_pairs_as_its_comparisons_need(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=30, per_pair=3)
    asked = workspace.settings.round.model_copy(update={"spare_pairs": 0.0})
    changed = workspace.settings.model_copy(update={"queue": settings(overlap=0.25).queue, "round": asked})
    workspace = Workspace(workspace.folder, changed)
    seeding.add_prompts(workspace, seeding.plain_exchanges(60))
    start_round(workspace, by="lea")
    with reading(workspace.engine) as session:
        run = session.get_one(Run, 1)
    assert len(run.settings["prompt_ids"]) == 20  # a quarter of them thrice, the others once
    assert (run.settings["wanted"], run.settings["overlap"]) == (3, 0.25)


def test_the_meter_is_as_it_was_where_nothing_is_mixed_in(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    assert meter_figures(workspace.settings, 40, WorkDone(judged=7, measured=3, mine=2)) == (7, 40)


def test_the_meter_is_full_once_the_round_has_what_it_asked_for() -> None:
    made = [meter_figures(settings(gold=0.2), 40, WorkDone(done, 0, 0)) for done in (0, 39, 40, 44)]
    assert made == [(0, 50), (39, 50), (40, 40), (44, 44)]


def test_each_text_of_the_file_is_a_version_and_no_file_is_none(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    path = workspace.folder / GUIDELINES_FILE
    seen = []
    for text in (None, "Be brief.", "Be brief.", "Be brief and kind.", None, "Be brief."):
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        version = current_guidelines(workspace)
        with reading(workspace.engine) as session:
            seen.append((version and version.text, guidelines_id_in_force(session=session)))
    assert seen == [
        (None, None),
        ("Be brief.", 1),
        ("Be brief.", 1),
        ("Be brief and kind.", 2),
        (None, 3),
        ("Be brief.", 4),
    ]


def test_a_backup_has_the_guidelines(tmp_path: Path) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    (workspace.folder / GUIDELINES_FILE).write_text("Be brief.")
    written = back_up(workspace, tmp_path / "copy")
    assert (written / GUIDELINES_FILE).read_text() == "Be brief."


def test_the_meter_moves_with_every_verdict_where_second_looks_are_mixed_in() -> None:
    asked = settings(second_looks=5)
    made = [meter_figures(asked, 40, WorkDone(*work, 0)) for work in ((38, 0), (38, 1), (39, 1), (39, 2), (40, 2))]
    assert made == [(38, 40), (39, 40), (40, 41), (41, 42), (42, 42)]
