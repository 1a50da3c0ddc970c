"""Prompts and imported texts as rows, for tests that begin after them. The program adds both by importing files."""

from __future__ import annotations

from sqlmodel import Session, select

from store.hashing import content_hash, text_hash
from store.models import Completion, Prompt
from store.prompts import is_held_out

Messages = list[dict[str, str]]


def add_prompt(session: Session, asked: str | Messages, *, source: str = "test", held_out_share: float = 0) -> Prompt:
    """The prompt that asks this, a text or chat messages; added if it is new."""
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    hashed = content_hash(messages)
    found = session.exec(select(Prompt).where(Prompt.content_hash == hashed)).first()
    held_out = is_held_out(hashed, share=held_out_share)
    prompt = found or Prompt(content_hash=hashed, messages=messages, source=source, held_out=held_out)
    session.add(prompt)
    session.flush()
    return prompt


def add_imported_text(session: Session, prompt_id: int, text: str, *, source: str = "file") -> Completion:
    """A completion as an import would leave it: of no checkpoint."""
    completion = Completion(prompt_id=prompt_id, text=text, text_hash=text_hash(text), source=source)
    session.add(completion)
    session.flush()
    return completion
