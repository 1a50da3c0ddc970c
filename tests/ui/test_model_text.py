"""Whatever a model writes is shown, and does nothing."""

from __future__ import annotations

import time
from base64 import b64decode
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ui.model_text import message_markdown, render_model_text, render_prompt

TAGS = {
    *("div", "p", "br", "hr", "em", "strong", "s", "code", "pre", "ul", "ol", "li", "blockquote", "h4"),
    *("table", "thead", "tbody", "tr", "th", "td", "span", "img"),
}
ATTRIBUTES = {"class", "dir", "start", "style", "tabindex", "alt", "title", "src"}
FORMULA = "data:image/svg+xml;base64,"


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
        "It costs $5, not $6, and $ 7 $ too",
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


@pytest.mark.parametrize("text", ["$x^2$", "$$x^2$$", r"\(x^2\)", r"so \[x^2\] it is", "so\n\\[\nx^2\n\\]\nis"])
def test_formulas_are_drawn_and_say_their_source(text: str) -> None:
    seen = Seen(render_model_text(text))
    assert {source.strip() for source in seen.attributes["alt"]} == {"x^2"}
    [picture] = seen.attributes["src"]
    assert b"<svg" in b64decode(picture.removeprefix(FORMULA))


@pytest.mark.parametrize("text", [r"$\begin{nonsense}$", "$" + "x" * 3_000 + "$"])
def test_a_formula_that_cannot_be_drawn_is_shown_as_it_is_written(text: str) -> None:
    seen = Seen(render_model_text(text))
    assert seen.text.strip() == text.strip("$") and "code" in seen.tags


def test_numbered_formulas_are_drawn() -> None:
    assert "img" in Seen(render_model_text("so\n\n$$x^2$$ (2)\n")).tags


@pytest.mark.parametrize(
    "text", ["\\(" * 50_000, "$$a\n\n" * 16_000, "\\[x\n\n" * 16_000, "```perl\n" + "s{" * 15_000, "$x$ " * 1_500]
)
def test_no_text_keeps_the_page_waiting(text: str) -> None:
    began = time.process_time()
    render_model_text(text)
    assert time.process_time() - began < 10, "it took minutes; a second is usual"


def test_code_is_in_colours_where_its_language_is_known() -> None:
    known, unknown = (Seen(render_model_text(f"```{name}\nimport os\n```")) for name in ("python", "klingon"))
    assert "span" in known.tags and "span" not in unknown.tags
    assert known.text == unknown.text


def test_earlier_turns_of_a_long_prompt_are_folded() -> None:
    turns = [{"role": ("user", "assistant")[at % 2], "content": f"Turn {at}."} for at in range(6)]
    html = render_prompt(turns)
    folded, _, shown = html.partition("</details>")
    assert "3 earlier turns" in folded
    assert ("Turn 2." in folded, "Turn 3." in folded, "Turn 3." in shown) == (True, False, True)
    assert "<details" not in render_prompt(turns[:3])


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
    *("$", "$$", "\\(", "\\)", "\\[", "\\]", "\\text{", "\\href{javascript:x}{", "}", "```python\n"),
    *("\x00", "\ud800", "\u202e"),
)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=30).map("".join))
def test_only_known_tags_and_attributes_ever_come_out(text: str) -> None:
    for html in (render_model_text(text), render_prompt([{"role": "user", "content": text}] * 2)):
        seen = Seen(html.removeprefix("<div class"))
        assert seen.tags <= TAGS
        assert set(seen.attributes) <= ATTRIBUTES | {"role", "aria-label"}
        assert all(style.startswith(("text-align:", "vertical-align:")) for style in seen.attributes.get("style", ()))
        assert all(picture.startswith(FORMULA) for picture in seen.attributes.get("src", ()))
        html.encode()


@given(
    st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map(
        lambda parts: "".join("".join(parts).split("\n"))
    )
)
def test_a_message_with_any_name_in_it_links_to_nothing_and_loads_nothing(name: str) -> None:
    said = message_markdown(f"{name!s} is not active. `pairloop annotators --reactivate` lets {name} come again.")
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(said)
    assert Seen(html).tags <= {"p", "code", "ol", "ul", "li", "pre"}


def test_a_message_keeps_its_code_and_its_words() -> None:
    said = "'Lea (*)' is not active: `pairloop annotators --reactivate [x]` lets them come again, says `me."
    html = MarkdownIt("commonmark").render(message_markdown(said))
    assert "<code>pairloop annotators --reactivate [x]</code>" in html
    assert html.startswith("<p>'Lea (*)' is not active: ") and html.endswith("says `me.</p>\n")
