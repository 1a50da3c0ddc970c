"""The family of checkpoints: parents, decisions and terms of service, worked by hand."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from store.ancestry import Ancestry, read_ancestry
from store.annotators import get_or_add_annotator
from store.database import reading, writing
from store.errors import NotAllowedError
from store.models import Role
from store.roles import on_behalf_of
from tests.store.test_decisions import Decision, back_to, go_round


def test_the_family(engine: sa.Engine) -> None:
    for decision in (Decision.PROMOTE, Decision.KEEP, Decision.PROMOTE):
        go_round(engine, decision)
    back_to(engine, "round-1")
    with reading(engine) as session:
        found = {each.name: each for each in read_ancestry(session=session)}
    assert {name: each.standing for name, each in found.items()} == {
        "base": "base",
        "round-1": "serving",
        "round-2": "kept back",
        "round-3": "served before",
    }
    assert (found["base"].children, found["round-1"].children) == (["round-1"], ["round-2", "round-3"])
    assert [found[name].parent for name in found] == [None, "base", "round-1", "round-1"]
    assert [entry.action for entry in found["round-1"].decisions] == ["promote", "keep", "roll_back"]
    decided = found["round-3"].decided
    assert decided is not None and (decided.action, decided.by) == ("promote", "Ada")
    assert found["base"].decided is None
    number = found["round-2"].round
    assert number is not None and number.number == 2


def test_when_each_of_them_served(engine: sa.Engine) -> None:
    """Promoted, kept back, promoted, and back to round-1 again: decisions 1, 3 and 4 let another serve."""
    for decision in (Decision.PROMOTE, Decision.KEEP, Decision.PROMOTE):
        go_round(engine, decision)
    back_to(engine, "round-1")
    with reading(engine) as session:
        found = {each.name: terms(each) for each in read_ancestry(session=session)}
    assert found == {
        "base": [(None, "promote", "round-1")],
        "round-1": [("promote", "promote", "round-3"), ("roll_back", None, "")],
        "round-2": [],
        "round-3": [("promote", "roll_back", "round-1")],
    }


def terms(found: Ancestry) -> list[tuple[str | None, str | None, str]]:
    """How each term of a checkpoint began and ended, and who served next."""
    return [
        (term.began.action if term.began else None, term.ended.action if term.ended else None, term.successor)
        for term in found.terms
    ]


def test_it_is_for_researchers(engine: sa.Engine) -> None:
    with writing(engine) as session:
        number = get_or_add_annotator(session=session, name="Bob", role=Role.ANNOTATOR).id or 0
    refused = pytest.raises(NotAllowedError, match="Only a researcher may look through the lineage")
    with reading(on_behalf_of(engine, number)) as session, refused:
        read_ancestry(session=session)
