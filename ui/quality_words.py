"""What the figures of quality mean, in a sentence each, and tables as people read them, for page and command."""

from __future__ import annotations

from dataclasses import dataclass

from store.agreement import LEAST_PROMPTS, LEAST_SHARED
from store.intervals import Estimate
from store.models import Role
from store.quality import FAST_CHARACTERS, AnnotatorQuality, CoupleQuality, Quality

AGREEMENT_HEAD = (
    "Annotator", "Comparisons", "Agrees with others", "Kappa", "With themselves", "Gold", "Right (estimated)",
)  # fmt: skip
HABITS_HEAD = (
    "Annotator", "Left", "Longer text", "Seconds", "Per hour", "Too fast", "Strengths 1 / 2 / 3", "Skips",
)  # fmt: skip
COUPLE_HEAD = ("Annotator", "Annotator", "Pairs", "Agree", "Kappa")
NOTHING = "–"


@dataclass(frozen=True)
class FigureWords:
    """A figure as it is shown: its value, its interval, and what both mean."""

    name: str
    value: str
    interval: str
    means: str


def overall_words(quality: Quality) -> list[FigureWords]:
    """The figures of all annotators together; one that cannot be told yet says what it needs."""
    habits = quality.habits
    return [
        _figure("Alpha", quality.alpha, _alpha_words(quality.alpha), "Pairs that two people compared", share=False),
        _figure(
            "Alpha without ties",
            quality.alpha_decided,
            "The same for verdicts that name a side: ties and both-bads are left out.",
            "Pairs on which two people named a side",
            share=False,
        ),
        _figure("Agreement", quality.agreement, _agreement_words(quality.agreement), "Pairs that two people compared"),
        _figure(
            "With themselves",
            habits.consistency,
            "How often somebody says the same when asked again, with the sides changed. Nobody can agree with others "
            "more than with themselves.",
            "Repeats",
        ),
        _figure("Gold", habits.gold, "How often the known answer was given.", "Gold pairs"),
        _figure("Left", habits.left, left_words(quality), "Verdicts that name a side"),
        _figure(
            "Longer text",
            habits.longer,
            "How often the longer text was chosen. It may well be better; a model learns to be long from it.",
            "Verdicts that name a side",
        ),
        _figure(
            "Too fast",
            habits.fast,
            f"Verdicts sooner than anybody reads: under a second, or over {FAST_CHARACTERS:.0f} characters a second. "
            "A broken text is seen at a glance, so only a large share means something.",
            "Verdicts with their time",
        ),
    ]


def _figure(name: str, found: Estimate, means: str, needs: str, *, share: bool = True) -> FigureWords:
    if found.value is None:
        why = f"{needs} are needed for this; there are none yet."
        alike = "All said alike that they like neither better: that is no telling apart from chance."
        return FigureWords(name, NOTHING, "", alike if found.count else why)
    return FigureWords(name, shown(found, share=share), interval_words(found, share=share), means)


def _alpha_words(found: Estimate) -> str:
    """What an alpha says, by Krippendorff's own thresholds (2018, section 12.4)."""
    if found.value is None:
        return ""
    scale = "1 is perfect agreement, 0 is what chance gives"
    if found.value >= 0.8:
        return f"Annotators agree well ({scale})."
    if found.value >= 0.667:
        return f"Good enough for cautious conclusions ({scale})."
    return f"Annotators see many pairs differently ({scale}); for matters of taste that is common."


def _agreement_words(found: Estimate) -> str:
    return (
        f"The share of {found.count:,} meetings of two verdicts on one pair that say the same. Between people 63% to "
        "77% is usual; no model can be expected to agree with them more."
    )


def left_words(quality: Quality) -> str:
    """Whether where a text stands sways people."""
    expected = "Sides are drawn at random, so half is what to expect"
    named = " and ".join(each.name for each in quality.annotators if each.habits.left_departs)
    if quality.habits.left_departs:
        return f"{expected}: where a text stands sways people{f', {named} above all' if named else ''}."
    return f"{expected}: nothing speaks against it{f' in all together, but look at {named}' if named else ''}."


def shown(found: Estimate, *, share: bool = True) -> str:
    """`71%`, or `0.43`."""
    if found.value is None:
        return NOTHING
    return f"{found.value:.0%}" if share else f"{found.value:.2f}"


def interval_words(found: Estimate, *, share: bool = True) -> str:
    """`64% to 77%`; why there is none, where there is none."""
    if found.value is None:
        return ""
    if found.interval is None:
        return f"no interval with fewer than {LEAST_PROMPTS} prompts"
    low, high = (f"{each:.0%}" if share else f"{each:.2f}" for each in found.interval)
    return f"{low} to {high}"


def agreement_row(each: AnnotatorQuality) -> tuple[object, ...]:
    """How far one annotator can be believed, under AGREEMENT_HEAD."""
    habits = each.habits
    return (
        named(each),
        habits.comparisons,
        shown(each.agreement),
        _with_interval(each.kappa),
        _of(habits.consistency),
        _of(habits.gold),
        right_cell(each),
    )


def right_cell(each: AnnotatorQuality) -> str:
    """`81% (74% to 87%)`, how often they are right; without an interval where nothing tells who of them is."""
    found = each.accuracy
    if not found.count:
        return NOTHING
    return f"{shown(found)} ({interval_words(found) if found.interval else 'too little to tell who is right'})"


def habits_row(each: AnnotatorQuality) -> tuple[object, ...]:
    """What sways one annotator, and how they work, under HABITS_HEAD."""
    habits = each.habits
    return (
        named(each),
        left_cell(each),
        f"{shown(habits.longer)} ({interval_words(habits.longer)})" if habits.longer.count else NOTHING,
        NOTHING if habits.seconds is None else f"{habits.seconds:.1f}",
        NOTHING if each.per_hour is None else f"{each.per_hour:,.0f}",
        shown(habits.fast),
        " / ".join(str(count) for count in habits.strengths.values()) if any(habits.strengths.values()) else NOTHING,
        habits.skips,
    )


def named(each: AnnotatorQuality) -> str:
    """An annotator, and what to know about them."""
    return each.name + (" (retracted)" if each.retracted else " (simulated)" if each.role == Role.SIMULATED else "")


def _with_interval(found: Estimate) -> str:
    """A figure that is no share, with its interval where it has one."""
    between = f" ({interval_words(found, share=False)})" if found.interval else ""
    return f"{shown(found, share=False)}{between}"


def _of(found: Estimate) -> str:
    return NOTHING if found.value is None else f"{found.value:.0%} of {found.count}"


def left_cell(each: AnnotatorQuality) -> str:
    """`62% (55% to 69%), favours left`."""
    found = each.habits.left
    if found.value is None:
        return NOTHING
    side = "left" if found.value > 0.5 else "right"
    flag = f", favours {side}" if each.habits.left_departs else ""
    return f"{shown(found)} ({interval_words(found)}){flag}"


def couple_row(each: CoupleQuality) -> tuple[object, ...]:
    """Two annotators, under COUPLE_HEAD."""
    return each.first, each.second, each.agreement.count, shown(each.agreement), _with_interval(each.kappa)


COUPLES_NEEDED = f"Two annotators are held against each other once they share {LEAST_SHARED} pairs."


def apart_words(quality: Quality) -> str:
    """What the figures leave out."""
    imported = (
        f"{quality.imported:,} imported verdicts are kept apart, and so are " if quality.imported else "Left out are "
    )
    return f"{imported}what retracted annotators said, decisions on doubtful pairs, calibration pairs and rewrites."
