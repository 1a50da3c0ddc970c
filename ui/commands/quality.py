"""`pairloop quality`: how well annotators compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpo_core.workspace import open_workspace
from store.database import reading
from store.quality import Quality, read_quality
from store.quality_tables import quality_tables, write_tables
from store.second_looks import SecondLooks, read_second_looks
from ui import quality_words as words
from ui import second_look_words as looks
from ui.commands.options import HERE, JsonOption, WorkspaceOption
from ui.commands.printing import print_json, print_table, say


def quality(
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FOLDER", help="Write the tables as CSV files into this folder too.")
    ] = None,
    retracted: Annotated[bool, typer.Option("--retracted", help="With what retracted annotators had said.")] = False,
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """How well annotators agree, with each other and with themselves.

    Krippendorff's alpha and Cohen's kappa, repeats, gold pairs, and what sways people: the left side, the longer text,
    haste. Then what came of second looks, if there were any. Intervals are 95%. Imported verdicts are kept apart.

    \b
    Example:
      pairloop quality
      pairloop quality --csv quality
    """
    opened = open_workspace(workspace)
    with reading(opened.engine) as session:
        found = read_quality(session=session, with_retracted=retracted)
        again = read_second_looks(session=session)
    written = write_tables(found, csv) if csv is not None else []
    if as_json:
        print_json(
            {
                "quality": quality_tables(found),
                "second_looks": looks.as_record(again),
                "imported": found.imported,
                "files": written,
            }
        )
        return
    _show(found)
    if again.asked:
        _show_second_looks(again)
    for path in written:
        say(f"Wrote {path}")


def _show(found: Quality) -> None:
    overall = words.overall_words(found)
    print_table(("figure", "", "95% interval", "what it means"), [tuple(vars(each).values()) for each in overall])
    if not found.annotators:
        say("\nNobody has compared anything here yet.")
        return
    say("")
    print_table(words.AGREEMENT_HEAD, [words.agreement_row(each) for each in found.annotators])
    say("")
    print_table(words.HABITS_HEAD, [words.habits_row(each) for each in found.annotators])
    say("")
    if found.couples:
        print_table(words.COUPLE_HEAD, [words.couple_row(each) for each in found.couples])
    else:
        say(words.COUPLES_NEEDED)
    say(words.apart_words(found))


def _show_second_looks(found: SecondLooks) -> None:
    say("\nSecond looks. " + looks.summary_words(found))
    print_table(
        ("figure", "", "95% interval", "what it means"), [tuple(vars(one).values()) for one in looks.figures(found)]
    )
    say(looks.verdict_words(found))
    if found.looks:
        print_table(looks.HEAD, [looks.look_row(look) for look in found.looks])
