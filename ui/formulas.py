"""LaTeX in model text as pictures that are part of the page: nothing is fetched, and nothing in them can run."""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin

SIZE = 17  # pixels, a little above the text's own: a formula's letters look smaller
LONGEST = 2_000  # characters drawn as a formula


def read_formulas(parser: MarkdownIt) -> MarkdownIt:
    r"""Let this parser know `$x$`, `$$x$$`, `\(x\)` and `\[x\]`. Prices ("$5, not $6") stay what they are."""
    parser.use(texmath_plugin, delimiters="brackets")
    parser.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    parser.inline.ruler.before("escape", "bracket_display", _within_paragraph)
    for kind in (
        "math_inline",
        "math_inline_double",
        "math_block",
        "math_block_eqno",
        "math_block_label",
        "math_single",
    ):
        parser.add_render_rule(kind, _as_rule)
    return parser


def _within_paragraph(state: StateInline, silent: bool) -> bool:
    r"""`\[x\]` in the middle of a paragraph, where the plugin knows it only between blank lines."""
    if not state.src.startswith(r"\[", state.pos):
        return False
    end = state.src.find(r"\]", state.pos)
    if end < 0:
        return False
    if not silent:
        state.push("math_inline", "math", 0).content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _as_rule(_renderer: Any, tokens: list[Token], index: int, _options: Any, _env: Any) -> str:
    token = tokens[index]
    return draw_formula(token.content.strip(), block=token.type.startswith("math_block"))


def draw_formula(latex: str, *, block: bool = False) -> str:
    """The formula as an image whose text alternative is its source; the source itself where it cannot be drawn."""
    drawn = _as_svg(latex) if latex and len(latex) <= LONGEST else None
    if drawn is None:
        return f"<code>{escape(latex)}</code>"
    svg, below = drawn
    source = b64encode(svg.encode()).decode()
    image = (
        f'<img class="pl-math" alt="{escape(latex)}" title="{escape(latex)}" style="vertical-align:{below:.1f}px" '
        f'src="data:image/svg+xml;base64,{source}">'
    )
    return f"<p>{image}</p>" if block else image


@lru_cache(maxsize=512)
def _as_svg(latex: str) -> tuple[str, float] | None:
    import ziamath  # most texts hold no formula

    try:
        drawn = ziamath.Latex(latex, size=SIZE)
        return drawn.svg(), float(drawn.getyofst())
    except Exception:  # whatever a model wrote between two dollars: it says what it trips over in many ways
        return None
