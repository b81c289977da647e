"""Line charts as SVG, in the colours of the page that they stand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from framecls.output.images import PALETTE

_WIDTH, _HEIGHT = 340, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 12, 10, 34
_MOST_NAMED = 8  # lines that a legend has room for


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    points: Sequence[tuple[float, float]]
    name: str = ""
    colour: int = 0  # of the palette
    dotted: bool = False
    marked: bool = False  # each point is drawn


@dataclass(frozen=True)
class Axis:
    """What an axis shows, from where to where; None: as the lines need it."""

    name: str
    first: float | None = None
    last: float | None = None
    whole: bool = False  # only whole numbers have a meaning


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return a figure with lines, a grid of round numbers and, for a few lines with names, a legend."""
    points = np.array([point for line in lines for point in line.points if np.isfinite(point).all()] or [(0.0, 0.0)])
    low = [axis.first if axis.first is not None else float(points[:, i].min()) for i, axis in enumerate((x, y))]
    high = [axis.last if axis.last is not None else float(points[:, i].max()) for i, axis in enumerate((x, y))]
    high = [top if top > bottom else bottom + 1 for bottom, top in zip(low, high, strict=True)]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - low[0]) / (high[0] - low[0]) * (_WIDTH - _LEFT - _RIGHT)
        up = (point[1] - low[1]) / (high[1] - low[1]) * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _HEIGHT - _BOTTOM - up

    parts = []
    for value in _ticks(low[0], high[0]):
        if x.whole and value % 1:
            continue
        across, _ = place((value, low[1]))
        parts.append(f'<line class="axis" x1="{across:.1f}" x2="{across:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text x="{across:.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{value:g}</text>')
    for value in _ticks(low[1], high[1]):
        _, up = place((low[0], value))
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up:.1f}" y2="{up:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x.name)}</text>')
    parts += [_draw(line, [place(point) for point in line.points if np.isfinite(point).all()]) for line in lines]
    named = [line for line in lines if line.name]
    legend = " ".join(
        f'<span style="white-space:nowrap"><i class="key" style="background:{PALETTE[line.colour % len(PALETTE)]}"></i>'
        f"{escape(line.name)}</span>"
        for line in named[:_MOST_NAMED]
    )
    legend += f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
        f"<figcaption>{escape(title)}{'<br>' if legend else ''}{legend}</figcaption></figure>"
    )


def _draw(line: Line, places: Sequence[tuple[float, float]]) -> str:
    colour = PALETTE[line.colour % len(PALETTE)]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    style = f'fill="none" stroke="{colour}" stroke-width="{1 if line.dotted else 2}"'
    style += ' stroke-dasharray="4 4"' if line.dotted else ""
    dots = [f'<circle cx="{a:.1f}" cy="{u:.1f}" r="3" fill="{colour}"/>' for a, u in places] if line.marked else []
    return f'<polyline points="{path}" {style}><title>{escape(line.name)}</title></polyline>' + "".join(dots)


def _ticks(low: float, high: float) -> list[float]:
    """Return four or so round numbers from `low` to `high`."""
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next((factor for factor in (1, 2, 2.5, 5) if factor * power >= rough), 10)
    first = int(np.ceil(low / step - 1e-9))
    return [round(index * step, 10) for index in range(first, int(np.floor(high / step + 1e-9)) + 1)]
