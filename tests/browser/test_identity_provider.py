"""Logins through an identity provider, with one of the test's own on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Page, expect

from dpo_core.team import SECRETS
from store.annotators import log_out_annotator
from store.database import writing
from store.invites import admit_email
from tests.browser import seeding
from tests.browser.conftest import Serve

jose = pytest.importorskip("joserfc.jwt", reason="Authlib is not installed")


SECRET = """[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "a secret of thirty letters or so"
client_id = "pairloop"
client_secret = "s"
server_metadata_url = "%s/about"
"""


class Provider(ThreadingHTTPServer):
    """An OpenID Connect provider that asks nobody anything, and says that `person` is there."""

    def __init__(self) -> None:
        from joserfc.jwk import RSAKey

        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
        self.person: dict[str, Any] = {}
        self.nonce = ""

    def token(self) -> str:
        """What it says about the person, signed."""
        moment = int(time.time())
        claims = {"iss": self.url, "aud": "pairloop", "sub": "1", "iat": moment, "exp": moment + 600}
        return str(jose.encode({"alg": "RS256", "kid": "one"}, claims | {"nonce": self.nonce} | self.person, self.key))


class _Answers(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        url = self.server.url
        if path == "/authorize":
            self.server.nonce = asked["nonce"][0]
            back = urlencode({"code": "once", "state": asked["state"][0]})
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri'][0]}?{back}")
            self.end_headers()
        elif path == "/keys":
            self._say({"keys": [self.server.key.as_dict(private=False)]})
        else:
            places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            self._say({"issuer": url} | {name: f"{url}/{place}" for name, place in places.items()})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say({"access_token": "a", "token_type": "Bearer", "expires_in": 600, "id_token": self.server.token()})

    def _say(self, answer: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """The provider, answering."""
    with Provider() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_who_was_invited_comes_in_by_the_providers_word(
    page: Page, tmp_path: Path, serve: Serve, provider: Provider
) -> None:
    workspace = seeding.new_workspace(tmp_path / "workspace")
    seeding.open_round(workspace, seeding.plain_exchanges(3))
    (workspace.folder / SECRETS).parent.mkdir()
    (workspace.folder / SECRETS).write_text(SECRET % provider.url)
    url = serve(workspace)
    log_in = page.get_by_role("button", name="Log in with your organisation")
    provider.person = {"email": "lea@example.org", "email_verified": True}
    page.goto(url)
    log_in.click()
    expect(page.get_by_text("lea@example.org was not invited")).to_be_visible()
    with writing(workspace.engine) as session:
        admit_email(session=session, email="Lea@example.org", name="Lea")
    page.reload()
    expect(page.get_by_text("0 by Lea")).to_be_visible()
    with writing(workspace.engine) as session:
        log_out_annotator(session=session, name="Lea")
    page.reload()
    page.get_by_role("button", name="Log in as somebody else").click()
    provider.person = {"email": "lea@example.org", "email_verified": False}
    log_in.click()
    expect(page.get_by_text("does not vouch for your e-mail address")).to_be_visible()
