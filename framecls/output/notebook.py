"""Results in notebooks: a track for each label, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from framecls.output.images import PALETTE
from framecls.results import Explanation, Identification, Segment, Shown, TagResult, TieredResult
from framecls.text import clock

_MOST_ROWS = 20  # of a table
_MOST_SPANS = 1000  # of a track, the longest
_QUIET = "#8a8a8a"


def colour_of(label: str, labels: Sequence[str]) -> str:
    """Return the colour of a label."""
    return PALETTE[labels.index(label) % len(PALETTE)] if label in labels else _QUIET


def track(spans: Sequence[Segment], start_s: float, end_s: float, labels: Sequence[str]) -> str:
    """Return a bar from `start_s` to `end_s` with segments on it, their labels where there is room."""
    length_s = max(end_s - start_s, 1e-9)
    pieces = []
    for span in sorted(spans, key=lambda span: span.start - span.end)[:_MOST_SPANS]:
        first, last = max(span.start, start_s), min(span.end, end_s)
        if last > first:
            left, width = 100 * (first - start_s) / length_s, 100 * (last - first) / length_s
            place = f"left:{left:.2f}%;width:{width:.2f}%;background:{colour_of(span.label, labels)}"
            name = escape(span.label)
            pieces.append(
                f'<span title="{name} {clock(span.start)}–{clock(span.end)}" style="{_SPAN}{place}">{name}</span>'
            )
    return f'<div class="track" style="{_TRACK}">{"".join(pieces)}</div>'


_TRACK = "position:relative;height:18px;margin-top:3px;overflow:hidden;border-radius:3px;background:#8883"
_SPAN = (
    "position:absolute;top:0;bottom:0;padding:0 3px;overflow:hidden;white-space:nowrap;color:#fff;font-size:11px;"
    "line-height:18px;box-sizing:border-box;"
)


def framed(page: str) -> str:
    """Return a page in a frame of its own, whose style and script touch nothing of a notebook around it."""
    return f'<iframe srcdoc="{escape(page)}" style="width:100%;height:85vh;border:0"></iframe>'


def explanation_html(explanation: Explanation) -> str:
    """Return an explanation as a piece of HTML."""
    from framecls.output.explanation import explanation_page

    return framed(explanation_page(explanation))


def result_html(result: Shown) -> str:
    """Return a result as a piece of HTML."""
    if isinstance(result, Identification):
        answer = result.label if result.reason is None else f"{result.label}: {result.reason}"
        rows = [(c.label, f"{c.score:.3f}") for c in result.top]
        return _block(f"{result.file}: {answer}", "", ("Label", "Score"), rows, len(rows))
    if isinstance(result, TieredResult):
        return "".join(map(result_html, result.tiers))
    assert isinstance(result, TagResult)
    named = list(result.labels) if result.overlapping else [""]
    tracks = []
    for name in named[:_MOST_ROWS]:
        spans = [s for s in result.segments if not result.overlapping or s.label == name]
        tracks.append(track(spans, 0.0, result.duration, result.labels))
    table = [(clock(s.start), clock(s.end), s.label, f"{s.score:.2f}") for s in result.segments[:_MOST_ROWS]]
    title = f"{result.file}   {clock(result.duration, 1)}   {result.model}"
    return _block(title, "".join(tracks), ("Start", "End", "Label", "Score"), table, len(result.segments))


def _block(title: str, tracks: str, titles: Sequence[str], rows: Sequence[Sequence[str]], n_rows: int) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in titles)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    more = f"<p>… {n_rows - len(rows):,} more</p>" if n_rows > len(rows) else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    return f'<div style="max-width:1000px"><b>{escape(title)}</b>{tracks}{table}</div>'
