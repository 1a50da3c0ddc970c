"""What only one of two texts has is marked, and nothing of either text is lost."""

from __future__ import annotations

from html import unescape
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ui.word_difference import mark_difference


class Read(HTMLParser):
    """The whole text, and the part of it that is marked."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.whole, self.marked, self.tags, self._in_mark = "", "", set[str](), False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._in_mark = tag == "mark"

    def handle_endtag(self, tag: str) -> None:
        self._in_mark = False

    def handle_data(self, data: str) -> None:
        self.whole += data
        self.marked += data if self._in_mark else ""


def read(left: str, right: str) -> tuple[Read, Read]:
    marked = mark_difference(left, right)
    assert marked is not None
    return Read(marked[0]), Read(marked[1])


def test_the_words_that_differ_are_marked() -> None:
    left, right = read("Water the basil daily.", "Water the basil twice a week.")
    assert (left.marked, right.marked) == ("daily", "twice a week")


def test_html_stays_text() -> None:
    left, right = read("<b>bold</b>", "<script>alert(1)</script>")
    assert left.tags | right.tags == {"div", "mark"}
    assert unescape(right.whole) == "<script>alert(1)</script>"


words = st.lists(st.sampled_from(["a", "b", "cat", " ", "\n", ".", "<i>", "é"]), max_size=30).map("".join)


@given(words, words)
def test_nothing_is_lost_and_what_is_not_marked_is_the_same(left: str, right: str) -> None:
    first, second = read(left, right)
    assert (first.whole, second.whole) == (left.strip(), right.strip())
    shared = [len("".join(each.whole.split())) - len("".join(each.marked.split())) for each in (first, second)]
    assert shared[0] == shared[1]
    if left.strip() == right.strip():
        assert first.marked == second.marked == ""


def test_texts_too_long_to_compare_are_said_to_be() -> None:
    assert mark_difference("word " * 2_000, "other " * 2_000) is None
