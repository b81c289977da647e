"""An explanation as a record, and as a page."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.output import page
from framecls.output.images import heat_uri, mel_levels
from framecls.results import Explanation
from framecls.text import SCORE_DIGITS, TIME_DIGITS, clock, escape


def rows_of(explanation: Explanation) -> list[tuple[str, NDArray[np.floating]]]:
    """Return for each head of each layer, and of a pooling that learns, (frame,) the weights of what is explained."""
    attention = explanation.attention
    span = slice(explanation.first, explanation.last)
    rows = [
        (f"layer {layer} head {head}", weights[span].mean(axis=0))
        for layer, heads in enumerate(attention.weights, 1)
        for head, weights in enumerate(heads, 1)
    ]
    if attention.pooling is not None and explanation.pointed:
        rows.append(("pooling", attention.pooling.mean(axis=0)))
    return rows


def shade(values: NDArray[np.floating], explanation: Explanation | None = None) -> NDArray[np.float64]:
    """Return (frame,) values as levels 0..1; with an explanation the greatest of the frames not explained is 1."""
    others = np.ones(len(values), bool)
    if explanation is not None and explanation.attention.pooling is None:
        others[explanation.first : explanation.last] = False
    top = float(values[others].max(initial=0.0))
    return np.clip(np.maximum(values, 0) / top, 0, 1) if top > 0 else np.zeros(len(values))


def describe(explanation: Explanation) -> list[str]:
    """Return in sentences what was explained, and what hiding frames did."""
    attention = explanation.attention
    lines = []
    if not explanation.pointed:
        lines.append("No attention of this model adds anything, so none is shown: see what hiding frames does.")
    if attention.encoder:
        lines.append(
            f"These are the layers above the encoder {attention.encoder}: what they read has looked at every frame."
        )
    if explanation.score_without is not None:
        n_frames = len(explanation.pointed)
        frames = "the 1 frame" if n_frames == 1 else f"the {n_frames} frames"
        others = explanation.score_without_others
        rest = f"; as many others: {others:.3f}" if others is not None else ""
        lines.append(
            f"With {frames} hidden that it attended to most, the score is {explanation.score_without:.3f}, "
            f"not {explanation.score:.3f}{rest}."
        )
    return lines


def title_of(explanation: Explanation) -> str:
    """Return what is explained, on one line."""
    attention = explanation.attention
    what = f"{escape(explanation.label or 'the voice')} {explanation.score:.3f}"
    if attention.pooling is None:
        return f"{escape(attention.file)} at {clock(explanation.at)}: {what}"
    end_s = attention.start + attention.n_frames * attention.hop
    return f"{escape(attention.file)} from {clock(attention.start)} to {clock(end_s)}: {what}"


def as_record(explanation: Explanation) -> dict[str, Any]:
    """Return the JSON object of an explanation; its keys are a contract, as those of results are."""
    attention = explanation.attention

    def numbers(values: NDArray[np.floating]) -> list[float]:
        return [float(f"{value:.6g}") for value in values.tolist()]

    def rounded(score: float | None) -> float | None:
        return None if score is None else round(score, SCORE_DIGITS)

    span = slice(explanation.first, explanation.last)
    return {
        "file": attention.file,
        "model": attention.model,
        "at": round(explanation.at, TIME_DIGITS),
        "label": explanation.label or None,
        "score": round(explanation.score, SCORE_DIGITS),
        "start": round(attention.start, TIME_DIGITS),
        "hop": round(attention.hop, TIME_DIGITS),
        "frames": [explanation.first, explanation.last],
        "layers": [[numbers(head[span].mean(axis=0)) for head in layer] for layer in attention.weights],
        "pooling": None if attention.pooling is None else numbers(attention.pooling.mean(axis=0)),
        "rollout": numbers(explanation.relevance),
        "occlusion": numbers(explanation.occlusion),
        "pointed": list(explanation.pointed),
        "score_without": rounded(explanation.score_without),
        "score_without_others": rounded(explanation.score_without_others),
    }


def explanation_page(explanation: Explanation) -> str:
    """Return an explanation as a page of its own: the sound, what was attended to, and the maps of all heads."""
    attention = explanation.attention
    body = [page.heading("What the answer drew on", 1), page.paragraph(title_of(explanation))]
    body += [page.paragraph(line) for line in describe(explanation)]
    strips = [("spectrogram", heat_uri(mel_levels(attention.samples, attention.sample_rate)), 90)]
    if not len(attention.samples):
        strips = []
    strips += [(name, heat_uri(shade(row, explanation)[None]), 16) for name, row in rows_of(explanation)]
    if explanation.pointed:
        strips.append(
            ("attention rolled out over the layers", heat_uri(shade(explanation.relevance, explanation)[None]), 24)
        )
    strips.append(("fall of the score where a frame is hidden", heat_uri(shade(explanation.occlusion)[None]), 24))
    body += [page.heading("Over the window"), _strips(strips, explanation)]
    if not len(attention.weights):
        return page.make_page(f"framecls explain {attention.file}", body)
    body.append(page.heading("Every frame"))
    body.append(page.paragraph("A row is a frame, from the bottom up, and shows what it attended to.", "quiet"))
    maps = [page.picture(heat_uri(_map(attention.rollout())), "rolled out over the layers", style="aspect-ratio: 1")]
    for layer, heads in enumerate(attention.weights, 1):
        for head, weights in enumerate(heads, 1):
            maps.append(page.picture(heat_uri(_map(weights)), f"layer {layer}, head {head}", style="aspect-ratio: 1"))
    body.append(page.grid(maps))
    return page.make_page(f"framecls explain {attention.file}", body)


def _map(weights: NDArray[np.floating], most: int = 200) -> NDArray[np.float64]:
    """Return (query, key) weights as levels 0..1, the root of each row's share of its greatest; large maps are thinned.

    Neighbouring frames share a pixel in which the greatest counts.
    """
    step = -(-len(weights) // most)
    thinned = np.maximum.reduceat(np.maximum.reduceat(weights, np.arange(0, len(weights), step), axis=0),
                                  np.arange(0, weights.shape[1], step), axis=1)  # fmt: skip
    return np.asarray(np.sqrt(thinned / np.maximum(thinned.max(axis=1, keepdims=True), 1e-12)))


def _strips(strips: list[tuple[str, str, int]], explanation: Explanation) -> str:
    attention = explanation.attention
    left = 100 * explanation.first / attention.n_frames
    width = max(0.3, 100 * (explanation.last - explanation.first) / attention.n_frames)
    mark = (
        f'<div style="position:absolute;top:0;bottom:0;left:{left:.2f}%;width:{width:.2f}%;border:1px solid #3fb950">'
    )
    mark = "" if attention.pooling is not None else mark + "</div>"
    parts = [
        f'<p class="quiet" style="margin-bottom:.1rem">{html.escape(name)}</p><div style="position:relative">'
        f'<img class="heat" alt="{html.escape(name)}" src="{uri}" style="height:{height}px">{mark}</div>'
        for name, uri, height in strips
    ]
    end_s = attention.start + attention.n_frames * attention.hop
    ends = f'<p class="quiet ends"><span>{clock(attention.start)}</span><span>{clock(end_s)}</span></p>'
    return f'<div class="card">{"".join(parts)}{ends}</div>'
