"""How long a pair was really looked at: the time that its page was hidden, or nobody touched anything, is left out.

The page says when somebody goes and when they are back; both are dated here, by the server's clock. It is said by a
request of its own rather than through Streamlit, so that it can never get in the way of a verdict.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import streamlit as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PATH = "/attention"
IDLE_SECONDS = 60  # without a key, a pointer or a scroll: long enough to read a page that needs no scrolling
MOST = 5_000  # visitors remembered


@dataclass
class Watch:
    """How long one pair has been looked at."""

    clock: Callable[[], float] = time.monotonic
    pair_id: int | None = None
    _since: float = 0.0
    _away: float = 0.0
    _gone_at: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def shows(self, pair_id: int) -> None:
        """This pair is on screen; nothing changes where it was already. It may appear by itself while nobody looks."""
        with self._lock:
            if pair_id != self.pair_id:
                moment = self.clock()
                self.pair_id, self._since, self._away = pair_id, moment, 0.0
                self._gone_at = None if self._gone_at is None else moment

    def stop(self) -> None:
        """No pair is on screen."""
        with self._lock:
            self.pair_id = None

    def goes(self) -> None:
        """Nobody is looking any more."""
        with self._lock:
            self._gone_at = self.clock() if self._gone_at is None else self._gone_at

    def returns(self) -> None:
        """Somebody is looking again."""
        with self._lock:
            self._away, self._gone_at = self._away + self._gap(), None

    def seconds_shown(self) -> float:
        """Since the pair appeared, looked at or not."""
        return self.clock() - self._since

    def seconds(self) -> float:
        """How long the pair has been looked at so far."""
        with self._lock:
            return max(0.0, self.seconds_shown() - self._away - self._gap())

    def _gap(self) -> float:
        return 0.0 if self._gone_at is None else self.clock() - self._gone_at


_watches: OrderedDict[str, Watch] = OrderedDict()


def my_watch() -> Watch:
    """The watch of this browser session."""
    token = st.session_state.setdefault("attention", secrets.token_urlsafe(16))
    watch = _watches.setdefault(token, Watch())
    _watches.move_to_end(token)
    while len(_watches) > MOST:
        _watches.popitem(last=False)
    return watch


def watch_of_press() -> Watch:
    """The watch of this browser session, whose visitor pressed something: so they are here, even if the page's own word
    of it was lost or is still on its way."""
    watch = my_watch()
    watch.returns()
    return watch


def watch_page(pair: str) -> None:
    """Show a new pair from its top, and let the page say when it is left alone, and when somebody is back."""
    told = {"token": st.session_state["attention"], "path": PATH, "idle": IDLE_SECONDS * 1000, "pair": pair}
    st.html(_SCRIPT.replace("{told}", json.dumps(told)), unsafe_allow_javascript=True)


async def _said(request: Request) -> Response:
    watch = _watches.get(request.query_params.get("token", ""))
    if watch is not None:
        (watch.goes if request.query_params.get("is") == "away" else watch.returns)()
    return Response(status_code=204)


route = Route(PATH, _said, methods=["POST"])

_SCRIPT = """<script>
(() => {
  const told = {told};  // the pair among it: a script runs anew when its text has changed
  const before = window.pairloopAttention?.told.pair;
  const shownAt = before === told.pair ? window.pairloopAttention.shownAt : performance.now();
  if (before !== told.pair) {
    document.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0);
    setTimeout(() => window.pairloopSeen?.(told.pair));
  }
  if (window.pairloopAttention) { Object.assign(window.pairloopAttention, { told, shownAt }); return; }
  const state = window.pairloopAttention = { told, shownAt, away: false, timer: 0 };
  const say = (away) => {
    if (away === state.away) return;
    state.away = away;
    const to = told.path + "?token=" + encodeURIComponent(told.token) + "&is=" + (away ? "away" : "here");
    fetch(to, { method: "POST", keepalive: true }).catch(() => {});
  };
  const touched = () => {
    if (document.hidden) return;
    say(false);
    clearTimeout(state.timer);
    state.timer = setTimeout(() => say(true), told.idle);
  };
  for (const name of ["keydown", "pointermove", "pointerdown", "wheel", "touchstart", "scroll"])
    window.addEventListener(name, touched, { capture: true, passive: true });
  document.addEventListener("visibilitychange", () => document.hidden ? say(true) : touched());
  touched();
})();
</script><div hidden></div>"""
