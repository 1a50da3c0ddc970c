"""Whatever a model writes is shown, and does nothing."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ui.model_text import render_model_text, render_prompt

TAGS = {
    *("div", "p", "br", "hr", "em", "strong", "s", "code", "pre", "ul", "ol", "li", "blockquote", "h4"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"class", "dir", "start", "style"}


class Seen(HTMLParser):
    """Which tags and attributes a browser would see, and which text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![](https://tracker.example/pixel.png)",
        "[click](javascript:alert(1))",
        "[click](https://phish.example)",
        "<https://phish.example>",
        "[a]: https://phish.example\n\n[a]",
        "$\\frac{1}{2}$ costs $5, not $6",
        ":red[stop] :material/home: :smile:",
        "`<b>` & &lt;b&gt;",
    ],
)
def test_what_is_no_structure_stays_as_it_is_written(text: str) -> None:
    seen = Seen(render_model_text(text))
    assert seen.tags <= TAGS
    shown = seen.text.replace("\n", "")
    assert shown == text.replace("\n", "").replace("`", "").replace("&lt;", "<").replace("&gt;", ">").replace(
        "\\f", "\\f"
    )


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("**bold**", "strong"),
        ("- a\n- b", "ul"),
        ("3. a\n4. b", "ol"),
        ("```python\nx = 1\n```", "pre"),
        ("| a |\n| --- |\n| b |", "table"),
        ("# Title", "h4"),
        ("one\ntwo", "br"),
    ],
)
def test_structure_is_drawn(text: str, tag: str) -> None:
    assert tag in Seen(render_model_text(text)).tags


def test_code_keeps_its_spaces() -> None:
    assert "if a:\n    b" in Seen(render_model_text("```\nif a:\n    b\n```")).text


def test_no_text_is_said_to_be_none() -> None:
    assert "(no text)" in render_model_text("  \n")


def test_a_huge_text_is_shown_plain() -> None:
    seen = Seen(render_model_text("<b>" * 50_000))
    assert seen.tags == {"div", "pre"}
    assert seen.text == "<b>" * 50_000


PIECES = (
    *(
        "<script>",
        "</div>",
        "<img src=x onerror=y>",
        "![](http://t)",
        "[x](javascript:y)",
        "&lt;",
        "&#x3c;",
        "<!--",
        "]]>",
    ),
    *("`", "```", "|", "---", ":---:", "#", ">", "- ", "1. ", "*", "~~", "\n", '"', "'", "style="),
    *("\x00", "\ud800", "\u202e"),
)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=30).map("".join))
def test_only_known_tags_and_attributes_ever_come_out(text: str) -> None:
    for html in (render_model_text(text), render_prompt([{"role": "user", "content": text}] * 2)):
        seen = Seen(html.removeprefix("<div class"))
        assert seen.tags <= TAGS | {"span"}
        assert set(seen.attributes) <= ATTRIBUTES | {"role", "aria-label", "tabindex"}
        assert all(style.startswith("text-align:") for style in seen.attributes.get("style", set()))
        html.encode()
