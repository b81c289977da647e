"""Parts of a page that stands alone: HTML with its style, no script of others, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --quiet: #59636e; --line: #d1d9e0; --panel: #f6f8fa;
  --accent: #0969da; --bad: #cf222e; --cell: 9, 105, 218; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --quiet: #9198a1; --line: #3d444d;
  --panel: #151b23; --accent: #4493f8; --bad: #f85149; --cell: 68, 147, 248; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h3 { font-size: .95rem; margin: .75rem 0 .25rem; } p { margin: .4rem 0; max-width: 75ch; }
.quiet, figcaption { color: var(--quiet); font-size: .85rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.card, figure { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .75rem; margin: 0;
  min-width: 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 500; color: var(--quiet); }
table.prose :is(td, th):nth-child(2) { text-align: left; white-space: normal; min-width: 15rem; }
table.matrix td { border: 1px solid var(--line); text-align: center; min-width: 2.6rem; }
img.heat { display: block; width: 100%; image-rendering: pixelated; border-radius: 3px; }
img.sound { display: block; width: 100%; height: 90px; border-radius: 3px; }
svg { display: block; width: 100%; max-width: 30rem; height: auto; }
svg text { fill: var(--quiet); font: 11px system-ui, sans-serif; }
svg .axis { stroke: var(--line); fill: none; } audio { width: 100%; height: 36px; margin-top: .4rem; }
.ends { display: flex; justify-content: space-between; max-width: none; }
.mark { position: absolute; top: 0; bottom: 0; border: 1px solid #3fb950; }
.timeline { position: relative; } .head { position: absolute; top: 0; bottom: 0; width: 2px; background: #fff;
  mix-blend-mode: difference; left: 0; display: none; }
.track { position: relative; height: 20px; margin-top: 3px; background: var(--paper); border: 1px solid var(--line);
  border-radius: 3px; overflow: hidden; }
.track span { position: absolute; top: 0; bottom: 0; font-size: 11px; line-height: 18px; padding: 0 3px; color: #fff;
  overflow: hidden; white-space: nowrap; text-overflow: clip; }
.key { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .3em; }
"""


def make_page(title: str, body: Iterable[str], script: str = "") -> str:
    """Return a whole page.

    Args:
        title: text.
        body: pieces of HTML.
        script: JavaScript of the page's own.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(body)
        + (f"\n<script>{script}</script>" if script else "")
        + "\n</body>\n</html>\n"
    )


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of a class of the page's style."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, prose: bool = False) -> str:
    """Return a table that scrolls where the page is narrow.

    Args:
        titles: of the columns; the first one names the row.
        rows: text.
        prose: the second column has sentences.
    """
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="prose"' if prose else ""
    return f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(uri: str, caption: str, kind: str = "heat", style: str = "") -> str:
    """Return a picture with its caption."""
    image = f'<img class="{kind}" alt="{escape(caption)}" src="{uri}"' + (f' style="{style}"' if style else "") + ">"
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def grid(parts: Iterable[str]) -> str:
    """Return parts beside each other, as many as there is room for."""
    return f'<div class="grid">{"".join(parts)}</div>'
