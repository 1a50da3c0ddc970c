"""Text that a model wrote, or that came from a file, as HTML that is safe to show.

Markdown structure (paragraphs, lists, tables, code) is drawn; nothing is loaded and nothing can be followed. Raw HTML,
images and links stay the characters that they are, so the annotator also sees what was really written.
"""

from __future__ import annotations

import re
from html import escape
from string import punctuation

from markdown_it import MarkdownIt

from store.prompts import Message

_PARSER = (
    MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True})
    .enable(["table", "strikethrough"])
    .disable(["image", "link", "autolink", "html_inline", "html_block", "reference"])
)
_MARKS = re.compile(f"[{re.escape(punctuation)}]")
_LONGEST = 100_000  # characters drawn as Markdown; anything longer is shown plain, so that a page never hangs


def render_model_text(text: str) -> str:
    """The text as HTML of a few known tags, without any image, link, script or raw HTML in it."""
    text = text.encode("utf-8", "replace").decode().strip()
    if not text:
        return '<div class="pl-text pl-quiet">(no text)</div>'
    return f'<div class="pl-text" dir="auto">{_markdown(text) if len(text) <= _LONGEST else _plain(text)}</div>'


def _markdown(text: str) -> str:
    tokens = _PARSER.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h4"  # a completion's headings stay below the page's own
    rendered = _PARSER.renderer.render(tokens, _PARSER.options, {})
    return str(rendered)


def _plain(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def plain_markdown(text: str) -> str:
    """The text for the parts of Streamlit that only take Markdown: every mark stays the character that it is."""
    return _MARKS.sub(r"\\\g<0>", text)


def render_prompt(messages: list[Message]) -> str:
    """A prompt as HTML: a single user turn plain, anything longer turn by turn with its role."""
    if len(messages) == 1:
        turns = f'<span class="pl-role">Prompt</span>{render_model_text(messages[0]["content"])}'
    else:
        turns = "".join(_turn(message) for message in messages)
    return f'<div class="pl-prompt" role="region" aria-label="Prompt" tabindex="0">{turns}</div>'


def _turn(message: Message) -> str:
    role = escape(message["role"])
    return f'<div class="pl-turn"><span class="pl-role">{role}</span>{render_model_text(message["content"])}</div>'
