"""The figures of a report, drawn in HTML and SVG alone: shares from 0 to 1 with their intervals.

Places along a figure are given in percent of its width, so that it is as wide as the page while its letters keep their
size; names stand on lines of their own, however long they are. What is drawn is also told in words beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from ui.story import percent

Span = tuple[float, float]
NEAR = 13.0  # percent of the width: on a phone, letters of two points that are nearer would lie on each other


@dataclass(frozen=True)
class Line:
    """A line of a figure: a share with its interval; what it was `before`, and a `band` to hold it against."""

    name: str
    value: float
    interval: Span
    before: float | None = None
    band: Span | None = None

    @property
    def told(self) -> str:
        """The figure in words: `50% → 67% (51% to 81%)`."""
        before = "" if self.before is None else f"{percent(self.before)} → "
        return before + _told(self.value, self.interval)


def _told(value: float, interval: Span) -> str:
    return f"{percent(value)} ({percent(interval[0])} to {percent(interval[1])})"


def interval_figure(lines: Sequence[Line], *, middle: float, title: str) -> str:
    """A dot with its interval for each line, from 0 to 100%; `middle` is drawn through all of them."""
    drawn = "".join(
        f'<div class="name"><span>{escape(line.name)}</span><span class="told">{line.told}</span></div>'
        f'<div class="plot"><svg height="22" aria-hidden="true">{_line(line, middle)}</svg></div>'
        for line in lines
    )
    ends = "".join(
        f'<text x="{100 * share:g}%" y="12" text-anchor="{anchor}" class="axis">{percent(share)}</text>'
        for share, anchor in ((0.0, "start"), (middle, "middle"), (1.0, "end"))
    )
    axis = f'<div class="plot"><svg height="16" aria-hidden="true">{ends}</svg></div>'
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}{axis}</figure>"


def _line(line: Line, middle: float) -> str:
    low, high = line.interval
    parts = ['<line x1="0%" x2="100%" y1="11" y2="11" class="rail"/>']
    if line.band is not None:
        left, right = line.band
        parts.append(
            f'<rect x="{100 * left:.2f}%" width="{100 * (right - left):.2f}%" y="1" height="20" class="band"/>'
        )
    parts.append(f'<line x1="{100 * middle:.2f}%" x2="{100 * middle:.2f}%" y1="0" y2="22" class="middle"/>')
    parts.append(f'<line x1="{100 * low:.2f}%" x2="{100 * high:.2f}%" y1="11" y2="11" class="whisker"/>')
    if line.before is not None:
        parts.append(f'<circle cx="{100 * line.before:.2f}%" cy="11" r="4.5" class="hollow"/>')
    return "".join([*parts, f'<circle cx="{100 * line.value:.2f}%" cy="11" r="5"/>'])


@dataclass(frozen=True)
class Reached:
    """How good a checkpoint is, and how many labels that took. `went_on`: it served, so that the next came from it."""

    name: str
    labels: int
    value: float
    interval: Span
    went_on: bool

    @property
    def told(self) -> str:
        """The figure in words: `67% (51% to 81%)`."""
        return _told(self.value, self.interval)


LEFT, RIGHT = 12.0, 92.0  # percent of the width between which labels are laid out: names need room beside
TOP, BOTTOM = 26, 206  # pixels: 100% and 0%


def progress_figure(points: Sequence[Reached], *, title: str) -> str:
    """Shares over labels spent, from the base (half, at none) on; a line joins those that served."""
    most = max([1, *(point.labels for point in points)])

    def x(labels: int) -> float:
        return LEFT + (RIGHT - LEFT) * labels / most

    places = [x(point.labels) for point in points]
    joined = [(x(0), 0.5), *((x(point.labels), point.value) for point in points if point.went_on)]
    way = "".join(
        f'<line x1="{one:.2f}%" y1="{_y(here):.1f}" x2="{other:.2f}%" y2="{_y(there):.1f}" class="way"/>'
        for (one, here), (other, there) in pairwise(joined)
    )
    dots = "".join(_point(point, place) for point, place in zip(points, places, strict=True))
    start = f'<circle cx="{x(0):.2f}%" cy="{_y(0.5):.1f}" r="5"/>' + _text(x(0), _y(0.5) + 20, "base")
    names = _spread(_named(points, places))
    ticks = _spread([(x(0), BOTTOM + 16.0, "0"), *_counted(points, places)], kind="axis")
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="plot"><svg height="{BOTTOM + 38}" '
        f'aria-hidden="true">{_grid()}{way}{dots}{start}{names}{ticks}<text x="{(LEFT + RIGHT) / 2}%" '
        f'y="{BOTTOM + 34}" text-anchor="middle" class="axis">labels spent before it was trained</text></svg></div>'
        "</figure>"
    )


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * share


def _grid() -> str:
    return "".join(
        f'<line x1="0%" x2="100%" y1="{_y(share):g}" y2="{_y(share):g}" class="{kind}"/>'
        f'<text x="0%" y="{_y(share) - 4:g}" class="axis">{percent(share)}</text>'
        for share, kind in ((1.0, "rail"), (0.5, "middle"), (0.0, "rail"))
    )


def _point(point: Reached, place: float) -> str:
    low, high = point.interval
    kind = "" if point.went_on else ' class="hollow"'
    return (
        f'<line x1="{place:.2f}%" x2="{place:.2f}%" y1="{_y(low):.1f}" y2="{_y(high):.1f}" class="whisker"/>'
        f'<circle cx="{place:.2f}%" cy="{_y(point.value):.1f}" r="5"{kind}/>'
    )


def _named(points: Sequence[Reached], places: Sequence[float]) -> list[tuple[float, float, str]]:
    """Above the upper end of each interval."""
    return [(place, _y(point.interval[1]) - 6, point.name) for point, place in zip(points, places, strict=True)]


def _counted(points: Sequence[Reached], places: Sequence[float]) -> list[tuple[float, float, str]]:
    return [(place, BOTTOM + 16.0, f"{point.labels:,}") for point, place in zip(points, places, strict=True)]


def _spread(texts: Sequence[tuple[float, float, str]], *, kind: str = "") -> str:
    """Texts at their places; one too near to the text before it is left out, and can be read in the table."""
    drawn, last = [], -100.0
    for place, y, text in sorted(texts):
        if place - last >= NEAR:
            drawn.append(_text(place, y, text, kind))
            last = place
    return "".join(drawn)


def _text(place: float, y: float, text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<text x="{place:.2f}%" y="{y:.1f}" text-anchor="middle"{mark}>{escape(text)}</text>'
