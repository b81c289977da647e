"""Windows of a recording: plan, cut and pad them, and stitch what the network says of them together again.

Frame i of a recording stands for the samples `[i * hop, (i + 1) * hop)`; the last frame may be partly past the end.
A window is a run of frames that the encoder reads at once; neighbouring windows overlap.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.config import ModelConfig

Block = NDArray[np.float32]  # (sample,)


def count_frames(n_samples: int, hop_samples: int) -> int:
    """Return the number of frames that cover a recording, the last one perhaps only in part."""
    return -(-n_samples // hop_samples)


def frame_times(n_frames: int, hop_s: float) -> NDArray[np.float64]:
    """Return (frame,) the seconds at the middle of each frame."""
    return (np.arange(n_frames, dtype=np.float64) + 0.5) * np.float64(hop_s)


@dataclass(frozen=True)
class Window:
    """Frames `[first, first + n_frames)` of a recording."""

    first: int
    n_frames: int
    grid: int = 0  # of which settings, where windows are cut in several ways


Item = tuple[Window, Block]  # a window, and its samples with a margin on both sides


@dataclass(frozen=True, eq=False)
class WindowOutput:
    """What the network says of one window of a recording."""

    window: Window
    logits: NDArray[np.float32]  # (frame, label), or (label,) of a pooled task, or (number,) an embedding
    weight_s: float  # seconds that count: all of the window, or those in which the gate's label is heard
    shared_s: float = 0.0  # of these, seconds already counted by the previous, overlapping window
    gate: NDArray[np.float32] | None = None  # (gate frame,) logits of the gate's label; None: there is no gate


def plan_windows(n_frames: int, length: int, overlap: int) -> list[Window]:
    """Lay windows of `length` frames over a recording so that each frame is in one or two of them.

    The grid starts at the first frame and does not depend on the end: only the last window is shorter. A recording no
    longer than `length` is one window.
    """
    step = length - overlap
    windows = [Window(0, min(length, n_frames))] if n_frames else []
    while windows and windows[-1].first + windows[-1].n_frames < n_frames:
        first = windows[-1].first + step
        windows.append(Window(first, min(length, n_frames - first)))
    return windows


def cut_grids(blocks: Iterable[Block], grids: Sequence[ModelConfig]) -> Iterator[Item]:
    """Cut a stream of sample blocks into the windows of several models at once; those that end first come first."""
    copies = itertools.tee(blocks, len(grids))
    cut = [cut_windows(copy, config, grid) for grid, (copy, config) in enumerate(zip(copies, grids, strict=True))]

    def end(item: Item) -> int:
        window, _ = item
        return (window.first + window.n_frames) * grids[window.grid].hop_samples

    return heapq.merge(*cut, key=end)


def cut_windows(blocks: Iterable[Block], config: ModelConfig, grid: int = 0) -> Iterator[Item]:
    """Cut a stream of sample blocks into the windows of `plan_windows`.

    Args:
        blocks: (sample,) pieces of one recording, of any length.
        config: window, hop and margin of the model.
        grid: what the windows say of it.

    Yields:
        each window, and (sample,) its samples with a margin on both sides: what is there in the recording, zeros
        beyond its ends.
    """
    length, step = config.window_frames, config.window_frames - config.overlap_frames
    margin, hop = config.features.margin_samples, config.hop_samples
    wanted = length * hop + 2 * margin
    held = np.zeros((margin, *config.features.sample_shape), np.float32)  # begins a margin before sample first * hop
    first = n_samples = 0
    for block in blocks:
        n_samples += len(block)
        held = np.concatenate([held, block])
        while len(held) >= wanted:
            yield Window(first, length, grid), held[:wanted]
            held = held[step * hop :]
            first += step
    n_frames = count_frames(n_samples, hop)
    overlap = length - step
    # A full window that began at first - step already reached first + overlap; what is left may need some more.
    while n_frames > (first + overlap if first else 0):
        size = min(length, n_frames - first)
        yield Window(first, size, grid), held[:wanted]
        held = held[step * hop :]
        first += step


def padded_length(n_frames: int, whole: int) -> int:
    """Return the length to which a window is padded so that it can share a batch: a little more than its own.

    It depends on nothing else, so a window is computed alike whatever it is batched with. There are eight lengths to
    each power of two, and never more than `whole`, the frames of a whole window.
    """
    grain = 1 << max(0, n_frames.bit_length() - 4)
    return max(n_frames, min(whole, -(-n_frames // grain) * grain))


def pad_windows(items: list[Item], config: ModelConfig) -> NDArray[np.float32]:
    """Return (batch, sample) the samples of windows with their margins, zeros after the end of the shorter ones."""
    longest = max(padded_length(window.n_frames, config.window_frames) for window, _ in items)
    n_samples = longest * config.hop_samples + 2 * config.features.margin_samples
    batch = np.zeros((len(items), n_samples, *config.features.sample_shape), np.float32)
    for row, (_, samples) in zip(batch, items, strict=True):
        row[: len(samples)] = samples[:n_samples]
    return batch


def fade(n_frames: int, overlap: int, *, is_first: bool, is_last: bool) -> NDArray[np.float32]:
    """Return (frame,) the weight of each frame of one window, so that the weights of all windows sum to one.

    The weight ramps linearly over the frames shared with a neighbour (a cross-fade), so that scores do not jump at a
    seam.
    """
    weight = np.ones(n_frames, np.float32)
    ramp = ((np.arange(overlap) + 0.5) / max(overlap, 1)).astype(np.float32)
    if not is_first:
        weight[:overlap] = ramp[:n_frames]
    if not is_last:
        weight[n_frames - overlap :] = ramp[::-1]
    return weight


def stitch_parts(outputs: Iterable[WindowOutput], overlap: int) -> Iterator[NDArray[np.float32]]:
    """Join the windows of a recording: where two overlap, their logits are cross-faded.

    Args:
        outputs: windows in order, laid as by `plan_windows`.
        overlap: frames that neighbouring windows share.

    Yields:
        (frame, label) logits that follow each other, each as soon as no later window can change them.
    """
    held: NDArray[np.float32] | None = None  # the end of the previous window, which the next one shares
    for output in outputs:
        n_frames = output.window.n_frames
        mixed = output.logits * fade(n_frames, overlap, is_first=held is None, is_last=True)[:, None]
        if held is not None:
            mixed[:overlap] += held * fade(overlap, overlap, is_first=True, is_last=False)[:, None]
        n_final = max(0, n_frames - overlap)
        yield mixed[:n_final]
        held = mixed[n_final:]
    if held is not None:
        yield held


def stitch(outputs: Iterable[WindowOutput], overlap: int) -> NDArray[np.float32]:
    """Return (frame, label) what `stitch_parts` yields as a whole."""
    parts = list(stitch_parts(outputs, overlap))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
