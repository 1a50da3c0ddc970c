"""A report's figures: everything lies where its figure says, whole names are read, and colours hold on paper."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from ui.report_figures import BOTTOM, LEFT, RIGHT, TOP, Line, Reached, interval_figure, progress_figure
from ui.report_page import page, table

Drawing = ElementTree.Element


def drawn(html: str) -> tuple[Drawing, list[Drawing]]:
    """The figure, and its drawings."""
    figure = ElementTree.fromstring(html)
    return figure, list(figure.iter("svg"))


def of_class(drawing: Drawing, name: str) -> Drawing:
    (found,) = (each for each in drawing.iter() if each.get("class") == name)
    return found


def share(drawing: Drawing, name: str) -> float:
    text = drawing.get(name) or ""
    assert text.endswith("%")
    return float(text[:-1]) / 100


def test_each_interval_lies_where_it_is() -> None:
    line = Line("a & b", 0.5, (0.25, 1.0), before=0.4, band=(0.6, 0.7))
    figure, (svg, _) = drawn(interval_figure([line], middle=0.5, title="T"))
    whisker, band = of_class(svg, "whisker"), of_class(svg, "band")
    assert (share(whisker, "x1"), share(whisker, "x2")) == (0.25, 1.0)
    assert share(of_class(svg, "middle"), "x1") == 0.5 and share(of_class(svg, "hollow"), "cx") == 0.4
    assert (share(band, "x"), share(band, "width")) == (0.6, pytest.approx(0.1))
    assert share(next(each for each in svg.iter("circle") if each.get("class") is None), "cx") == 0.5
    assert "a & b" in "".join(figure.itertext()) and "40% → 50% (25% to 100%)" in "".join(figure.itertext())


def test_a_long_name_stands_on_a_line_of_its_own() -> None:
    name = "round-12-learning_rate-0.000005-beta-0.3 against round-11-learning_rate-0.000001-beta-0.1"
    figure, drawings = drawn(interval_figure([Line(name, 0.5, (0.4, 0.6))], middle=0.5, title="T"))
    assert name in "".join(figure.itertext())
    assert not any(name in "".join(each.itertext()) for each in drawings), "it may break its line, as no SVG does"


def test_progress_is_drawn_from_the_base_on() -> None:
    points = [
        Reached("round-1", 50, 0.75, (0.5, 1.0), went_on=True),
        Reached("round-2", 100, 0.6, (0.4, 0.8), went_on=False),
        Reached("round-3", 200, 1.0, (0.9, 1.0), went_on=True),
    ]
    _, (svg,) = drawn(progress_figure(points, title="T"))
    dots = {each.get("cx"): float(each.get("cy") or 0) for each in svg.iter("circle")}
    span, height = RIGHT - LEFT, BOTTOM - TOP
    assert dots == {
        f"{LEFT:.2f}%": BOTTOM - height / 2,
        f"{LEFT + span / 4:.2f}%": BOTTOM - 0.75 * height,
        f"{LEFT + span / 2:.2f}%": pytest.approx(BOTTOM - 0.6 * height),
        f"{RIGHT:.2f}%": TOP,
    }
    way = [each for each in svg.iter("line") if each.get("class") == "way"]
    assert [each.get("x2") for each in way] == [f"{LEFT + span / 4:.2f}%", f"{RIGHT:.2f}%"], "what served is joined"
    assert all((one.get("x2"), one.get("y2")) == (next_.get("x1"), next_.get("y1")) for one, next_ in pairwise(way))
    assert share(of_class(svg, "hollow"), "cx") == pytest.approx((LEFT + span / 2) / 100)


def test_names_that_would_lie_on_each_other_are_left_to_the_table() -> None:
    points = [Reached(f"round-{n}", n, 0.5, (0.4, 0.6), went_on=True) for n in range(1, 61)]
    _, (svg,) = drawn(progress_figure(points, title="T"))
    names = [float((each.get("x") or "")[:-1]) for each in svg.iter("text") if "round-" in (each.text or "")]
    assert 3 <= len(names) <= 8 and all(other - one >= 13 for one, other in pairwise(names))


def test_on_paper_every_colour_is_set_again() -> None:
    """Else what is light in the dark is light on white."""
    html = page("T", under="", body="")
    colours = [set(re.findall(r"(--\w+):", block)) for block in re.findall(r":root \{(.*?)\}", html, re.S)]
    assert len(colours) == 3 and colours[0] == colours[1] == colours[2] != set()
    assert html.index("@media print") > html.index("prefers-color-scheme: dark"), "the later one holds"


def test_columns_of_which_nothing_is_known_are_left_out() -> None:
    html = table(("A", "B", "C"), [("1", "–", ""), ("2", "", "<x>")], about="T")
    assert '<th scope="col">A</th>' in html and ">B<" not in html and "&lt;x&gt;" in html
    assert table(("A", "B"), [("–", "")], about="T") == ""
