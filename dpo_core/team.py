"""Whether people must log in, and how they can. Importable without torch.

Alone on this machine (127.0.0.1) nobody needs to. Everybody must as soon as the app listens elsewhere, is reached from
elsewhere (a proxy passes on what comes to the `url` of [team]), anybody has an account, an identity provider is set up,
or `login = "required"` says so. An app that is open to a network and that nobody could log in to is not served at all.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import socket
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from dpo_core.errors import CoreError, SettingsError
from dpo_core.workspace import Workspace
from store.database import reading
from store.invites import has_accounts, open_invites

SECRETS = Path(".streamlit") / "secrets.toml"  # in the workspace: Streamlit's [auth], for an identity provider
EVERYWHERE = ("0.0.0.0", "::", "")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an app that listens there."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


@cache
def has_provider(folder: Path) -> bool:
    """Whether the workspace's secrets name an OpenID Connect provider. Raises SettingsError for a file that is none."""
    path = folder / SECRETS
    try:
        return "auth" in tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be used: {error}.") from error


def login_needed(workspace: Workspace, address: str) -> bool:
    """Whether whoever visits an app that listens there must say who they are, and prove it."""
    if _is_for_this_machine(workspace, address) and not has_provider(workspace.folder):
        with reading(workspace.engine) as session:
            return has_accounts(session=session)
    return True


def _is_for_this_machine(workspace: Workspace, address: str) -> bool:
    """Whether nobody comes from elsewhere, by a proxy's address either, and no login is asked for all the same."""
    team = workspace.settings.team
    return team.login == "auto" and is_loopback(address) and (not team.url or is_loopback(_host(team.url)))


def _host(url: str) -> str:
    """The host that an address names; empty for an address that is none, which is taken for one from elsewhere."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def require_way_in(workspace: Workspace, address: str) -> None:
    """Refuse to serve an app that nobody could log in to. Raises CoreError that says what to type."""
    if has_provider(workspace.folder):
        if importlib.util.find_spec("authlib") is None:
            raise CoreError(f"{SECRETS} names an identity provider, which needs `pip install 'pairloop[oidc]'`.")
        return
    if _is_for_this_machine(workspace, address):
        return
    with reading(workspace.engine) as session:
        if has_accounts(session=session) or open_invites(session=session):
            return
    raise CoreError(
        f"Whoever visits {workspace.settings.team.url or address} must log in, and nobody could: there is no account "
        "yet. Make one for yourself,\n"
        f"  pairloop invite --role researcher --workspace {workspace.folder}\n"
        "start the app again as you just did, and open the link that was printed. More people: `pairloop invite`."
    )


def app_url(workspace: Workspace) -> str:
    """Where people reach the app, as far as can be told from here, without a slash at its end."""
    if workspace.settings.team.url:
        return workspace.settings.team.url.rstrip("/")
    address, port = _served_at(workspace)
    host = socket.gethostname() if address in EVERYWHERE else address
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _served_at(workspace: Workspace) -> tuple[str, int]:
    """Address and port of the `pairloop up` that runs, otherwise those of pairloop.toml."""
    server = workspace.settings.server
    try:
        told = json.loads((workspace.folder / "logs" / "up.lock").read_text(encoding="utf-8"))
        return str(told["address"]), urlsplit(told["url"]).port or server.port
    except (OSError, ValueError, KeyError):
        return server.address, server.port


def invite_link(url: str, token: str) -> str:
    """The address to send. What follows the # never leaves the browser by itself: it is in no server's log."""
    return f"{url}/join#{token}"
