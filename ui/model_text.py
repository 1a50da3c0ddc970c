"""Text that a model wrote, or that came from a file, as HTML that is safe to show.

Markdown structure (paragraphs, lists, tables, code, formulas) is drawn; nothing is loaded and nothing can be followed.
Raw HTML, images and links stay the characters that they are, so the annotator also sees what was really written.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from string import punctuation

from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from store.prompts import Message
from ui.formulas import read_formulas


def _parser() -> MarkdownIt:
    return (
        MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True})
        .enable(["table", "strikethrough"])
        .disable(["image", "link", "autolink", "html_inline", "html_block", "reference"])
    )


_WITHOUT_FORMULAS, _WITH_FORMULAS = _parser(), read_formulas(_parser())
_OPENS = re.compile(r"\$|\\[(\[]")  # what a formula can begin with
_MOST_FORMULAS = 100  # openings; with more, looking for their ends takes seconds
_LONGEST_CODE = 5_000  # characters of a block that are put in colours
_CODE = HtmlFormatter(nowrap=True)
_MARKS = re.compile(f"[{re.escape(punctuation)}]")
_LONGEST = 20_000  # characters drawn as Markdown; anything longer is shown plain, so that a page never hangs
# A span of code, which no other mark reaches into; or a mark that could begin a link, an image, a formula or emphasis.
_OF_MESSAGES = re.compile(r"((?<!`)`[^`\n]+`(?!`))|([\\`\[\]<>*_~$#])")


@lru_cache(maxsize=2_048)  # the pairs on screen, and those that come next, of some hundred annotators
def render_model_text(text: str) -> str:
    """The text as HTML of a few known tags, without any image, link, script or raw HTML in it."""
    text = text.encode("utf-8", "replace").decode().strip()
    if not text:
        return '<div class="pl-text pl-quiet">(no text)</div>'
    return f'<div class="pl-text" dir="auto">{_markdown(text) if len(text) <= _LONGEST else _plain(text)}</div>'


def _markdown(text: str) -> str:
    parser = _WITH_FORMULAS if len(_OPENS.findall(text)) <= _MOST_FORMULAS else _WITHOUT_FORMULAS
    tokens = parser.parse(text)
    for token in tokens:
        if token.type == "fence":
            token.content, token.type = _highlighted(token.content, token.info), "html_block"
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h4"  # a completion's headings stay below the page's own
    rendered = parser.renderer.render(tokens, parser.options, {})
    return str(rendered)


def _highlighted(code: str, language: str) -> str:
    name = language.split(maxsplit=1)[0] if language.strip() else "text"
    try:
        drawn = highlight(code, get_lexer_by_name(name), _CODE) if len(code) <= _LONGEST_CODE else escape(code)
    except ClassNotFound:
        drawn = escape(code)
    return f'<pre tabindex="0"><code>{drawn}</code></pre>\n'


def _plain(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def plain_markdown(text: str) -> str:
    """The text for the parts of Streamlit that only take Markdown: every mark stays the character that it is."""
    return _MARKS.sub(r"\\\g<0>", text)


def message_markdown(text: str) -> str:
    """A message of the app's for the parts that take Markdown: `code` is code, and nothing else in it is markup.

    What people typed is quoted in messages: a name must not become a link, an image or a colour there.
    """
    return _OF_MESSAGES.sub(lambda found: found[1] or f"\\{found[2]}", text)


def render_prompt(messages: list[Message], *, open_turns: int = 3) -> str:
    """A prompt as HTML: a single user turn plain, anything longer as a chat, its earlier turns folded."""
    if len(messages) == 1:
        turns = f'<span class="pl-role">Prompt</span>{render_model_text(messages[0]["content"])}'
    else:
        earlier, last = messages[:-open_turns], messages[-open_turns:]
        turns = _folded(earlier) + "".join(_turn(message) for message in last)
    return f'<div class="pl-prompt" role="region" aria-label="Prompt" tabindex="0">{turns}</div>'


def _folded(messages: list[Message]) -> str:
    if not messages:
        return ""
    turns = "".join(_turn(message) for message in messages)
    count = f"{len(messages)} earlier turn{'s' if len(messages) > 1 else ''}"
    return f'<details class="pl-earlier"><summary>{count}</summary>{turns}</details>'


def _turn(message: Message) -> str:
    role = escape(message["role"])
    return (
        f'<div class="pl-turn pl-{role if role in ("user", "assistant", "system") else "other"}">'
        f'<span class="pl-role">{role}</span>{render_model_text(message["content"])}</div>'
    )
