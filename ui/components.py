"""The pieces that pages are put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import streamlit as st

from dpo_core.alarms import Alarm
from store.models import Run, RunStatus, Worker
from store.runs import OPEN
from ui.model_text import plain_markdown, render_model_text, render_prompt
from ui.state import DEFAULT_NAME, change_name, my_name, served_workspace, visitor
from ui.story import duration, warnings_first
from ui.visitors import log_out


def page_head(title: str) -> None:
    """The page's title, with the name one goes by at its right."""
    left, right = st.columns([4, 1], vertical_alignment="center", wrap=False)
    left.title(title, anchor=False)
    with right, st.container(horizontal=True, horizontal_alignment="right"):
        name_control()


def name_control() -> None:
    """The name one goes by, and the place to change it."""
    if visitor().annotator_id is not None:
        with st.popover(my_name(), type="tertiary", icon=":material/person:"):
            st.button("Log out", key="log_out", on_click=log_out, args=(served_workspace(),))
        return
    with st.popover(my_name() or "Your name", type="tertiary", icon=":material/person:"):
        _name_input("name_input", "Your name", value=my_name())
        st.caption("Your comparisons are kept under this name. It stays in the address, so a reload keeps it.")


def ask_name() -> None:
    """Ask who is there, before anything can be compared."""
    empty_state("Who is comparing?", "Your comparisons are kept under your name.")
    _name_input("first_name_input", "Your name", value="")


def ask_decider() -> None:
    """Ask who is there, before anything can be decided."""
    _name_input("decider_name_input", "Your name, to decide: it is recorded with the decision", value="")


def _name_input(key: str, label: str, value: str) -> None:
    shown = "" if value == DEFAULT_NAME else value
    st.text_input(label, value=shown, key=key, max_chars=80, placeholder="Name", on_change=change_name, args=(key,))


def prompt_block(messages: list[dict[str, str]]) -> None:
    """The prompt, as text."""
    st.html(render_prompt(messages))


def completion_panes(left: str, right: str) -> None:
    """Two completions side by side, as text."""
    st.html(drawn_panes((render_model_text(left), render_model_text(right))))


def drawn_panes(
    texts: Sequence[str],
    notes: Sequence[str] = ("", ""),
    *,
    titles: Sequence[str] = ("Left", "Right"),
    scale: float = 1.0,
) -> str:
    """Two completions, given as safe HTML, in equal panes; one above the other where the window is narrow.

    In HTML of our own: both appear at the same moment, and Streamlit's columns take several times as long.
    """
    panes = "".join(
        f'<section role="region" aria-label="{escape(title)}"><span class="pl-role">{escape(title)}</span>'
        f'<div style="font-size:{scale:g}em">{text}</div><span class="pl-quiet">{escape(note)}</span></section>'
        for title, text, note in zip(titles, texts, notes, strict=True)
    )
    return f'<div class="pl-panes">{panes}</div>'


def beside_panes(draw: Callable[[str], None], *, wanted: bool) -> None:
    """What belongs to each of the two completions, below it."""
    if wanted:
        for column, side in zip(st.columns(2), ("left", "right"), strict=True):
            with column:
                draw(side)


KEYS = (
    ("B", "Both bad"),
    ("S", "Skip; then a number for why, or S again"),
    ("U", "Undo: take the last verdict back"),
    ("P, N, Q", "Look back (earlier), later, back to the queue"),
    ("D", "Show or hide the differences, word by word"),
    ("?", "This sheet"),
)
GRADED_KEYS = (
    ("1 2 3", "Left is much, clearly, slightly better"),
    ("4", "Tie"),
    ("5 6 7", "Right is slightly, clearly, much better"),
    ("← →", "The same as 2 and 6"),
)
PLAIN_KEYS = (("← →", "Left or right is better"), ("T", "Tie"))


def pair_keys(*, graded: bool) -> list[tuple[str, str]]:
    """The keys of a pair's page, with three strengths for a side or with one."""
    return [*(GRADED_KEYS if graded else PLAIN_KEYS), *KEYS]


def keys_sheet(keys: Sequence[tuple[str, str]]) -> None:
    """Every key of the page, on demand."""
    with st.popover("Keys", type="tertiary", icon=":material/keyboard:", key="keys"):
        table(("Key", "What it does"), keys, "No key acts while you type.")


def round_meter(*, done: int, target: int, mine: int, name: str, today: str = "") -> None:
    """How far the round is, always in sight."""
    st.html(
        f'<div class="pl-count"><span><b>{done} of {target}</b> comparisons</span>'
        f'<span class="pl-quiet">{mine} by {escape(name)}</span>'
        f'<span class="pl-quiet">{escape(today)}</span></div>{_bar(done, target)}'
    )


def meter(done: int, target: int) -> None:
    """A bar alone, where the words stand elsewhere."""
    st.html(_bar(done, target))


def _bar(done: int, target: int) -> str:
    share = min(100, round(100 * done / target))
    return (
        f'<div class="pl-meter" role="progressbar" aria-label="Comparisons" aria-valuenow="{done}" aria-valuemin="0" '
        f'aria-valuemax="{target}"><div style="width:{share}%"></div></div>'
    )


def empty_state(title: str, text: str) -> None:
    """A calm page that says what is going on. The next step's button goes below it."""
    st.html(f'<div class="pl-empty"><h2>{escape(title)}</h2><p>{escape(text)}</p></div>')


def steps(names: Sequence[str], now: int) -> None:
    """The stages of a round, with the one it is in."""
    marks = ["done" if index < now else "now" if index == now else "next" for index in range(len(names))]
    items = "".join(
        f'<li class="{mark}"{" aria-current=step" if mark == "now" else ""}>{escape(name)}</li>'
        for name, mark in zip(names, marks, strict=True)
    )
    st.html(f'<ol class="pl-steps" aria-label="This round">{items}</ol>')


def table(head: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> None:
    """A small table of plain text, with a note below it."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    named = escape(", ".join(filter(None, head)) or note or "Table")
    st.html(
        # In a narrow window it is wider than the page: by keyboard it can be scrolled only if it can have the focus.
        f'<div class="pl-scroll" tabindex="0" role="region" aria-label="{named}"><table class="pl-table">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f'<p class="pl-quiet">{escape(note)}</p>' if note else "")
    )


def paragraph(text: str) -> None:
    """A sentence or two of plain text."""
    st.html(f'<div class="pl-text"><p>{escape(text)}</p></div>')


def worker_warning(workers: Sequence[Worker], run: Run | None) -> None:
    """Say so where a run waits and nobody is there to carry it out."""
    if run is not None and run.status in OPEN and not workers:
        no_worker("so runs wait")


def no_worker(consequence: str) -> None:
    """Say that nobody is there to do the work, what follows from that, and how to start somebody."""
    st.warning(
        f"No worker is running, {consequence}. Start one with `pairloop worker`; `pairloop up` starts one by itself.",
        icon=":material/hourglass_empty:",
    )


def alarms(found: Sequence[Alarm]) -> None:
    """What to know about a training, warnings first."""
    for alarm in warnings_first(found):
        draw, icon = (st.warning, "warning") if alarm.level == "warning" else (st.info, "info")
        draw(
            f"**{plain_markdown(alarm.title.capitalize())}.** {plain_markdown(alarm.whole_text)}",
            icon=f":material/{icon}:",
        )


def run_progress(run: Run) -> None:
    """How far a run is, from its own report."""
    progress = run.progress
    if run.status == RunStatus.QUEUED or not progress:
        st.progress(0.0, text="Waiting for a worker" if run.status == RunStatus.QUEUED else "Starting")
        return
    step, total = int(progress.get("step", 0)), max(1, int(progress.get("total", 1)))
    left = duration(progress.get("eta_seconds"))
    text = f"{str(progress.get('phase', '')).capitalize()}: {step} of {total}" + (
        f" · about {left} left" if left else ""
    )
    st.progress(min(1.0, step / total), text=text)
