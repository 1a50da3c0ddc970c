"""What people said in blind duels of the new checkpoint, and what promotion asks: for the Loop page's last step."""

from __future__ import annotations

from html import escape

import streamlit as st

from dpo_core.duels import Match
from dpo_core.gate import Condition, Gate, match_words
from ui.duel_words import SIGNS, verdict_words

_MEANT = {True: ("met", "met"), False: ("unmet", "not met"), None: ("open", "not known yet")}


def draw_gate(gate: Gate) -> None:
    """The matches with their intervals, and each condition with its figure."""
    for match in gate.matches:
        draw_match(match)
    told = [match_words(match) for match in gate.matches if match.counts.written]  # above, with its bar
    items = "".join(_item(condition, told) for condition in gate.conditions)
    if items:
        st.html(f'<ul class="pl-gate" aria-label="What promotion asks">{items}</ul>')


def _item(condition: Condition, told: list[str]) -> str:
    mark, said = _MEANT[condition.met]
    words = next((each for each in told if condition.found.startswith(each)), None)
    found = condition.found if words is None else said + condition.found.removeprefix(words)
    return (
        f'<li class="pl-{mark}"><span class="pl-sign" role="img" aria-label="{said}">{SIGNS[condition.met]}</span>'
        f'<span><b>{escape(condition.name)}</b><br><span class="pl-quiet">{escape(found)}</span></span></li>'
    )


def draw_match(match: Match) -> None:
    """One opponent: how often the new checkpoint won, as a bar with its interval, and in words."""
    if not match.counts.written and not match.win_rate.prompts:
        return
    found = match.win_rate
    head = f"{match.checkpoint} against {match.against}"
    st.html(
        f'<div class="pl-match"><div class="pl-count"><b>{escape(head)}, blind</b>'
        f'<span class="pl-quiet">{escape(match_words(match))}</span></div>'
        f"{interval_bar(found.rate, found.interval, label=match_words(match))}"
        f'<p class="pl-quiet">{escape(verdict_words(match))}</p></div>'
    )


def interval_bar(rate: float | None, interval: tuple[float, float], *, label: str) -> str:
    """An axis from 0 to 100% with a mark at 50%, the interval as a band and the rate as a dot."""
    low, high = interval
    dot = "" if rate is None else f'<i class="pl-dot" style="left:{100 * rate:.1f}%"></i>'
    return (
        f'<div class="pl-axis" role="img" aria-label="{escape(label)}"><i class="pl-half"></i>'
        f'<i class="pl-band" style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>{dot}</div>'
        '<div class="pl-ends" aria-hidden="true"><span>0%</span><span>50%: a coin toss</span><span>100%</span></div>'
    )
