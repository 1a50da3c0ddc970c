"""The theme's colours: whatever is read has the contrast that WCAG 2.2 (AA) asks for, by day and by night."""

from __future__ import annotations

import re

import pytest

from ui import theme

ENOUGH = 4.5
WHITE = "#ffffff"
SCHEMES = {
    "light": (theme.INK, theme.PAPER, theme._LIGHT["secondaryBackgroundColor"]),
    "dark": (theme.NIGHT_INK, theme.NIGHT, theme._DARK["secondaryBackgroundColor"]),
}


def channels(colour: str) -> list[float]:
    return [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def luminance(colour: list[float]) -> float:
    """WCAG's relative luminance."""
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(text: str, ground: str, opacity: float = 1.0) -> float:
    """WCAG's contrast of a text that lets some of the ground through."""
    below = channels(ground)
    seen = [opacity * over + (1 - opacity) * under for over, under in zip(channels(text), below, strict=True)]
    brighter, darker = sorted((luminance(seen), luminance(below)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_black_on_white_is_the_most_there_is() -> None:
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#777777", WHITE) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quiet_text_can_be_read(scheme: str) -> None:
    ink, *grounds = SCHEMES[scheme]
    opacities = [float(found) for found in re.findall(r"opacity: ([.\d]+)", theme._CSS)]
    assert min(opacities) < 1
    assert min(contrast(ink, ground, opacity) for ground in grounds for opacity in opacities) >= ENOUGH


@pytest.mark.parametrize("selector", ['div[data-testid="stCaptionContainer"]', ".stButton button kbd"])
def test_what_streamlit_draws_too_faintly_is_mended(selector: str) -> None:
    assert contrast(theme.INK, theme.PAPER, 0.6) < ENOUGH
    assert f"{selector} {{ opacity:" in theme._CSS


@pytest.mark.parametrize("accent", [theme.ACCENT, theme.NIGHT_ACCENT])
def test_a_primary_button_and_its_key_hint_can_be_read(accent: str) -> None:
    assert ".stButton button kbd { opacity: 1; }" in theme._CSS
    assert contrast(WHITE, accent) >= ENOUGH


def test_the_active_tab_and_section_can_be_read() -> None:
    (drawn,) = re.findall(r"((?:^[^\n{}]+,\n)+[^\n{}]+) \{ color: var\(--pl-accent\); \}", theme._CSS, re.MULTILINE)
    assert ":is([data-selected], [data-hovered], [data-focus-visible])" in drawn
    assert '[data-variant="segmented_control"][data-selected] p' in drawn
    pairs = re.findall(r"--pl-accent: (#\w{6}); --pl-paper: (#\w{6})", theme._CSS)
    assert [contrast(*pair) >= ENOUGH for pair in pairs] == [True, True]
