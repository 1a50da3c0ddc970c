"""`checkpoints/current` leads to what serves, whoever is slow, dies or stands in the way."""

from __future__ import annotations

import fcntl
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session

from dpo_core import serving
from dpo_core.config import Settings
from dpo_core.serving import LinkKeeper, misled, point_to_serving
from dpo_core.workspace import Workspace, create_workspace
from store.checkpoints import add_checkpoint, get_checkpoint
from store.database import reading, writing
from store.decisions import decide_round, roll_back_to, serving_checkpoint
from store.models import Decision, RoundStatus
from store.rounds import add_round


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A base by hub id; round-1 was promoted, and its folder is there. The link was not set yet."""
    made = create_workspace(tmp_path / "workspace", Settings.model_validate({"model": {"base": "someone/model"}}))
    for name in ("round-1", "round-2"):
        (made.folder / "checkpoints" / name).mkdir()
        promote(made, name)
    back_to(made, "round-1")
    return made


def promote(workspace: Workspace, name: str) -> None:
    with writing(workspace.engine) as session:
        opened = add_round(session=session, checkpoint_id=serving_checkpoint(session=session).id or 0, target=2)
        added = add_checkpoint(session=session, name=name, path=f"checkpoints/{name}", parent_id=1)
        opened.result_checkpoint_id, opened.status = added.id, RoundStatus.DECIDING
        session.add(opened)
        session.flush()
        decide_round(session=session, round_id=opened.id or 0, decision=Decision.PROMOTE, by="Ada")


def back_to(workspace: Workspace, name: str) -> None:
    with writing(workspace.engine) as session:
        roll_back_to(session=session, checkpoint=get_checkpoint(session=session, name=name), by="Bo")


def link(workspace: Workspace) -> Path:
    return workspace.folder / "checkpoints" / "current"


def trouble(workspace: Workspace) -> str:
    with reading(workspace.engine) as session:
        return misled(session, workspace)


def test_whoever_is_slow_does_not_put_the_old_link_back(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    quick: list[threading.Thread] = []

    def slow(*, session: Session) -> Any:
        found = serving_checkpoint(session=session)
        if not quick:  # between what was read and the link, somebody else decides, and sets the link as well
            back_to(workspace, "round-2")
            quick.append(threading.Thread(target=point_to_serving, args=(workspace,)))
            quick[0].start()
            quick[0].join(0.3)
        return found

    monkeypatch.setattr(serving, "serving_checkpoint", slow)
    point_to_serving(workspace)
    quick[0].join()
    assert (link(workspace).resolve().name, trouble(workspace)) == ("round-2", "")


def test_who_serves_is_read_while_the_lock_is_held(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []

    def read(*, session: Session) -> Any:
        with (workspace.folder / "checkpoints" / ".current.lock").open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
            else:
                held.append(False)
        return serving_checkpoint(session=session)

    monkeypatch.setattr(serving, "serving_checkpoint", read)
    point_to_serving(workspace)
    assert held == [True, False], "read under the lock; looked at once more when it is done"


def test_a_worker_at_rest_sets_the_link_again(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    keeper = LinkKeeper(every=0)
    keeper.look(workspace)
    assert (link(workspace).resolve().name, caplog.records) == ("round-1", [])
    back_to(workspace, "round-2")  # and the process died before it came to the link
    assert "leads to round-1, but round-2 serves. A worker sets the link within seconds" in trouble(workspace)
    keeper.look(workspace)
    assert (link(workspace).resolve().name, trouble(workspace)) == ("round-2", "")


def test_a_folder_in_the_way_is_left_alone_and_said_once(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    (link(workspace) / "mine").mkdir(parents=True)
    keeper = LinkKeeper(every=0)
    with caplog.at_level(logging.WARNING, logger="pairloop"):
        for _ in range(3):
            keeper.look(workspace)
    assert len(caplog.records) == 1 and "is not pairloop's link" in caplog.text and "Move it elsewhere" in caplog.text
    assert (link(workspace) / "mine").is_dir() and "Move it elsewhere" in trouble(workspace)
    left = sorted(path.name for path in link(workspace).parent.iterdir())
    assert left == [".current.lock", "current", "round-1", "round-2"], "nothing half-made is left behind"
    link(workspace).rename(workspace.folder / "moved")
    assert "is not there, and should lead to round-1" in trouble(workspace)
    keeper.look(workspace)
    assert (link(workspace).resolve().name, trouble(workspace)) == ("round-1", "")


def test_what_cannot_be_set_says_why(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with caplog.at_level(logging.WARNING, logger="pairloop"):
        point_to_serving(workspace)
    assert "is not there, and should lead to round-1" in caplog.text and "no links here" in caplog.text


def test_a_base_by_hub_id_has_no_link(workspace: Workspace) -> None:
    point_to_serving(workspace)
    assert link(workspace).is_symlink()
    back_to(workspace, "base")
    point_to_serving(workspace)
    assert not link(workspace).is_symlink() and trouble(workspace) == ""


def test_before_anything_was_decided_nobody_misses_the_link(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    made = create_workspace(
        tmp_path / "workspace", Settings.model_validate({"model": {"base": str(tmp_path / "model")}})
    )
    assert trouble(made) == ""
    point_to_serving(made)
    assert link(made).resolve() == tmp_path / "model"
