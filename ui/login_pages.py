"""The pages before the app: log in, and join by an invite. Plain HTML forms, so that the cookie can be HttpOnly.

A passcode, an invite and a login's token are never in an address: forms are posted, the cookie no script can read, and
an invite's token stands behind the link's #, from where its page puts it into a form at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from html import escape
from urllib.parse import parse_qsl, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from dpo_core.workspace import Workspace
from store.database import reading, writing
from store.errors import LoginError, StoreError, ThrottledError
from store.invites import accept_invite, find_invite, settled_name
from store.logins import begin_login
from store.passcodes import LONGEST, SHORTEST, check_passcode
from ui.theme import ACCENT, INK, NIGHT, NIGHT_ACCENT, NIGHT_INK, PAPER
from ui.visitors import cookie_name

LONGEST_FORM = 8192  # bytes
Answer = Callable[[Request], Awaitable[Response]]

_STYLE = f"""
:root {{ color-scheme: light dark; --ink: {INK}; --paper: {PAPER}; --accent: {ACCENT}; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: {NIGHT_INK}; --paper: {NIGHT}; --accent: {NIGHT_ACCENT}; }} }}
body {{ font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }}
main {{ max-width: 22rem; margin: 14vh auto 0; padding: 0 1rem; }}
label {{ display: block; margin: 0 0 1rem; font-weight: 600; }}
input {{ display: block; box-sizing: border-box; width: 100%; font: inherit; padding: .5rem .7rem; margin-top: .25rem;
  color: inherit; background: transparent; border: 1px solid rgba(128,128,128,.6); border-radius: 8px; }}
button {{ font: inherit; font-weight: 600; color: #fff; background: var(--accent); border: 0; border-radius: 8px;
  padding: .55rem 1.2rem; cursor: pointer; }}
[role=alert] {{ border-left: 3px solid #b65f2b; padding-left: .8rem; }} small {{ font-weight: 400; }}
"""
# Runs before anything is drawn: the token leaves the address bar, and with it the browser's history.
_TAKE_TOKEN = """
const token = location.hash.slice(1);
if (token) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("token").value = token;
  document.getElementById("form").submit();
}
"""


def login_routes(workspace: Workspace) -> list[Route]:
    """`/login` and `/join`, as pages and as the forms on them."""
    return [
        Route("/login", lambda _request: _page("Log in", _login_form("")), methods=["GET"]),
        Route("/login", _guarded(lambda fields, request: _log_in(workspace, fields, request)), methods=["POST"]),
        Route("/join", lambda _request: _page("Join", _token_form(), script=_TAKE_TOKEN), methods=["GET"]),
        Route("/join", _guarded(lambda fields, request: _join(workspace, fields, request)), methods=["POST"]),
    ]


def _guarded(answer: Callable[[dict[str, str], Request], Response]) -> Answer:
    """Read a form that one of our own pages sent, and answer it aside from the server's one thread."""

    async def respond(request: Request) -> Response:
        if not _from_here(request):
            return _page("Not from here", "<p>This form was sent from another site.</p>", status=403)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_FORM:
                return _page("Too much", "<p>That is more than a form can hold.</p>", status=413)
        fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        return await run_in_threadpool(answer, fields, request)

    return respond


def _from_here(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")  # over plain http to another machine browsers send no more than this
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _log_in(workspace: Workspace, fields: dict[str, str], request: Request) -> Response:
    name = fields.get("name", "")
    try:
        annotator_id = check_passcode(engine=workspace.engine, name=name, passcode=fields.get("passcode", ""))
    except ThrottledError as error:
        answer = _page("Log in", _alert(error) + _login_form(name), status=429)
        answer.headers["Retry-After"] = str(error.seconds)
        return answer
    except LoginError as error:
        return _page("Log in", _alert(error) + _login_form(name), status=401)
    except StoreError as error:
        return _page("Log in", _alert(error) + _login_form(name), status=503)
    return _let_in(workspace, annotator_id, request)


def _join(workspace: Workspace, fields: dict[str, str], request: Request) -> Response:
    token, name, passcode = (fields.get(key, "") for key in ("token", "name", "passcode"))
    try:
        with reading(workspace.engine) as session:
            settled = settled_name(session=session, invite=find_invite(session=session, token=token))
    except StoreError as error:
        return _page("Join", _alert(error) + _token_form(), status=403)
    if "passcode" not in fields:  # the link was opened just now
        return _page("Join", _join_form(token, settled, fixed=bool(settled)))
    try:
        annotator_id = accept_invite(engine=workspace.engine, token=token, name=name, passcode=passcode)
    except StoreError as error:
        form = _join_form(token, settled or name, fixed=bool(settled))
        return _page("Join", _alert(error) + form, status=422)
    return _let_in(workspace, annotator_id, request)


def _let_in(workspace: Workspace, annotator_id: int, request: Request) -> Response:
    lasts = timedelta(days=workspace.settings.team.login_days)
    with writing(workspace.engine) as session:
        token = begin_login(session=session, annotator_id=annotator_id, lasts=lasts)
    answer = RedirectResponse("/", status_code=303)
    answer.set_cookie(
        cookie_name(workspace.folder),
        token,
        max_age=int(lasts.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


def _alert(error: Exception) -> str:
    return f'<p role="alert">{escape(str(error))}</p>'


def _login_form(name: str) -> str:
    return (
        '<form method="post" action="/login">'
        f"{_field('Name', 'name', value=name, more='required autofocus autocomplete=username maxlength=80')}"
        f"{_field('Passcode', 'passcode', more='required type=password autocomplete=current-password')}"
        "<button>Log in</button></form><p><small>No account, or the passcode forgotten? A researcher of your team can "
        "send you a link.</small></p>"
    )


def _token_form() -> str:
    return (
        '<form method="post" action="/join" id="form">'
        f"{_field('The part of your link after the #', 'token', more='required id=token autocomplete=off')}"
        "<button>Go on</button></form>"
    )


def _join_form(token: str, name: str, *, fixed: bool) -> str:
    chosen = f"required type=password autocomplete=new-password minlength={SHORTEST} maxlength={LONGEST}"
    named = "required autofocus autocomplete=username maxlength=80" + (" readonly" if fixed else "")
    return (
        f'<form method="post" action="/join"><input type="hidden" name="token" value="{escape(token)}">'
        f"{_field('Your name', 'name', value=name, more=named)}"
        f"{_field(f'A passcode <small>({SHORTEST} characters or more)</small>', 'passcode', more=chosen)}"
        "<button>Join</button></form><p><small>What you compare is kept under this name.</small></p>"
    )


def _field(label: str, name: str, *, value: str = "", more: str = "") -> str:
    return f'<label>{label}<input name="{name}" value="{escape(value)}" {more}></label>'


def _page(title: str, body: str, *, script: str = "", status: int = 200) -> HTMLResponse:
    """A page that loads nothing, is kept by no cache and shown in no frame."""
    nonce = secrets.token_urlsafe(16)
    allowed = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'"
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · pairloop</title>'
        f'<meta name="viewport" content="width=device-width"><style nonce="{nonce}">{_STYLE}</style></head>'
        f'<body><main><h1>{title}</h1>{body}</main><script nonce="{nonce}">{script}</script></body></html>'
    )
    headers = {
        "Content-Security-Policy": f"{allowed}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        "Cache-Control": "no-store",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(html, status_code=status, headers=headers)
