"""The page of a report: sections, tables and looks, as one HTML file that asks for nothing else. All text is escaped.

It is read on a phone, where wide tables become lists, at night, and on paper, where it is dark on white whatever the
colours on the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

UNKNOWN = ("", "–")
NARROW = 3  # columns that fit side by side on a phone


def page(title: str, *, under: str, body: str) -> str:
    """The whole file. `body` is HTML already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}: pairloop report</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_CSS}</style></head><body><main>'
        f'<h1>{escape(title)}</h1><p class="quiet">{escape(under)}</p>{body}</main></body></html>\n'
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it; nothing at all where there is nothing to say."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def paragraphs(*lines: str, kind: str = "") -> str:
    """A paragraph for each line that says something."""
    mark = f' class="{kind}"' if kind else ""
    return "".join(f"<p{mark}>{escape(line)}</p>" for line in lines if line)


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def facts_table(rows: Sequence[tuple[str, str]]) -> str:
    """Names and what there is to say of each."""
    body = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(told)}</dd></div>" for name, told in rows)
    return f"<dl>{body}</dl>" if rows else ""


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, about: str) -> str:
    """A table without the columns of which nothing is known. `about`: what it is, for who cannot see it."""
    cells = [[str(cell) for cell in row] for row in rows]
    kept = [place for place in range(len(head)) if any(row[place] not in UNKNOWN for row in cells)]
    if not kept:
        return ""
    top = "".join(f'<th scope="col">{escape(head[place])}</th>' for place in kept)
    body = "".join(f"<tr>{''.join(_cell(head[place], row[place]) for place in kept)}</tr>" for row in cells)
    wide = ' class="wide"' if len(kept) > NARROW else ""
    # A region that scrolls has to be reached by keyboard as well.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(about)}"><table{wide}><thead><tr>{top}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(name: str, told: str) -> str:
    """On a phone the cells of a wide table stand below each other, each with its column's name."""
    return f'<td data-name="{escape(name)}">{escape(told)}</td>'


_CSS = """
:root { color-scheme: light dark;
  --ink: #222; --paper: #fdfcfa; --quiet: #5c5c5c; --line: #d8d6d2; --accent: #1d6b58; --band: #b8962e; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #eee; --paper: #191918; --quiet: #aaa; --line: #444; --accent: #6cc3ab; --band: #b8962e; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; overflow-wrap: break-word; }
h1 { margin: 0; line-height: 1.25; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; }
h3 { margin: 1.5rem 0 .3rem; font-size: 1rem; }
.quiet { color: var(--quiet); margin-top: .2rem; } .note { color: var(--quiet); font-size: .9rem; }
.summary { border-left: 4px solid var(--accent); padding: .2rem 1rem; margin-top: 1.5rem; }
.summary .answer { font-size: 1.2rem; font-weight: 600; line-height: 1.4; } .summary p { margin: .5rem 0; }
dl { margin: .5rem 0; } dl div { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: .35rem 0;
  border-bottom: 1px solid var(--line); }
dt { color: var(--quiet); font-weight: 600; flex: 0 0 11rem; } dd { margin: 0; flex: 1 1 16rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .75rem 0; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; } td { min-width: 4.5rem; overflow-wrap: normal; }
figure { margin: 1rem 0 1.5rem; max-width: 46rem; } figcaption { font-weight: 600; margin-bottom: .5rem; }
figure .name { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; font-size: .9rem;
  margin-top: .6rem; }
figure .plot { padding: 0 8px; } figure .told { color: var(--quiet); }
svg { display: block; width: 100%; overflow: visible; font: 12px system-ui, sans-serif; } svg text { fill: var(--ink); }
svg .axis { fill: var(--quiet); } svg .rail { stroke: var(--line); } svg .band { fill: var(--band); opacity: .28; }
svg .whisker { stroke: var(--accent); stroke-width: 3; opacity: .55; } svg circle { fill: var(--accent); }
svg .hollow { stroke: var(--quiet); fill: var(--paper); stroke-width: 2; }
svg .way { stroke: var(--accent); stroke-width: 1.5; }
svg .middle { stroke: var(--quiet); stroke-dasharray: 4 4; } pre { white-space: pre-wrap; font: inherit; margin: 0; }
.asked { border-left: 3px solid var(--line); padding-left: .8rem; margin: 1.5rem 0 .5rem; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: .75rem; }
figure .name span, .answers pre, .asked, dd, li, .wide td { overflow-wrap: anywhere; }
.answers > div { min-width: 0; border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; }
.answers h4 { margin: 0 0 .3rem; font-size: .85rem; color: var(--quiet); }
@media screen and (max-width: 40rem) {
  .wide thead { display: none; } .wide, .wide tbody, .wide tr { display: block; }
  .wide tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .wide td { display: flex; gap: .8rem; border: 0; padding: .1rem 0; }
  .wide td::before { content: attr(data-name); flex: 0 0 8rem; color: var(--quiet); font-weight: 600; }
  .wide td:empty { display: none; }
}
@media print {
  :root { color-scheme: light;
    --ink: #000; --paper: #fff; --quiet: #444; --line: #bbb; --accent: #1d6b58; --band: #b8962e; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; } .scroll { overflow: visible; }
  h2, h3, .asked { break-after: avoid; } figure, tr, .answers > div, dl div { break-inside: avoid; }
  svg .band, svg circle { print-color-adjust: exact; }
}
"""
