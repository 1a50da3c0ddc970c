"""The board on which completions are ranked: letters that keys, the mouse or a finger put into their order.

All of it happens in the browser; the server hears of it once, when the ranking is saved. It holds no text of any model:
the cards with the texts are the page's, and are only told which place they have. What somebody has begun is kept in the
tab, under a name that says nothing, so that a reload loses none of it.
"""

from __future__ import annotations

import streamlit as st

_HTML = '<div class="pl-board" role="group" aria-label="Your ranking"></div>'

_CSS = """
.pl-board { --line: var(--st-border-color, #8888); --accent: var(--pl-accent, #1d6b58); font: inherit; width: 100%;
  color: var(--st-text-color, inherit); display: flex; flex-wrap: wrap; align-items: center; justify-content: center;
  gap: .35rem 1.5rem; }
.pl-board button { font: inherit; color: inherit; background: var(--st-background-color, transparent);
  border: 1px solid var(--line); border-radius: 8px; cursor: pointer; min-height: 2.5rem; padding: .2rem .75rem; }
.pl-board button:hover:not(:disabled) { border-color: var(--accent); }
.pl-board button:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.pl-board button:disabled { cursor: default; opacity: .5; }
.pl-track { display: flex; flex-wrap: wrap; align-items: center; justify-content: center; gap: .4rem .6rem;
  min-height: 3rem; }
.pl-tiers { display: flex; flex-wrap: wrap; align-items: center; gap: .45rem; list-style: none; margin: 0; padding: 0; }
.pl-tiers li { margin: 0; }
.pl-tier { display: flex; align-items: center; gap: .2rem; border-radius: 10px; position: relative; }
.pl-tier.pl-tied { background: rgba(128,128,128,.16); padding: .15rem .3rem; }
.pl-end { font-size: .8rem; opacity: .78; }
.pl-board .pl-chip { min-width: 2.75rem; min-height: 2.75rem; font-weight: 650; touch-action: none; user-select: none;
  -webkit-user-select: none; cursor: grab; }
.pl-tiers .pl-chip { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent); }
.pl-slot { min-width: 2.75rem; min-height: 2.75rem; border: 2px dashed var(--line); border-radius: 8px; }
.pl-tray { display: flex; align-items: center; gap: .45rem; padding-left: .9rem; border-left: 1px solid var(--line); }
.pl-tray:empty { display: none; }
.pl-tier.pl-before::before, .pl-slot.pl-before::before { content: ""; position: absolute; left: -.36rem; top: 0;
  bottom: 0; width: 4px; border-radius: 2px; background: var(--accent); }
.pl-slot { position: relative; }
.pl-tier.pl-join { outline: 3px solid var(--accent); outline-offset: 2px; }
.pl-acts { display: flex; flex-wrap: wrap; align-items: center; justify-content: center; gap: .4rem .6rem; }
.pl-board p { margin: 0; flex: 1 0 100%; text-align: center; font-size: .95rem; min-height: 1.4em; }
.pl-board kbd { font: inherit; font-size: .8em; opacity: .85; margin-left: .4em; background: none; border: 0;
  color: inherit; padding: 0; }
.pl-board .pl-save { background: var(--st-primary-color, #1d6b58); border-color: var(--st-primary-color, #1d6b58);
  color: #fff; font-weight: 600; }
.pl-ghost { position: fixed; z-index: 1000; pointer-events: none; min-width: 2.75rem; min-height: 2.75rem;
  display: grid; place-items: center; font-weight: 650; border-radius: 8px; color: #fff; background: #1d6b58;
  box-shadow: 0 4px 14px rgba(0,0,0,.3); transform: translate(-50%, -60%); }
@media (max-width: 640px) {
  .pl-board button { padding: .15rem .5rem; min-height: 2.4rem; } .pl-board button kbd { display: none; }
  .pl-board p { font-size: .88rem; } .pl-acts { gap: .3rem .5rem; } .pl-board .pl-wide { display: none; }
  .pl-tray { padding-left: 0; border-left: 0; flex-basis: 100%; justify-content: center; }
}
"""

_JS = r"""
const LETTERS = "ABCDEFGHIJ";
const PLACES = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th"];
const DRAFT = "pairloop-ranking";
const OWN = "input, textarea, select, [contenteditable=true], [role=radiogroup], [role=tablist], [role=dialog]";
let live = null; // the board on the page; a listener finds it here, so that none is ever added twice

function element(tag, wear, ...inside) {
  const made = document.createElement(tag);
  if (wear) made.className = wear;
  made.append(...inside);
  return made;
}

class Board {
  constructor(root, data, send) {
    Object.assign(this, { root, data, send, saving: 0, note: "" });
    this.restore();
    this.draw();
  }

  restore() {
    let draft = null;
    try { draft = JSON.parse(sessionStorage.getItem(DRAFT)); } catch { /* none, or not ours */ }
    const mine = draft && draft.mark === this.data.mark;
    if (!mine) this.forget(); // of a slate that was saved, or left
    this.tiers = mine ? draft.tiers : this.data.said.map((tier) => [...tier]);
    this.trail = mine ? draft.trail : this.tiers.flat();
    if (!mine && this.tiers.length) this.note = "As you ranked it before.";
  }

  keep() {
    const draft = { mark: this.data.mark, tiers: this.tiers, trail: this.trail };
    try { sessionStorage.setItem(DRAFT, JSON.stringify(draft)); } catch { /* a reload then begins anew */ }
  }

  get left() {
    return [...Array(this.data.size).keys()].filter((card) => !this.tiers.flat().includes(card));
  }

  get touched() { return matchMedia("(pointer: coarse)").matches; }

  get ready() { return this.left.length < 2; }

  tierOf(card) { return this.tiers.findIndex((tier) => tier.includes(card)); }

  change(work) {
    this.note = "";
    work();
    this.tiers = this.tiers.filter((tier) => tier.length);
    this.trail = this.trail.filter((card) => this.tierOf(card) >= 0);
    this.saving = 0;
    this.keep();
    this.draw();
  }

  lift(card) { // an emptied tier stays where it is until the change is done
    for (const tier of this.tiers) if (tier.includes(card)) tier.splice(tier.indexOf(card), 1);
  }

  place(card) {
    if (this.tierOf(card) >= 0) {
      this.say(`${LETTERS[card]} has its place already. Backspace takes the last one back.`);
      return;
    }
    this.change(() => { this.tiers.push([card]); this.trail.push(card); });
  }

  takeOut(card) { this.change(() => this.lift(card)); }

  takeBack() { if (this.trail.length) this.takeOut(this.trail[this.trail.length - 1]); }

  tie() {
    const card = this.trail[this.trail.length - 1];
    const at = this.tierOf(card);
    if (card === undefined) return;
    if (this.tiers[at].length > 1) {
      this.change(() => { this.lift(card); this.tiers.splice(at + 1, 0, [card]); });
    } else if (at > 0) {
      this.change(() => { this.lift(card); this.tiers[at - 1].push(card); });
    } else {
      this.say(`${LETTERS[card]} is first: there is none before it to tie with.`);
    }
  }

  nudge(card, by) { // half a step: out of a tie, or into one with the neighbour
    const at = this.tierOf(card);
    if (this.tiers[at].length > 1) {
      this.change(() => { this.lift(card); this.tiers.splice(by < 0 ? at : at + 1, 0, [card]); });
    } else if (this.tiers[at + by]) {
      this.change(() => { this.lift(card); this.tiers[at + by].push(card); });
    }
  }

  drop(card, spot) {
    if (!spot) return;
    this.change(() => {
      const target = spot.tier === undefined ? null : this.tiers[spot.tier];
      if (target && spot.join && target.includes(card)) return;
      this.lift(card);
      if (spot.tray) return;
      if (!this.trail.includes(card)) this.trail.push(card);
      if (target && spot.join) target.push(card);
      else this.tiers.splice(target ? this.tiers.indexOf(target) : this.tiers.length, 0, [card]);
    });
  }

  save() {
    if (!this.ready || Date.now() - this.saving < 2000) return; // a ranking is sent once; the server keeps one anyway
    const tiers = [...this.tiers, ...this.left.map((card) => [card])];
    this.saving = Date.now();
    this.say("Saving…");
    this.send({ slate: this.data.slate, tiers });
    const sent = this.saving;
    setTimeout(() => {
      if (live !== this || !this.root.isConnected || this.saving !== sent) return;
      this.say("The server has not answered. Your ranking is still here: please save it again.");
    }, 5000);
  }

  forget() { try { sessionStorage.removeItem(DRAFT); } catch { /* there is none */ } }

  say(words) { this.note = words; this.status.textContent = words; }

  get words() {
    const left = this.left.map((card) => LETTERS[card]);
    const save = this.touched ? "Save it." : "Enter saves.";
    if (left.length === 1) return `${left[0]} is left: it goes last. ${save}`;
    const order = this.tiers.map((tier) => tier.map((card) => LETTERS[card]).join(" = ")).join(", ");
    if (!left.length) return `${order}. ${save}`;
    const keys = this.left.map((card) => card + 1);
    const listed = `${keys.slice(0, -1).join(", ")} or ${keys[keys.length - 1]}`;
    const how = this.touched ? "Tap its letter, or drag it." : `Press ${listed}.`;
    return this.tiers.length ? `${order}. Which is next? ${how}` : `Which is best? ${how}`;
  }

  draw() {
    const focused = this.root.contains(document.activeElement) ? document.activeElement.dataset : null;
    const [name, value] = Object.entries(focused || {})[0] || [];
    const tiers = element("ol", "pl-tiers", ...this.tiers.map((tier, at) => this.drawTier(tier, at)));
    tiers.setAttribute("aria-label", "Ranked so far, best first");
    if (this.left.length) {
      const slot = element("li", "pl-slot");
      slot.setAttribute("aria-label", "The next place");
      tiers.append(slot);
    }
    const tray = element("div", "pl-tray", ...this.left.map((card) => this.drawChip(card)));
    tray.setAttribute("role", "group");
    tray.setAttribute("aria-label", "Still to be ranked");
    const [best, worst] = ["Best", "Worst"].map((end) => element("span", "pl-end", end));
    const track = element("div", "pl-track", best, tiers, worst, tray);
    if (!this.status) { // stays in place: what changes in it is read out
      this.status = element("p", "");
      this.status.setAttribute("role", "status");
      this.order = element("div", "");
      this.acts = element("div", "pl-acts");
      this.root.replaceChildren(this.status, this.order, this.acts);
    }
    this.order.replaceChildren(track);
    const before = element("span", "pl-wide", " with the one before");
    this.acts.replaceChildren(
      this.act("tie", element("span", "", "Tie", before), "T", () => this.tie(), this.trail.length < 2),
      this.act("back", "Take back", "⌫", () => this.takeBack(), !this.trail.length),
      this.act("save", "Save", "Enter", () => this.save(), !this.ready, "pl-save"),
    );
    this.status.textContent = this.note ? `${this.note} ${this.words}` : this.words;
    if (name) this.root.querySelector(`[data-${name}="${value}"]`)?.focus({ preventScroll: true });
    this.tellCards();
  }

  drawTier(tier, at) {
    const inside = tier.flatMap((card) => [element("span", "", "="), this.drawChip(card, at)]).slice(1);
    const made = element("li", tier.length > 1 ? "pl-tier pl-tied" : "pl-tier", ...inside);
    made.dataset.tier = at;
    return made;
  }

  drawChip(card, at) {
    const chip = element("button", "pl-chip", LETTERS[card]);
    chip.type = "button";
    chip.dataset.chip = card;
    const placed = at !== undefined;
    const tied = placed && this.tiers[at].length > 1 ? ", tied" : "";
    const does = placed ? `, ${this.placeOf(at)} place${tied}: take it out` : ": place it next";
    chip.setAttribute("aria-label", LETTERS[card] + does);
    return chip;
  }

  placeOf(at) { return PLACES[this.tiers.slice(0, at).flat().length]; }

  act(name, label, key, work, disabled, wear = "") {
    const hint = element("kbd", "", key);
    hint.setAttribute("aria-hidden", "true");
    const made = element("button", wear, label, hint);
    Object.assign(made, { type: "button", disabled, onclick: work });
    made.dataset.act = name;
    return made;
  }

  tellCards() { // each card shows the place it has by now
    document.querySelectorAll(`.pl-cards[data-mark="${this.data.mark}"] .pl-card`).forEach((shown) => {
      const at = this.tierOf(Number(shown.dataset.card));
      const badge = shown.querySelector(".pl-place");
      if (badge) badge.textContent = at < 0 ? "" : this.placeOf(at) + (this.tiers[at].length > 1 ? " =" : "");
      shown.classList.toggle("pl-placed", at >= 0);
    });
  }

  spotAt(x, y, card) { // where a letter let go here would go
    const box = this.order.getBoundingClientRect();
    if (y < box.top - 60 || y > box.bottom + 30) return null;
    const tray = this.root.querySelector(".pl-tray").getBoundingClientRect();
    if (tray.width && x > tray.left && y >= tray.top - 10 && y <= tray.bottom + 10) return { tray: true };
    for (const shown of this.root.querySelectorAll(".pl-tier")) {
      const tier = Number(shown.dataset.tier);
      const own = this.tiers[tier].length === 1 && this.tiers[tier][0] === card;
      const { left, right, top, bottom } = shown.getBoundingClientRect();
      if (y > bottom + 4 && bottom < box.bottom - 20) continue; // a row above
      const edge = (right - left) / 4;
      if (x < left + edge || y < top - 30) return { tier, shown };
      if (x < right - edge) return own ? null : { tier, shown, join: true };
    }
    return { shown: this.root.querySelector(".pl-slot") };
  }
}

let drag = null, handled = 0;

function mark(spot) {
  document.querySelectorAll(".pl-before, .pl-join").forEach((each) => each.classList.remove("pl-before", "pl-join"));
  if (spot && spot.shown) spot.shown.classList.add(spot.join ? "pl-join" : "pl-before");
}

function endDrag() {
  if (drag && drag.ghost) drag.ghost.remove();
  drag = null;
  mark(null);
}

function onDown(event) {
  const held = event.target.closest?.("[data-chip], [data-grip]");
  if (!live?.root.isConnected || !held || event.button > 0) return;
  drag = { card: Number(held.dataset.chip ?? held.dataset.grip), x: event.clientX, y: event.clientY };
}

function onMove(event) {
  if (!drag) return;
  if (!drag.ghost && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 6) return;
  if (!drag.ghost) {
    drag.ghost = element("div", "pl-ghost", LETTERS[drag.card]);
    document.body.append(drag.ghost);
  }
  drag.ghost.style.left = `${event.clientX}px`;
  drag.ghost.style.top = `${event.clientY}px`;
  mark((drag.spot = live.spotAt(event.clientX, event.clientY, drag.card)));
}

function onUp() { // a press counts here already: after a drag a browser may make no click of a quick tap
  if (!drag || !live?.root.isConnected) return endDrag();
  const { ghost, card, spot } = drag;
  endDrag();
  handled = Date.now();
  if (ghost) live.drop(card, spot);
  else press(card);
}

function press(card) {
  if (live.tierOf(card) >= 0) live.takeOut(card);
  else live.place(card);
}

function onClick(event) { // from the keyboard or a screen reader; that of a pointer was handled
  const held = event.target.closest?.("[data-chip], [data-grip]");
  if (!held || !live?.root.isConnected || (event.detail > 0 && Date.now() - handled < 700)) return;
  press(Number(held.dataset.chip ?? held.dataset.grip));
}

function onKey(event) {
  if (!live?.root.isConnected || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  const at = event.target;
  if (at.closest?.(OWN)) return;
  if (event.key === "Escape") { endDrag(); return; }
  const held = at.closest?.("[data-chip], [data-grip]");
  const done = () => event.preventDefault();
  if (/^[1-9]$/.test(event.key) && Number(event.key) <= live.data.size) { live.place(Number(event.key) - 1); done(); }
  else if (event.key === "Backspace") { live.takeBack(); done(); }
  else if (event.key.toLowerCase() === "t") { live.tie(); done(); }
  else if (event.key === "Enter" && (held || !at.closest?.("button, a, summary, [role=button]"))) {
    if (live.ready) { live.save(); done(); }
  } else if (held && event.key.startsWith("Arrow") && live.tierOf(Number(held.dataset.chip)) >= 0) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { live.nudge(Number(held.dataset.chip), by); done(); }
  }
}

function listen() {
  if (window.pairloopBoards) window.pairloopBoards.abort(); // of a page that loaded this anew
  window.pairloopBoards = new AbortController();
  const until = { signal: window.pairloopBoards.signal };
  window.addEventListener("pointerdown", onDown, until);
  window.addEventListener("pointermove", onMove, until);
  window.addEventListener("pointerup", onUp, until);
  window.addEventListener("pointercancel", endDrag, until);
  window.addEventListener("click", onClick, until);
  window.addEventListener("keydown", onKey, until);
}

let listening = false;

export default function ({ data, parentElement, setTriggerValue }) {
  if (!listening) { listen(); listening = true; }
  const root = parentElement.querySelector(".pl-board");
  const send = (said) => setTriggerValue("ranking", said);
  if (root.pairloop && root.pairloop.data.slate === data.slate) {
    Object.assign(root.pairloop, { data, send });
    root.pairloop.draw();
  } else {
    root.pairloop = new Board(root, data, send);
  }
  live = root.pairloop;
  for (const wait of [50, 300, 1000]) setTimeout(() => root.isConnected && root.pairloop.tellCards(), wait);
}
"""

board = st.components.v2.component("pairloop_ranking", html=_HTML, css=_CSS, js=_JS, isolate_styles=False)
