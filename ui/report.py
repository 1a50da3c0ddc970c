"""A report of the whole effort, or of one round, as one HTML file that needs nothing else: to send, print or keep.

Written from the record alone, for somebody who was not there: first the answer and what it cost (report_answer.py),
then what that rests on (report_evidence.py), and what was done, by whom, and what to mind (report_record.py). People
are named in it, as they are on the pages: it is the team's own. Importable without Streamlit.
"""

from __future__ import annotations

from collections.abc import Iterator

from dpo_core.workspace import Workspace
from ui import report_evidence as evidence
from ui import report_record as record
from ui.report_answer import answer_words, cost_rows, next_lines, standing_lines
from ui.report_facts import Facts, read_facts
from ui.report_page import bullets, facts_table, page, paragraphs, section


def write_report(workspace: Workspace, *, round_number: int | None = None) -> str:
    """The report as HTML; `round_number`: of that round alone. Raises RunError where nothing was done yet."""
    facts = read_facts(workspace, round_number=round_number)
    name = workspace.folder.name
    title = name if round_number is None else f"{name}, round {round_number}"
    under = f"Model: {facts.model}. pairloop report, {facts.at:%Y-%m-%d %H:%M} UTC"
    return page(title, under=under, body="".join(_sections(facts)))


def _sections(facts: Facts) -> Iterator[str]:
    summary = paragraphs(answer_words(facts), kind="answer") + paragraphs(*standing_lines(facts))
    yield f'<div class="summary">{summary}</div>'
    yield section("What it cost", facts_table(cost_rows(facts)))
    yield evidence.progress(facts)
    yield evidence.answers(facts)
    yield section("What comes next", bullets(list(next_lines(facts))))
    yield evidence.duels(facts)
    yield evidence.accuracy(facts)
    yield record.rounds(facts)
    yield record.learned_from(facts)
    yield record.selecting(facts)
    yield record.contributors(facts)
    yield record.reliance(facts)
    yield record.decisions(facts)
    yield record.known_limits(facts)
    yield record.guidelines(facts)
