"""What automatic rounds were refused last is one row, with its first moment."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from store.database import reading, writing
from store.refusals import forget_refusal, keep_refusal, last_refusal


def keep(engine: sa.Engine, why: str) -> Any:
    with writing(engine) as session:
        keep_refusal(session=session, act="train", why=why)
    with reading(engine) as session:
        return last_refusal(session=session)


def test_said_again_its_first_moment_stays_and_another_takes_its_place(engine: sa.Engine, make_round: Any) -> None:
    before = keep(engine, "No.")
    assert (before.act, before.why, before.round_id) == ("train", "No.", None)
    assert keep(engine, "No.").created_at == before.created_at
    assert keep(engine, "Never.").created_at > before.created_at
    opened, _ = make_round(engine)
    assert keep(engine, "Never.").round_id == opened.id, "the same in another round is another"
    with writing(engine) as session:
        forget_refusal(session=session)
    with reading(engine) as session:
        assert last_refusal(session=session) is None
