"""The next pair, in the page already: shown the moment a verdict is pressed, while the server still writes it down.

The server stays the one that knows: what it sends takes the place of what is shown here, whatever that is. Until then
nothing can be said about the pair that is shown ahead, so that no verdict can reach another pair than the one in sight.
A number pressed right after S is the reason to skip, though the reasons are not in the page yet: never a verdict.
"""

from __future__ import annotations

import streamlit as st

from ui.state import veiled

DWELL_MILLISECONDS = 400  # longer than the server's own, below which a press is dropped: see ui/verdicts.py


def show_pair(pair_id: int, texts: str) -> None:
    """A pair's texts, given as safe HTML. After each press they are drawn anew, in the place of what was ahead."""
    turn = st.session_state.get("turn", 0)
    st.html(f'<div class="pl-pair" data-pair="{veiled(pair_id)}" data-turn="{turn}">{texts}</div>')


def count_turn() -> None:
    """A verdict was pressed, and what is shown may be the pair ahead by now."""
    st.session_state["turn"] = st.session_state.get("turn", 0) + 1


def keep_ahead(pair_id: int, texts: str) -> None:
    """The texts of the pair that comes next, out of sight."""
    st.html(f'<div class="pl-ahead" data-pair="{veiled(pair_id)}">{texts}</div>')


NAMES = ("left", "right", "tie", "both_bad")  # of the buttons that are a verdict
_ANSWERS = ", ".join(f'[class*="st-key-{name}-"] button' for name in NAMES)
_NAMED = "|".join(NAMES)

# A verdict on a pair ahead, given after it had been in sight for long enough, is meant for this very pair: it is
# pressed once the server takes it. `pairloopSeen(pair)`: the server has drawn this pair whole. Until then its texts
# may be there and the buttons still be those of the pair before, and for a moment after it the server would think a
# verdict too quick: a slow server loses none.
SCRIPT = (
    """
  const answers = 'ANSWERS', asks = '[class*="st-key-ask-"] button', reasons = '[class*="st-key-why-"] button';
  const leave = '[class*="st-key-others-"] button, [class*="st-key-why-"] button, [class*="st-key-looking-"] button';
  const dwell = DWELL, patience = 5000;
  const inSight = () => document.querySelector(".pl-pair");
  const ahead = { of: null, at: 0, meant: null, timer: 0 };  // `of`: in sight before the server has drawn it whole
  const forget = () => Object.assign(ahead, { of: null, meant: null });
  const named = /st-key-((?:NAMED)[-\\d]*)-([0-9a-f]+)/;
  const namesOf = (button) => named.exec(button.closest("[class*=st-key-]").className) ?? [];
  const drawnAt = (pair) => {
    const watched = window.pairloopAttention;
    return watched?.told.pair === pair ? watched.shownAt : Infinity;
  };
  const tell = (pair) => {
    const told = document.createElement("p");  // a script with a tag in its text would be left out of the page
    told.setAttribute("role", "alert");
    told.textContent = "SILENCE";
    pair.prepend(told);
  };
  const show = (pair, next) => {
    const before = pair.innerHTML;
    pair.innerHTML = next.innerHTML;
    pair.dataset.ahead = next.dataset.pair;
    Object.assign(ahead, { of: next.dataset.pair, at: performance.now(), meant: null });
    document.querySelector('[data-testid="stMain"]')?.scrollTo(0, 0);
    setTimeout(() => {  // the server said nothing: what it knows of is the pair before
      if (inSight() !== pair || !pair.dataset.ahead) return;
      pair.innerHTML = before;
      delete pair.dataset.ahead;
      forget();
      tell(pair);
    }, patience);
  };
  const mean = (meant) => {
    ahead.meant = meant;
    setTimeout(() => {  // the texts are there, and nothing came after them
      const pair = inSight();
      if (ahead.meant !== meant || pair?.dataset.pair !== meant.pair || pair.dataset.ahead) return;
      forget();
      tell(pair);
    }, patience);
  };
  const pressMeant = () => {
    const meant = ahead.meant, pair = inSight();
    forget();
    if (meant && pair?.dataset.pair === meant.pair && !pair.dataset.ahead)
      document.querySelector(`[class*="st-key-${meant.name}-${meant.pair}"] button`)?.click();
  };
  window.pairloopSeen = (name) => {
    if (ahead.of !== name) ahead.of = null;  // the server went elsewhere: what it shows later was not read ahead
    if (ahead.meant?.pair !== name) { ahead.meant = null; return; }
    clearTimeout(ahead.timer);
    ahead.timer = setTimeout(pressMeant, Math.max(0, drawnAt(name) + dwell - performance.now()));
  };
  let asking = null;  // S was pressed: until the reasons are gone again, a number pressed is one of them
  const onScreen = () => {
    const shown = document.querySelector(".pl-pair, .pl-cards");
    return shown?.dataset.pair ?? shown?.dataset.mark;
  };
  const reason = (key) => document.querySelector(`[class*="st-key-why-${key}-"] button`);
  const answer = (key) => { asking = null; reason(key)?.click(); };
  const followReasons = () => {
    if (!asking) return;
    const there = reason("1"), late = performance.now() - asking.at > 20000;
    if (asking.of !== onScreen() || (!there && (asking.came || late))) { asking = null; return; }
    asking.came ||= Boolean(there);
    if (there && asking.key) answer(asking.key);
    else setTimeout(followReasons, 20);
  };
  // Not left to the buttons' own shortcuts: for a moment after they are drawn these do not listen yet.
  window.addEventListener("keydown", (event) => {
    if (!asking || !/^[1-9]$/.test(event.key) || event.target.closest?.("input, textarea")) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    if (event.repeat) return;
    if (reason(event.key)) answer(event.key);
    else asking.key ||= event.key;
  }, true);
  window.addEventListener("click", (event) => {
    if (!asking && event.target.closest?.(asks)) {
      asking = { of: onScreen(), at: performance.now(), key: "", came: false };
      followReasons();
    }
    const button = event.target.closest?.(answers);
    if (!button) {
      if (event.target.closest?.(leave)) forget();
      return;
    }
    const pair = inSight(), next = document.querySelector(".pl-ahead"), [, name, of] = namesOf(button);
    if (!pair) return;
    const now = performance.now(), shown = pair.dataset.ahead ?? pair.dataset.pair, drawn = drawnAt(shown);
    if (of === shown && now - drawn >= dwell) {
      if (next) show(pair, next);
    } else if (of !== shown || ahead.of === shown) {
      event.stopPropagation();
      event.preventDefault();
      if (ahead.of !== shown || now - ahead.at < dwell) return;
      mean({ pair: shown, name });
      if (drawn < Infinity) window.pairloopSeen(shown);
    }
  }, true);
""".replace("ANSWERS", _ANSWERS)
    .replace("NAMED", _NAMED)
    .replace("SILENCE", "The server has not answered. If this pair stays, please give your verdict again.")
    .replace("DWELL", str(DWELL_MILLISECONDS))
)
