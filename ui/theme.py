"""How the app looks: Streamlit's options, and the little CSS that they do not cover."""

from __future__ import annotations

from typing import Any

import streamlit as st
from pygments.formatters import HtmlFormatter

from ui import ahead

INK, PAPER, ACCENT, SECOND = "#24231f", "#fdfcfa", "#1d6b58", "#b65f2b"
# The accent carries white text, so at night it has to be darker than what is drawn on the background itself.
NIGHT_INK, NIGHT, NIGHT_ACCENT, NIGHT_BRIGHT, NIGHT_SECOND = "#e9e7e1", "#161817", "#2a836e", "#5cc0a4", "#e39a66"

_SHARED = {
    "baseRadius": "8px",
    "buttonRadius": "8px",
    "baseFontSize": 16,
    "metricValueFontSize": "1.6rem",
    "headingFontSizes": ["1.75rem", "1.35rem", "1.1rem", "1rem", "1rem", "1rem"],
    "headingFontWeights": [650, 600, 600, 600, 600, 600],
}
_LIGHT = {
    "primaryColor": ACCENT,
    "backgroundColor": PAPER,
    "secondaryBackgroundColor": "#f3f1ec",
    "textColor": INK,
    "borderColor": "#e0ddd4",
    "linkColor": ACCENT,
    "chartCategoricalColors": [ACCENT, SECOND],
}
_DARK = {
    "primaryColor": NIGHT_ACCENT,
    "backgroundColor": NIGHT,
    "secondaryBackgroundColor": "#212423",
    "textColor": NIGHT_INK,
    "borderColor": "#383c3a",
    "linkColor": NIGHT_BRIGHT,
    "chartCategoricalColors": [NIGHT_BRIGHT, NIGHT_SECOND],
}

# What the launcher gives Streamlit: a config.toml would not come along with an installed package.
STREAMLIT_OPTIONS: dict[str, Any] = {
    **{f"theme.{key}": value for key, value in _SHARED.items()},
    **{f"theme.light.{key}": value for key, value in _LIGHT.items()},
    **{f"theme.dark.{key}": value for key, value in _DARK.items()},
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "runner.fastReruns": False,  # with it a press is lost where another follows before its callback has begun
    "runner.magicEnabled": False,
    "runner.postScriptGC": False,  # a full collection after every press more than doubles the time to the next pair
    "server.fileWatcherType": "none",
    "server.headless": True,
    "server.maxUploadSize": 200,
    "server.showEmailPrompt": False,
}

_CSS = """
<style>
:root { --pl-accent: #1d6b58; --pl-paper: #fdfcfa; --pl-mark: #f6dfa4; --pl-line: #e0ddd4; }
@media (prefers-color-scheme: dark) { :root { --pl-accent: #5cc0a4; --pl-paper: #161817; --pl-mark: #5b4a17;
  --pl-line: #383c3a; } }
[data-testid="stLayoutWrapper"]:has(> .st-key-head) { position: sticky; top: 3.6rem; z-index: 20;
  background: var(--pl-paper); padding-bottom: .35rem; }
/* The tools stand on the meter's line, at its right. */
[data-testid="stLayoutWrapper"]:has(> .st-key-tools) { position: sticky; top: 3.6rem; z-index: 21; height: 2.5rem;
  margin-bottom: -3.5rem; width: fit-content; align-self: flex-end; }
.st-key-tools button { white-space: nowrap; }
.st-key-head { min-height: 2.5rem; padding-right: 34rem; }
/* The verdicts stay at the bottom of the window, however short or long the texts are. */
[data-testid="stVerticalBlock"]:has(> [data-testid="stLayoutWrapper"] > .st-key-bottom) {
  min-height: calc(100vh - 4.25rem); }
[data-testid="stLayoutWrapper"]:has(> .st-key-bottom) { position: sticky; bottom: 0; z-index: 20; order: 1;
  background: var(--pl-paper); padding: .5rem 0 .9rem; margin-top: auto; }
[data-testid="stMainBlockContainer"]:has(.st-key-bottom) { padding-bottom: 0; }
.st-key-bottom { gap: .5rem; }
[data-testid="stMainBlockContainer"] { max-width: 1240px; padding-top: 4.25rem; padding-bottom: 2rem; }
[data-testid="stBottomBlockContainer"] { max-width: 1240px; padding-top: .5rem; padding-bottom: .9rem; }
/* Streamlit draws these too faintly to be read by everybody (WCAG asks for a contrast of 4.5). */
div[data-testid="stCaptionContainer"] { opacity: .72; }
.stButton button kbd { opacity: 1; }
[data-testid="stTabs"] [data-testid="stTab"]:is([data-selected], [data-hovered], [data-focus-visible]),
button[data-variant="segmented_control"][data-selected] p { color: var(--pl-accent); }
.pl-text { line-height: 1.6; overflow-wrap: anywhere; }
.pl-text > :first-child { margin-top: 0; } .pl-text > :last-child { margin-bottom: 0; }
.pl-text p, .pl-text ul, .pl-text ol, .pl-text pre, .pl-text table, .pl-text blockquote { margin: 0 0 .75em; }
.pl-text p, .pl-text li { max-width: 72ch; font-size: inherit; }
.pl-text h4 { font-size: 1.05em; font-weight: 650; margin: 1em 0 .4em; padding: 0; }
.pl-text ul, .pl-text ol { padding-left: 1.5em; } .pl-text li { margin: .15em 0; }
.pl-text blockquote { border-left: 3px solid rgba(128,128,128,.4); padding-left: .9em; }
.pl-text pre { background: rgba(128,128,128,.07); border-radius: 6px; padding: .75em .9em; overflow-x: auto; }
.pl-text code { font-size: .875em; background: rgba(128,128,128,.14); border-radius: 4px; padding: .1em .3em; }
.pl-text pre code { background: none; padding: 0; }
.pl-written { white-space: pre-wrap; }
.pl-text mark { background: var(--pl-mark); color: inherit; border-radius: 3px; padding: 0 .1em; }
.pl-text img.pl-math { display: inline; max-width: 100%; }
@media (prefers-color-scheme: dark) { .pl-text img.pl-math { filter: invert(1); } }
.pl-text table { border-collapse: collapse; display: block; overflow-x: auto; }
.pl-text th, .pl-text td { border: 1px solid rgba(128,128,128,.35); padding: .3em .6em; }
.pl-quiet, .pl-role { opacity: .72; } .pl-quiet { font-size: .9rem; }
.pl-role { display: block; font-size: .75rem; font-weight: 600; letter-spacing: .05em; text-transform: uppercase;
  margin-bottom: .3rem; }
.pl-turn + .pl-turn { margin-top: .9rem; }
.pl-user, .pl-system, .pl-other { border-left: 3px solid rgba(128,128,128,.45); padding-left: .8rem; }
.pl-assistant { padding-left: calc(.8rem + 3px); }
.pl-earlier { margin-bottom: .9rem; } .pl-earlier summary { cursor: pointer; opacity: .8; }
.pl-prompt { background: rgba(128,128,128,.09); border-radius: 8px; padding: .9rem 1.1rem; max-height: 38vh;
  overflow-y: auto; }
.pl-chat .pl-prompt { max-height: none; } /* the page itself scrolls to its end */
.pl-ahead { display: none; }
.pl-panes { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.pl-prompt + .pl-panes { margin-top: 1rem; }
.pl-panes > section { border: 1px solid var(--pl-line); border-radius: 8px; padding: 1rem; min-width: 0; }
[class*="st-key-verdicts-"] button { min-height: 2.75rem; }
/* The stronger the verdict, the stronger its button. */
[class*="st-key-left-3-"] button, [class*="st-key-right-3-"] button { border-color: var(--pl-accent);
  box-shadow: inset 0 0 0 1px var(--pl-accent); font-weight: 650; }
[class*="st-key-left-2-"] button, [class*="st-key-right-2-"] button { border-color: var(--pl-accent); }
.pl-meter { height: 6px; border-radius: 3px; background: rgba(128,128,128,.22); overflow: hidden; margin-top: .35rem; }
.pl-meter > div { height: 100%; background: var(--pl-accent); }
.pl-count { display: flex; flex-wrap: wrap; column-gap: 1rem; font-size: .9rem; }
.pl-count b { font-weight: 650; }
.pl-match { margin: .2rem 0 1rem; max-width: 46rem; } .pl-match p { margin: .35rem 0 0; }
.pl-axis { position: relative; height: 14px; margin: .5rem 0 .1rem; border-radius: 7px;
  background: rgba(128,128,128,.16); }
.pl-axis i { position: absolute; top: 0; bottom: 0; }
.pl-axis .pl-band { background: color-mix(in srgb, var(--pl-accent) 40%, transparent); border-radius: 7px; }
.pl-axis .pl-half { left: 50%; width: 2px; margin-left: -1px; top: -4px; bottom: -4px; background: currentColor; }
.pl-axis .pl-dot { width: 14px; margin-left: -7px; border-radius: 50%; background: var(--pl-accent); }
.pl-ends { display: flex; justify-content: space-between; font-size: .8rem; opacity: .72; }
.pl-gate { list-style: none; padding: 0 !important; display: grid; gap: .45rem; margin: 0 0 1rem; }
.pl-gate li { display: flex; gap: .6rem; margin: 0; }
.pl-gate .pl-sign { font-weight: 700; width: 1.2em; text-align: center; }
.pl-gate .pl-met .pl-sign { color: var(--pl-accent); }
.pl-steps { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; list-style: none; padding: 0 !important;
  margin: 0 0 .25rem; }
.pl-steps li { display: flex; align-items: center; gap: .45rem; font-size: .92rem; opacity: .72; margin: 0; }
.pl-steps li::before { content: "○"; } .pl-steps li.done::before { content: "✓"; }
.pl-steps li.now { opacity: 1; font-weight: 650; }
.pl-steps li.now::before { content: "●"; color: var(--pl-accent); }
.pl-empty { max-width: 46rem; margin: 9vh 0 0; } .pl-empty h2 { padding: 0 0 .35rem; }
.pl-table { width: 100%; border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
.pl-scroll { overflow-x: auto; }
.pl-table th { text-align: left; font-weight: 600; font-size: .8rem; opacity: .72; }
.pl-table th, .pl-table td { padding: .5rem .9rem .5rem 0; border-bottom: 1px solid rgba(128,128,128,.25);
  vertical-align: top; }
@media (max-width: 1000px) {
  [data-testid="stLayoutWrapper"]:has(> .st-key-tools) { position: static; height: auto; margin-bottom: -.5rem; }
  .st-key-head { padding-right: 0; }
}
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"], [data-testid="stBottomBlockContainer"] { padding-left: 1rem;
    padding-right: 1rem; }
  [class*="st-key-verdicts-"] [class*="st-key-left-"] { order: -2; }
  [class*="st-key-verdicts-"] [class*="st-key-right-"] { order: -1; }
  [data-testid="stBottomBlockContainer"] { padding-bottom: .4rem; }
  [data-testid="stBottomBlockContainer"] [data-testid="stVerticalBlock"] { gap: .3rem; }
  [class*="st-key-verdicts-"] button, [class*="st-key-others-"] button { padding: .15rem .5rem; min-height: 2.4rem; }
  [class*="st-key-verdicts-"] button kbd, [class*="st-key-others-"] button kbd, .st-key-keys { display: none; }
  .pl-panes { grid-template-columns: 1fr; }
  [data-testid="stLayoutWrapper"]:has(> .st-key-tools) { width: auto; align-self: stretch; }
  .st-key-tools { flex-wrap: wrap; gap: 0 1rem; } .st-key-tools kbd { display: none; }
  .pl-prompt { max-height: none; } .pl-empty { margin-top: 2vh; }
}
@media (prefers-reduced-motion: reduce) { *, ::before, ::after { transition: none !important;
  animation-duration: .01ms !important; } }
</style>
"""
_CODE_BY_DAY, _CODE_BY_NIGHT = (  # of the few styles whose every colour can be read on our paper
    "\n".join(HtmlFormatter(style=style).get_token_style_defs(".pl-text pre"))  # type: ignore[no-untyped-call]
    for style in ("xcode", "github-dark")
)
_CODE_CSS = f"<style>{_CODE_BY_DAY}\n@media (prefers-color-scheme: dark) {{ {_CODE_BY_NIGHT} }}</style>"

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect x="2" y="5" width="12" height="22" rx="3" '
    f'fill="{ACCENT}"/><rect x="18" y="5" width="12" height="22" rx="3" fill="{SECOND}"/></svg>'
)

# A held-down arrow key repeats some thirty times a second; only the press itself counts as a verdict.
# "?" and, where verdicts have strengths, the arrows are keys that Streamlit's buttons cannot have.
_KEYS = """
<script>
if (!window.pairloopKeys) {
  window.pairloopKeys = true;
  const own = "input, textarea, select, [contenteditable=true], [role=radiogroup], [role=tablist], [role=dialog]";
  const SIGNS = { ArrowLeft: "←", ArrowRight: "→" };
  const also = {
    "?": ".st-key-keys button",
    ArrowLeft: '[class*="st-key-left-2-"] button',
    ArrowRight: '[class*="st-key-right-2-"] button',
  };
SHOW_AHEAD
  window.addEventListener("keydown", (event) => {
    const typing = event.target.closest && event.target.closest("input, textarea, [contenteditable=true]");
    if (event.repeat && !typing) { event.stopImmediatePropagation(); return; }
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest?.(own)) return;
    if (event.key in also) document.querySelector(also[event.key])?.click();
    // Pressed as with the mouse: what is done on a click is then done for keys too.
    // The verdicts may still stand where the reasons to skip are drawn already: these come first.
    const key = SIGNS[event.key] || event.key.toUpperCase();
    const meant = [...document.querySelectorAll(reasons), ...document.querySelectorAll(`${answers}, ${asks}`)]
      .find((button) => button.querySelector("kbd")?.textContent === key);
    if (meant) { event.preventDefault(); event.stopPropagation(); meant.click(); }
  }, true);
}
</script><div hidden></div>
""".replace("SHOW_AHEAD", ahead.SCRIPT)


def dress_page() -> None:
    """Put the CSS on the page."""
    st.html(_CSS + _CODE_CSS)  # in one: it is long enough for the browser to keep it, and is sent but once


def mind_keys() -> None:
    """Let a held-down key count once, and a few more keys press buttons. Scrolling and typing are left alone."""
    st.html(_KEYS, unsafe_allow_javascript=True)
