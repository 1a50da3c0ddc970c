"""Coming in: the pages before the app, who is let in, and what each role sees and can press."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from streamlit.testing.v1 import AppTest

import ui.state
import ui.visitors
from dpo_core.errors import CoreError
from dpo_core.loop import start_round
from dpo_core.playground import ask
from dpo_core.team import SECRETS, has_provider, require_way_in
from dpo_core.workspace import Workspace, open_workspace
from store.annotators import change_role, deactivate_annotator, get_annotator, log_out_annotator
from store.comparisons import Choice
from store.database import reading, writing
from store.errors import NotAllowedError
from store.invites import accept_invite, add_invite, admit_email, open_invites
from store.logins import begin_login, find_login
from store.models import Role
from store.passcodes import FREE_TRIES
from store.rounds import list_rounds
from tests.browser import seeding
from tests.ui.conftest import OpenApp, button, labels, said, words
from ui.login_pages import login_routes
from ui.visitors import ADDRESS_VARIABLE, cookie_name

PASSCODE = "three small words"
RESEARCH_PAGES = ("loop", "runs", "lineage", "playground", "data", "people")


def invited(workspace: Workspace, **given: Any) -> str:
    with writing(workspace.engine) as session:
        return add_invite(session=session, **given)[0]


def joined(workspace: Workspace, name: str, role: Role = Role.ANNOTATOR) -> int:
    token = invited(workspace, role=role)
    return accept_invite(engine=workspace.engine, token=token, name=name, passcode=PASSCODE)


@pytest.fixture
def client(workspace: Workspace) -> Iterator[TestClient]:
    """A browser without scripts, on the pages before the app."""
    app = Starlette(routes=login_routes(workspace))
    with TestClient(app, base_url="http://team.test", follow_redirects=False) as client:
        yield client


@pytest.fixture
def log_in(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`log_in("Lea", Role.ANNOTATOR)`: the app is theirs from now on. Returns their annotator's id."""

    def begin(name: str, role: Role = Role.ANNOTATOR) -> int:
        number = joined(workspace, name, role)
        with writing(workspace.engine) as session:
            token = begin_login(session=session, annotator_id=number, lasts=timedelta(days=1))
        monkeypatch.setattr(ui.visitors, "login_token", lambda folder: token)
        return number

    return begin


# The pages before the app


def test_an_invite_becomes_an_account_and_a_login(client: TestClient, workspace: Workspace) -> None:
    token = invited(workspace, role=Role.ANNOTATOR)
    assert client.get("/join").status_code == 200
    form = client.post("/join", data={"token": token})
    assert (form.status_code, 'name="passcode"' in form.text) == (200, True)
    answer = client.post("/join", data={"token": token, "name": "Lea", "passcode": PASSCODE})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert all(
        part in cookie for part in ("HttpOnly", "SameSite=lax", "Max-Age=2592000", cookie_name(workspace.folder))
    )
    with reading(workspace.engine) as session:
        found = find_login(session=session, token=client.cookies[cookie_name(workspace.folder)])
        assert found is not None and found[1].name == "Lea"
        assert open_invites(session=session) == []
    again = client.post("/join", data={"token": token})
    assert (again.status_code, "used already" in again.text) == (403, True)


def test_a_proposed_name_that_was_taken_since_can_be_typed_anew(client: TestClient, workspace: Workspace) -> None:
    first, second = (invited(workspace, name="Lea") for _ in range(2))
    assert " readonly" in client.post("/join", data={"token": second}).text
    assert client.post("/join", data={"token": first, "name": "Lea", "passcode": PASSCODE}).status_code == 303
    form = client.post("/join", data={"token": second})
    assert (form.status_code, " readonly" in form.text, 'value="Lea"' in form.text) == (200, False, False)
    again = client.post("/join", data={"token": second, "name": "Lea", "passcode": PASSCODE})
    assert (again.status_code, " readonly" in again.text) == (422, False)
    assert "called &#x27;Lea&#x27; already. Choose another name" in again.text
    assert client.post("/join", data={"token": second, "name": "Lena", "passcode": PASSCODE}).status_code == 303
    with reading(workspace.engine) as session:
        assert get_annotator(session=session, name="Lena").id != get_annotator(session=session, name="Lea").id


def test_the_cookie_is_for_https_where_that_is_spoken(workspace: Workspace) -> None:
    joined(workspace, "Lea")
    app = Starlette(routes=login_routes(workspace))
    for url, secure in (("https://team.test", True), ("http://team.test", False)):
        with TestClient(app, base_url=url, follow_redirects=False) as client:
            answer = client.post("/login", data={"name": "Lea", "passcode": PASSCODE})
        assert ("Secure" in answer.headers["set-cookie"]) is secure


def test_a_wrong_passcode_and_an_unknown_name_are_told_alike_until_both_are_locked(
    client: TestClient, workspace: Workspace
) -> None:
    joined(workspace, "Lea")
    told: dict[str, list[Any]] = {"Lea": [], "Nobody": []}
    for name, answers in told.items():
        for _ in range(FREE_TRIES + 1):
            answer = client.post("/login", data={"name": name, "passcode": "wrong passcode"})
            # The seconds that are left are counted from a moment that differs.
            alert = [re.sub(r"\d+", "N", told) for told in re.findall(r'role="alert">([^<]+)<', answer.text)]
            answers.append((answer.status_code, alert, "set-cookie" in answer.headers))
    assert told["Lea"] == told["Nobody"]
    assert [status for status, _, _ in told["Lea"]] == [401] * FREE_TRIES + [429]
    assert "Retry-After" in answer.headers


def test_what_was_typed_comes_back_as_text(client: TestClient) -> None:
    answer = client.post("/login", data={"name": '"><script>alert(1)</script>', "passcode": "x"})
    assert "<script>alert" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://team.test"}, 401),
        ({"Sec-Fetch-Site": "same-origin"}, 401),
    ],
)
def test_a_form_of_another_site_logs_nobody_in(client: TestClient, headers: dict[str, str], status: int) -> None:
    answer = client.post("/login", data={"name": "Lea", "passcode": PASSCODE}, headers=headers)
    assert answer.status_code == status


def test_a_form_that_never_ends_is_not_read_to_its_end(client: TestClient) -> None:
    assert client.post("/login", data={"name": "x" * 20_000}).status_code == 413


# Who is let in


def test_alone_on_this_machine_nobody_logs_in(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    app = open_app("loop")
    assert "Compare" in labels(app)
    assert not app.error


@pytest.mark.parametrize("why", ["an account", "another address", "no address", "the setting"])
def test_a_stranger_sees_the_way_in_and_nothing_else(
    why: str, workspace: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    if why == "an account":
        joined(workspace, "Lea")
    elif why == "the setting":
        toml = workspace.folder / "pairloop.toml"
        toml.write_text(toml.read_text().replace('login = "auto"', 'login = "required"'))
    else:
        monkeypatch.setenv(ADDRESS_VARIABLE, "0.0.0.0" if why == "another address" else "")
    for page in ("label", *RESEARCH_PAGES):
        app = open_app(page, name="Lea")  # a name in the address is nobody's word any more
        assert labels(app) == []
        assert "Question" not in words(app)
        assert ("/login" if page == "label" else "Log in first.") in words(app)  # AppTest draws other pages alone
    assert said(workspace) == []


def test_an_annotator_compares_and_finds_no_other_page(workspace: Workspace, open_app: OpenApp, log_in: Any) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    lea = log_in("Lea")
    app = open_app(name="Max")
    button(app, "Left clearly").click().run()
    assert [comparison.annotator_id for comparison in said(workspace)] == [lea]
    for page in RESEARCH_PAGES:
        app = open_app(page)
        assert "This page is for researchers" in words(app)
        assert labels(app) == []


@pytest.mark.parametrize("page", RESEARCH_PAGES)
def test_a_researcher_finds_every_page(page: str, open_app: OpenApp, log_in: Any) -> None:
    log_in("Ada", Role.RESEARCHER)
    app = open_app(page)
    assert not app.error
    assert "Log out" in labels(app)


def test_a_colleagues_exchange_names_its_checkpoints_to_nobody_else(
    workspace: Workspace, open_app: OpenApp, log_in: Any
) -> None:
    lea = joined(workspace, "Lea", Role.RESEARCHER)
    log_in("Rae", Role.RESEARCHER)
    messages = [{"role": "user", "content": "Why?"}]
    asked = ask(workspace, by=lea, messages=messages, checkpoints=("base", "base"), seed=7)
    app = open_app("playground")
    app.query_params["exchange"] = str(asked.id)
    app.run()
    assert "This exchange is Lea's" in words(app) and "Why?" not in words(app) and "exchange" not in app.query_params


def test_an_annotator_is_offered_nothing_that_the_store_would_refuse(
    workspace: Workspace, open_app: OpenApp, log_in: Any
) -> None:
    seeding.add_prompts(workspace, seeding.plain_exchanges(2))
    log_in("Lea")
    app = open_app()
    assert "Start round 1" not in labels(app) and "researchers prepare what comes next" in words(app)
    with reading(workspace.engine) as session:
        lea = get_annotator(session=session, name="Lea").id
    assert lea is not None
    with pytest.raises(NotAllowedError, match="Only a researcher may start a round"):
        start_round(workspace.acting_as(lea), by="Lea")
    with reading(workspace.engine) as session:
        assert list_rounds(session=session) == []


def test_a_press_after_the_role_was_taken_away_does_nothing(
    workspace: Workspace, open_app: OpenApp, log_in: Any
) -> None:
    seeding.add_prompts(workspace, seeding.plain_exchanges(2))
    log_in("Ada", Role.RESEARCHER)
    app = open_app("loop")
    with writing(workspace.engine) as session:
        change_role(session=session, name="Ada", role=Role.ANNOTATOR)
    button(app, "Start round 1").click().run()
    with reading(workspace.engine) as session:
        assert list_rounds(session=session) == []
    assert "This page is for researchers" in words(app)


@pytest.mark.parametrize("end", [log_out_annotator, deactivate_annotator])
def test_a_verdict_after_the_login_ended_is_not_written(
    end: Any, workspace: Workspace, open_app: OpenApp, log_in: Any
) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    log_in("Lea")
    app = open_app()
    with writing(workspace.engine) as session:
        end(session=session, name="Lea")
    button(app, "Left clearly").click().run()
    assert said(workspace) == []
    assert labels(app) == []


def test_logging_out_ends_the_login(workspace: Workspace, open_app: OpenApp, log_in: Any) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    log_in("Lea")
    app = open_app()
    button(app, "Log out").click().run()
    assert labels(app) == []
    assert labels(open_app()) == []  # after a reload, the cookie is good for nothing


def provide(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, **said: Any) -> None:
    """An identity provider is set up, and says this of whoever is here."""
    (workspace.folder / SECRETS).parent.mkdir(exist_ok=True)
    (workspace.folder / SECRETS).write_text("[auth]\nclient_id = 'x'\n")
    has_provider.cache_clear()
    monkeypatch.setattr(ui.visitors.st, "user", said)


def test_an_identity_providers_word_is_taken_for_who_was_invited(
    workspace: Workspace, open_app: OpenApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    with writing(workspace.engine) as session:
        admit_email(session=session, email="lea@example.org", name="Lea")
    known = {"is_logged_in": True, "email": "lea@example.org", "email_verified": True}
    provide(workspace, monkeypatch, **known)
    assert "Left clearly" in labels(open_app())
    for said_of_them, told in (
        ({"is_logged_in": False}, "With a passcode"),
        (known | {"email_verified": False}, "does not vouch"),
        (known | {"email": "max@example.org"}, "max@example.org was not invited"),
    ):
        provide(workspace, monkeypatch, **said_of_them)
        app = open_app()
        assert told in words(app)
        assert "Left clearly" not in labels(app)


# Serving


def test_an_app_for_a_network_that_nobody_could_log_in_to_is_not_served(workspace: Workspace) -> None:
    for address in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        require_way_in(workspace, address)
    with pytest.raises(CoreError, match="pairloop invite --role researcher"):
        require_way_in(workspace, "0.0.0.0")
    invited(workspace)
    require_way_in(workspace, "0.0.0.0")


@pytest.mark.parametrize(
    "url", ["https://team.test", "http://10.0.0.7:8501", "team.test", "https://[2001:db8::1]/a", "http://[x"]
)
def test_an_address_that_a_proxy_passes_on_is_for_people_who_log_in(
    url: str, workspace: Workspace, open_app: OpenApp
) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    reached_at(workspace, url)
    with pytest.raises(CoreError, match=f"visits {re.escape(url)} must log in"):
        require_way_in(open_workspace(workspace.folder), "127.0.0.1")
    assert labels(open_app()) == []
    invited(workspace)
    require_way_in(open_workspace(workspace.folder), "127.0.0.1")


@pytest.mark.parametrize("url", ["http://localhost:8501", "http://127.0.0.1", "http://[::1]:8501"])
def test_an_address_of_this_machine_asks_for_no_login(url: str, workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(2))
    reached_at(workspace, url)
    require_way_in(open_workspace(workspace.folder), "127.0.0.1")
    assert "Left clearly" in labels(open_app())


def reached_at(workspace: Workspace, url: str) -> None:
    toml = workspace.folder / "pairloop.toml"
    text = re.sub(r"(?ms)^\[team\]\n.*?(?=^\[|\Z)", "", toml.read_text(encoding="utf-8"))
    toml.write_text(f'{text}\n[team]\nurl = "{url}"\n', encoding="utf-8")


# The People page


def test_people_are_listed_invited_and_let_go(workspace: Workspace, open_app: OpenApp, log_in: Any) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    log_in("Ada", Role.RESEARCHER)
    joined(workspace, "Lea")
    seeding.compare(workspace, "Lea", [Choice.LEFT, Choice.TIE])
    app = open_app("people")
    assert "<td>Lea</td><td>annotator</td><td>active</td><td>2</td>" in words(app)
    app.text_input(key="invited").set_value("Ada")
    button(app, "Make a link").click().run()
    with reading(workspace.engine) as session:
        assert [(invite.name, invite.role) for invite in open_invites(session=session)] == [("Ada", None)]
    app.text_input(key="invited").set_value("Max")
    button(app, "Make a link").click().run()
    token = unescape(app.code[0].value).partition("/join#")[2]
    assert accept_invite(engine=workspace.engine, token=token, name="anybody", passcode=PASSCODE)
    app.run()
    assert "<td>Max</td><td>annotator</td>" in words(app)
    app.selectbox(key="who").set_value("Lea").run()
    button(app, "Deactivate").click().run()
    assert "<td>Lea</td><td>annotator</td><td>inactive</td>" in words(app)
    button(app, "Reactivate").click().run()
    button(app, "Retract for good").click().run()
    assert "<td>Lea</td><td>annotator</td><td>retracted</td>" in words(app)
    app.selectbox(key="who").set_value("Ada").run()
    assert "That is you." in words(app) and "Deactivate" not in labels(app)


def test_a_name_is_no_markup_in_what_the_app_says(workspace: Workspace, open_app: OpenApp, log_in: Any) -> None:
    log_in("Ada", Role.RESEARCHER)
    joined(workspace, "![x](http://evil.test/x.png)")
    app = open_app("people")
    app.selectbox(key="who").set_value("![x](http://evil.test/x.png)").run()
    button(app, "Deactivate").click().run()
    assert app.toast[0].value == r"Deactivate: !\[x\](http://evil.test/x.png)."
    app.text_input(key="invited").set_value("![x](http://evil.test/x.png)")
    button(app, "Make a link").click().run()
    assert r"'!\[x\](http" in app.error[0].value and "`pairloop annotators --reactivate`" in app.error[0].value


def test_the_first_link_is_ones_own_and_keeps_what_one_compared_alone(workspace: Workspace, open_app: OpenApp) -> None:
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    seeding.compare(workspace, "me", [Choice.LEFT])
    app = open_app("people")
    button(app, "Make a link").click().run()
    token = app.code[0].value.partition("#")[2]
    me = accept_invite(engine=workspace.engine, token=token, name="", passcode=PASSCODE)
    assert me == said(workspace)[0].annotator_id
    with reading(workspace.engine) as session:
        assert get_annotator(session=session, name="me").role == Role.RESEARCHER


def test_a_link_is_taken_back(workspace: Workspace, open_app: OpenApp) -> None:
    invited(workspace, name="Lea")
    app: AppTest = open_app("people")
    assert "let the first link be your own" in " ".join(each.value for each in app.info)
    button(app, "Take back").click().run()
    assert "Take back" not in labels(app)
    with reading(workspace.engine) as session:
        assert open_invites(session=session) == []
