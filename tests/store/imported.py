"""Files to import, what importing them says, and what is in the tables afterwards."""

import json
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, select

from store.database import reading
from store.importing import ImportReport, import_gold, import_preferences, import_prompts
from store.models import Annotator, Comparison, Completion, ImportRecord, Pair, Prompt

TABLES = (Prompt, Completion, Pair, Comparison, ImportRecord, Annotator)


def jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prompts_from(engine, path: Path, **options) -> ImportReport:
    return import_prompts(engine=engine, path=path, held_out_share=0.2, **options)


def preferences_from(engine, path: Path, **options) -> ImportReport:
    return import_preferences(engine=engine, path=path, held_out_share=0.2, **options)


def gold_from(engine, path: Path, **options) -> ImportReport:
    return import_gold(engine=engine, path=path, held_out_share=0.2, **options)


def row_counts(engine: sa.Engine) -> dict[str, int]:
    with reading(engine) as session:
        return {table.__name__: len(session.exec(select(table)).all()) for table in TABLES}


def saved_prompts(engine: sa.Engine) -> list[list[dict[str, str]]]:
    with reading(engine) as session:
        return [prompt.messages for prompt in session.exec(select(Prompt).order_by(Prompt.id))]


def said(session: Session) -> list[tuple]:
    """Every standing verdict, spelled out: (prompt messages, chosen text, rejected text, annotator, role)."""
    found = []
    for comparison in session.exec(select(Comparison).order_by(Comparison.id)):
        pair = session.get_one(Pair, comparison.pair_id)
        texts = [session.get_one(Completion, each).text for each in (pair.completion_a_id, pair.completion_b_id)]
        chosen, rejected = texts if comparison.verdict == "a" else reversed(texts)
        annotator = session.get_one(Annotator, comparison.annotator_id)
        messages = session.get_one(Prompt, pair.prompt_id).messages
        found.append((messages, chosen, rejected, annotator.name, annotator.role))
    return found


def saved_preferences(engine: sa.Engine) -> list[tuple]:
    with reading(engine) as session:
        return [row[:3] for row in said(session)]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Help?\n\nAssistant: Sure.\n\nWith what?",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Help?\n\nAssistant: No",
}
HH_READ = ([*user("Hi"), assistant("Hello"), *user("Help?")], "Sure.\n\nWith what?", "No")
ASKED, YES, NO = user("Tea?"), [assistant(" Yes\n")], [assistant("No")]
