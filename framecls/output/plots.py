"""Figures by matplotlib: timelines, answers, explanations and ladders, as wide as a page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from framecls import packages
from framecls.config import UNKNOWN, ReadOptions
from framecls.errors import FrameclsError
from framecls.output.images import PALETTE, QUIET_LABELS, mel_levels
from framecls.output.strip import STEPS_S, outline_of
from framecls.report import TrainingPoint
from framecls.results import AudioInfo, Explanation, Identification, Shown, TagResult, TieredResult, add_up
from framecls.text import clock, escape

if TYPE_CHECKING:
    from framecls.audio import Source

_WIDTH_IN = 10.0
_DPI = 150
_MOST_TICKS = 10
_N_COLUMNS = 1500  # of what is drawn over time: as many as the page has pixels for
_SPECTROGRAM_S = 300.0  # a longer recording is drawn as its waveform
_MOST_ROWS = 12  # labels that get a track each
_MOST_RATE_HZ = 48000
# Of a spectrogram, which would be most of the bytes of a picture otherwise.
_N_SHADES, _N_TIMES = 16, 750
_N_HEIGHTS = 32  # of a track
_QUIET = "#8a8a8a"


def require_matplotlib(purpose: str) -> None:
    """Raise if matplotlib is not installed.

    Raises:
        PackageError: it is not.
    """
    packages.require(purpose, "matplotlib")


def new_figure(height_in: float, width_in: float = _WIDTH_IN) -> Any:
    """Return an empty figure, which a notebook shows.

    Raises:
        PackageError: matplotlib is not installed, or does not load.
    """
    figures = packages.load("a figure", "matplotlib.figure")

    class Picture(figures.Figure):  # type: ignore[name-defined,misc]
        """A figure of no window and no state of pyplot."""

        def _repr_png_(self) -> bytes:
            from io import BytesIO

            stream = BytesIO()
            save(self, stream, "png")
            return stream.getvalue()

    return Picture(figsize=(width_in, height_in), dpi=_DPI, layout="constrained")


def save(figure: Any, stream: IO[bytes], format: str) -> None:
    """Write a figure, without the time at which it was drawn."""
    matplotlib = packages.load("a figure", "matplotlib")
    metadata = {"Date": None} if format == "svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "framecls", "svg.fonttype": "none"}):
        figure.savefig(stream, format=format, metadata=metadata, facecolor="white")


def plot(result: Shown, audio: Source | None, sample_rate: int | None) -> Any:
    """Return the figure of one result; the arguments are those of `Shown.plot`."""
    if isinstance(result, Identification):
        return identify_figure([result])
    assert isinstance(result, TagResult | TieredResult)
    tiers = list(result.tiers) if isinstance(result, TieredResult) else [result]
    sound = result.file if audio is None else audio
    return tag_figure(tiers, [sound, *[None] * (len(tiers) - 1)], sample_rate)


def tag_figure(results: Sequence[TagResult], sounds: Sequence[Source | None], sample_rate: int | None = None) -> Any:
    """Return a figure of timelines, one below the other: the sound, and under it a track for each label.

    Args:
        results: of `tag`.
        sounds: for each its recording; None, or what cannot be read again: it is left out.
        sample_rate: Hz, of sounds that are arrays.
    """
    pictures = [_read_sound(*pair, sample_rate) for pair in zip(results, sounds, strict=True)]
    rows = [_track_labels(result) for result in results]
    heights = []
    for picture, labels in zip(pictures, rows, strict=True):
        heights += [1.1] if picture is not None else []
        heights.append(0.25 + 0.26 * len(labels))
    figure = new_figure(0.3 * len(results) + sum(heights) + 0.35 * len(heights))
    axes = iter(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    for result, picture, labels in zip(results, pictures, rows, strict=True):
        first = top = next(axes)
        if picture is not None:
            picture(top, result.duration)
            _mark_time(top, 0, result.duration)
            top.tick_params(labelbottom=False)
            first = next(axes)
        _draw_tracks(first, result, labels)
        top.set_title(escape(result.file), loc="left", fontsize=10, fontweight="bold", parse_math=False)
        top.set_title(f"{escape(result.model)}   {clock(result.duration, 1)}", loc="right", fontsize=8, color=_QUIET)
    return figure


def _read_sound(
    result: TagResult, source: Source | None, sample_rate: int | None
) -> Callable[[Any, float], None] | None:
    """Return what draws the sound of a recording, or None if it cannot be read."""
    from framecls.audio import open_audio

    if source is None or result.duration <= 0 or (isinstance(source, str) and not os.path.isfile(source)):
        return None  # such as standard input, which has gone by
    channel = None if result.channel is None else str(result.channel)
    info = result.audio or AudioInfo(16000, 1)
    rate = min(info.sample_rate, _MOST_RATE_HZ)
    parts = []
    with contextlib.suppress(FrameclsError, OSError):
        with open_audio(source, rate, sample_rate, ReadOptions(channel=channel)) as stream:
            if result.duration <= _SPECTROGRAM_S:
                samples = np.concatenate(list(stream.blocks()))
                levels = mel_levels(samples, rate, _N_TIMES)
                return lambda axes, end_s: _draw_spectrogram(axes, levels, 0, end_s, rate)
            width = max(1, int(result.duration * rate / _N_COLUMNS))
            for block in stream.blocks(width * 100 / rate):
                edges = np.arange(0, len(block), width)
                parts.append(np.stack([np.minimum.reduceat(block, edges), np.maximum.reduceat(block, edges)]))
        envelope = np.concatenate(parts, axis=1)
        return lambda axes, end_s: _draw_waveform(axes, envelope, end_s)
    return None


def _draw_spectrogram(axes: Any, levels: NDArray[np.float32], start_s: float, end_s: float, rate: int) -> None:
    kept = {"interpolation": "none", "vmin": 0, "vmax": 1}  # an svg holds the levels as they are, not as many pixels
    shades = np.rint(levels * (_N_SHADES - 1)) / (_N_SHADES - 1)
    axes.imshow(shades, aspect="auto", origin="lower", cmap="magma", extent=(start_s, end_s, 0, 1), **kept)
    axes.set_yticks([0, 1], ["0", f"{rate / 2000:g} kHz"], fontsize=7)


def _draw_waveform(axes: Any, envelope: NDArray[np.float32], end_s: float) -> None:
    times = np.linspace(0, end_s, envelope.shape[1])
    axes.fill_between(times, *envelope, color="#57606a", linewidth=0)
    largest = max(float(np.abs(envelope).max()), 1e-6)
    axes.set(xlim=(0, end_s), ylim=(-largest, largest), yticks=[])


def _track_labels(result: TagResult) -> list[str]:
    """Return the labels with a track each, the busiest where there are too many; none: they share one."""
    if len(result.labels) <= _MOST_ROWS:
        return list(result.labels)
    busy = {label: total_s for label, total_s in add_up(result).items() if total_s}
    if not result.overlapping and len(busy) > _MOST_ROWS // 2:
        return [""]
    return sorted(busy, key=lambda label: -busy[label])[:_MOST_ROWS] or [""]


def _draw_tracks(axes: Any, result: TagResult, labels: Sequence[str]) -> None:
    """Draw for each label how likely it is over time, and a bar where it holds."""
    shared = list(labels) == [""]
    times, means = _thin(result)
    for row, label in enumerate(labels):
        colour = _colour(result.labels, label)
        if label in result.labels and times.size:
            values = np.rint(means[:, result.labels.index(label)] * _N_HEIGHTS) / _N_HEIGHTS
            changes = np.diff(values) != 0
            corners = np.append(True, changes) | np.append(changes, True)
            tops = row + 0.3 - 0.75 * values[corners]
            axes.fill_between(times[corners], row + 0.3, tops, color=colour, alpha=0.35, linewidth=0)
        spans = [(s.start, s.end - s.start) for s in result.segments if s.label == label]
        axes.broken_barh(spans, (row + 0.3, 0.12), facecolors=colour, linewidth=0)
    if shared:
        _draw_tier(axes, result)
    axes.set(xlim=(0, max(result.duration, 1e-3)), ylim=(len(labels) - 0.5, -0.5))
    axes.set_yticks(range(len(labels)), [escape(label)[:24] for label in labels], fontsize=9, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    _mark_time(axes, 0, result.duration)


def _draw_tier(axes: Any, result: TagResult) -> None:
    """Draw segments of many labels in one row, with names where there is room."""
    room_s = result.duration / (_WIDTH_IN * 16)  # of a character
    for label in dict.fromkeys(segment.label for segment in result.segments):
        spans = [(s.start, s.end - s.start) for s in result.segments if s.label == label]
        colour = _colour(result.labels, label)
        axes.broken_barh(spans, (-0.42, 0.84), facecolors=colour, alpha=0.45, edgecolor="white", linewidth=0.4)
        for start, length in spans:
            if length > room_s * len(label):
                axes.text(
                    start + length / 2, 0, escape(label), ha="center", va="center", fontsize=6.5, parse_math=False
                )


def _thin(result: TagResult) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
    """Return (column,) times and (column, label) mean probabilities, no more columns than the page has room for."""
    outline = outline_of(result)
    step = -(-len(outline.times) // _N_COLUMNS)
    if step <= 1:
        return outline.times, outline.means
    edges = np.arange(0, len(outline.times), step)
    counts = np.diff([*edges, len(outline.times)])
    sums = np.add.reduceat(outline.means, edges, axis=0)
    return outline.times[edges], sums / counts[:, None]


def _mark_time(axes: Any, start_s: float, end_s: float) -> None:
    digits = 0 if end_s - start_s >= 6 else 2
    axes.xaxis.set_major_formatter(lambda time_s, _: clock(max(0.0, time_s), digits))
    axes.tick_params(axis="x", labelsize=8)
    if end_s - start_s > 60:  # in whole minutes rather than hundreds of seconds
        step_s = next((step for step in STEPS_S if step * _MOST_TICKS >= end_s - start_s), STEPS_S[-1])
        axes.set_xticks(np.arange(np.ceil(start_s / step_s), end_s / step_s + 1e-9) * step_s)


def _colour(labels: Sequence[str], label: str) -> str:
    is_quiet = label in QUIET_LABELS or label not in labels
    return _QUIET if is_quiet else PALETTE[labels.index(label) % len(PALETTE)]


def identify_figure(results: Sequence[Identification]) -> Any:
    """Return a figure of answers: for each recording a bar for each of the likeliest labels."""
    figure = new_figure(0.6 + sum(0.45 + 0.2 * len(result.top) for result in results))
    axes = figure.subplots()
    row, ticks, names = 0.0, [], []
    for result in results:
        answer = result.label if result.reason is None else f"{UNKNOWN}: {result.reason}"
        title = f"{escape(result.file)}   {escape(answer)}"
        axes.text(0, row, title, fontsize=9, fontweight="bold", va="center", parse_math=False)
        for candidate in result.top:
            row += 1
            colour = PALETTE[0] if candidate.label == result.label else "#b6c2cf"
            axes.barh(row, candidate.score, height=0.7, color=colour)
            axes.text(candidate.score + 0.01, row, f"{candidate.score:.2f}", fontsize=8, va="center")
            ticks.append(row)
            names.append(escape(candidate.label)[:24])
        row += 2
    axes.set(xlim=(0, 1.08), ylim=(row - 1, -1), xticks=[])
    axes.set_yticks(ticks, names, fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return figure


def ladder_figure(
    curves: Mapping[str, Sequence[TrainingPoint]],
    rows: Sequence[tuple[str, float, float, str, str]],
    figure_name: str,
    n_seeds: int,
) -> Any:
    """Return a figure of a ladder: loss and dev score over the steps, and the table.

    Args:
        curves: of each rung.
        rows: of each rung name, score, its spread, parameters, frames a second.
        figure_name: what the score is.
        n_seeds: that the score is the mean of.
    """
    figure = new_figure(5.2)
    losses, scores, table = figure.subplot_mosaic(
        [["loss", "score"], ["table", "table"]], height_ratios=[3, 1.6]
    ).values()
    for index, (name, points) in enumerate(curves.items()):
        steps, style = [point.step for point in points], {"color": PALETTE[index % len(PALETTE)], "label": name}
        losses.plot(steps, [point.loss for point in points], **style)
        scores.plot(steps, [point.score for point in points], **style)
    for axes, title in ((losses, "loss in training"), (scores, f"{figure_name} on dev")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    scores.set_ylim(-0.02, 1.02)
    losses.set_ylim(bottom=0)
    losses.legend(fontsize=8, frameon=False)
    table.set_axis_off()
    several = n_seeds > 1
    spread = f" (mean ± deviation of {n_seeds} seeds)" if several else ""
    titles = ["Rung", f"{figure_name.capitalize()}{spread}", "Parameters", "Frames/s"]
    cells = [
        [name, f"{score:.3f}" + (f" ± {wide:.3f}" if n_seeds > 1 else ""), *rest] for name, score, wide, *rest in rows
    ]
    drawn = table.table(cells, colLabels=titles, loc="center", cellLoc="center", edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    drawn.scale(1, 1.3)
    return figure


def explanation_figure(explanation: Explanation) -> Any:
    """Return a figure of an explanation: the sound, each head, all of them rolled out, and what hiding frames does."""
    from framecls.output.explanation import describe, rows_of, shade, title_of

    attention = explanation.attention
    start_s, end_s = attention.start, attention.start + attention.n_frames * attention.hop
    rows = rows_of(explanation)
    n_sound = int(bool(len(attention.samples)))
    heights = [1.2] * n_sound + [0.3 + 0.14 * max(1, len(rows)), 0.8, 3.6]
    figure = new_figure(sum(heights) + 1.0)
    axes = list(figure.subplots(len(heights), 1, height_ratios=heights))
    extent = {"aspect": "auto", "interpolation": "nearest", "vmin": 0, "vmax": 1}
    if n_sound:
        levels = mel_levels(attention.samples, attention.sample_rate)
        _draw_spectrogram(axes[0], levels, start_s, end_s, attention.sample_rate)
    heads, curves, whole = axes[n_sound:]
    if rows:
        grid = np.stack([shade(row, explanation) for _, row in rows])
        heads.imshow(grid, cmap="magma", extent=(start_s, end_s, len(rows), 0), **extent)
    heads.set_yticks(np.arange(len(rows)) + 0.5, [name for name, _ in rows], fontsize=6)
    times = start_s + (np.arange(attention.n_frames) + 0.5) * attention.hop
    curves.step(times, shade(explanation.relevance, explanation), where="mid", color=PALETTE[1], label="rolled out")
    curves.step(times, shade(explanation.occlusion), where="mid", color=PALETTE[0], label="hidden: falls")
    curves.legend(fontsize=7, loc="upper right", ncols=2, frameon=False)
    curves.set(xlim=(start_s, end_s), ylim=(0, 1.45), yticks=[])
    flow = attention.rollout()
    flow = np.sqrt(flow / np.maximum(flow.max(axis=1, keepdims=True), 1e-12))
    whole.imshow(flow, cmap="magma", origin="lower", extent=(start_s, end_s, start_s, end_s), **extent)
    whole.set_ylabel("every frame, rolled out", fontsize=8)
    for number, panel in enumerate((*axes[:n_sound], heads, curves, whole)):
        _mark_time(panel, start_s, end_s)
        panel.tick_params(labelbottom=number == len(axes) - 1)
        if attention.pooling is None:
            first, last = (start_s + frame * attention.hop for frame in (explanation.first, explanation.last))
            span = panel.axhspan if panel is whole else panel.axvspan
            span(first, last, facecolor="#3fb95044", edgecolor="#3fb950")
    whole.yaxis.set_major_formatter(whole.xaxis.get_major_formatter().func)
    whole.tick_params(axis="y", labelsize=8)
    axes[0].set_title(title_of(explanation), loc="left", fontsize=10, fontweight="bold", parse_math=False)
    figure.supxlabel("\n".join(describe(explanation)), fontsize=8, x=0.01, ha="left", color="#424a53", wrap=True)
    return figure
