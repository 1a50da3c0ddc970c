"""The Playground in a real browser: what grows on screen by itself, with the chat's process played by the test."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect
from sqlmodel import select

from store.chat_tables import Exchange
from store.checkpoints import add_checkpoint
from store.database import reading, writing
from store.models import Purpose
from store.pairs import NewCompletion, get_pair
from store.workers import own_name
from store.writing_exchanges import claim_exchange, exchange_waits, finish_exchange, report_texts
from tests.browser import seeding
from tests.browser.conftest import Serve
from tests.dpo_core.watching import until

ME = own_name()


def test_answers_grow_side_by_side_and_become_a_pair(page: Page, tmp_path: Path, serve: Serve) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace", target=4)
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    seeding.worker_is_there(workspace)
    with writing(workspace.engine) as session:
        add_checkpoint(session=session, name="round-1", path="checkpoints/round-1")
    page.goto(f"{serve(workspace)}/playground?as=Rae")
    page.get_by_placeholder("Ask both").fill("Why is the sky blue?")
    page.get_by_placeholder("Ask both").press("Enter")
    expect(page.get_by_text("Waiting for the worker's chat process")).to_be_visible()

    def waits() -> bool:
        with reading(workspace.engine) as session:
            return exchange_waits(session=session)

    until(waits)
    with writing(workspace.engine) as session:
        claimed = claim_exchange(session=session, owner=ME)
        assert claimed is not None and claimed.id is not None
        number = claimed.id
    left, right = page.get_by_role("region", name="round-1"), page.get_by_role("region", name="base")
    for texts in ({"a": "Light", "b": ""}, {"a": "Light **scatters", "b": "<img src=x onerror=alert(1)>"}):
        with writing(workspace.engine) as session:
            report_texts(session=session, exchange_id=number, owner=ME, texts=texts)
        expect(left).to_contain_text(texts["a"])
        expect(right).to_contain_text(texts["b"])
    expect(page.get_by_placeholder("Ask both")).to_be_disabled()
    both = {"a": NewCompletion("Light **scatters**.", tokens=4), "b": NewCompletion("Dust.", tokens=2)}
    with writing(workspace.engine) as session:
        finish_exchange(session=session, exchange_id=number, owner=ME, written={**both})
    expect(left.locator("strong")).to_have_text("scatters")
    page.reload()
    expect(right).to_contain_text("2 tokens")
    page.get_by_role("button", name="Make this a pair to compare").click()
    expect(page.get_by_text("Round 1 asks this pair before all others.")).to_be_visible()
    with reading(workspace.engine) as session:
        kept = session.exec(select(Exchange)).one()
        pair, prompt = get_pair(session=session, pair_id=kept.pair_id or 0)
    assert pair.purpose == Purpose.TRAIN
    assert prompt.messages == [{"role": "user", "content": "Why is the sky blue?"}]
