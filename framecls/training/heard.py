"""Phones that a trained network heard, kept in memory, to learn from in place of sound.

A label that hangs on what is said, as a language does, can be learnt from the phones alone, and they are cheap: each
recording is heard a few times in other rooms, speeds and noises, and then joined, cut and drawn hundreds of times
without being heard again. Nothing of the voice or the microphone is left to learn by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.nn.model import Network
from framecls.timeline import count_frames
from framecls.training.augment import change_speed
from framecls.training.examples import IGNORED, Batch, PooledExamples, pad_stack
from framecls.training.manifest import Recording

Heard = NDArray[np.float16]  # (frame, 1 + phone) probabilities, blank first

_BATCH_S = 120.0
_LONGEST_S = 30.0
_PAUSE_NUMBER = 10**8  # conditions are drawn from generators numbered from here, apart from those of batches


@torch.inference_mode()
def listen(
    network: Network,
    examples: PooledExamples,
    recordings: Sequence[Recording],
    copies: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Path, list[Heard]]:
    """Return what a network hears in each recording, in `copies` different conditions.

    Args:
        network: with a phone head.
        examples: for the sounds, and for what the recipe does to them.
        recordings: to listen to; of each no more than half a minute.
        copies: conditions.
        progress: told how many recordings are heard, and how many will be.
    """
    heard: dict[Path, list[Heard]] = {recording.file: [] for recording in recordings}
    batches = list(_by_length(recordings, examples))
    done, total = 0, copies * len(recordings)
    for copy in range(copies):
        for number, batch in enumerate(batches):
            rng = examples.rng(_PAUSE_NUMBER + copy * len(batches) + number)
            read = [examples.store.read(r.file, 0, int(_LONGEST_S * examples.sample_rate)) for r in batch]
            rows = [change_speed(samples, rng, examples.recipe.augment)[0] for samples in read]
            n_frames = [count_frames(len(row), examples.config.hop_samples) for row in rows]
            waveforms = examples.augment(pad_stack(rows), rng)
            for waveform, row in zip(waveforms, rows, strict=True):
                waveform[len(row) :] = 0
            probabilities = hear(network, examples.with_margins(waveforms), torch.tensor(n_frames))
            for recording, row_heard, n in zip(batch, probabilities, n_frames, strict=True):
                heard[recording.file].append(row_heard[:n].cpu().to(torch.float16).numpy())
            done += len(batch)
            if progress is not None:
                progress(done, total)
    return heard


def hear(network: Network, waveforms: Tensor, n_frames: Tensor) -> Tensor:
    """Return (batch, frame, 1 + phone) probabilities of the phones in (batch, sample) waveforms with margins."""
    if network.phones is None:
        raise ValueError("this network hears no phones")
    device = next(network.parameters()).device
    n_frames = n_frames.to(device)
    x, _ = network.listen(network.extract(waveforms.to(device), n_frames), n_frames)
    probabilities: Tensor = network.phones(x).softmax(dim=2)
    return probabilities


def _by_length(recordings: Sequence[Recording], examples: PooledExamples) -> Iterator[list[Recording]]:
    """Yield batches of recordings of nearly one length, so that little is padded."""
    batch: list[Recording] = []
    for recording in sorted(recordings, key=lambda r: (examples.store.n_samples(r.file), str(r.file))):
        longest_s = examples.store.n_samples(recording.file) / examples.sample_rate
        if batch and (len(batch) + 1) * min(longest_s, _LONGEST_S) > _BATCH_S:
            yield batch
            batch = []
        batch.append(recording)
    if batch:
        yield batch


class HeardExamples:
    """Batches of heard phones: label, source and voice are drawn as for sound, then copies are joined and cut."""

    def __init__(self, examples: PooledExamples, heard: dict[Path, list[Heard]]) -> None:
        self._examples = examples
        self._heard = heard
        self._frames_per_s = examples.sample_rate / examples.config.hop_samples

    def make_batch(self, number: int) -> Batch:
        """Return batch `number`."""
        examples = self._examples
        rng = examples.rng(number)
        length_s = float(rng.uniform(*examples.recipe.sample.length_s))
        n_examples = max(2, round(examples.recipe.optim.batch_s / length_s))
        wanted = round(length_s * self._frames_per_s)
        drawn = [self._draw(rng, wanted) for _ in range(n_examples)]
        rows, labels = [row for row, _ in drawn], [label for _, label in drawn]
        n_frames = torch.tensor([len(row) for row in rows])
        phones = torch.zeros(n_examples, wanted, rows[0].shape[1])
        for target, row in zip(phones, rows, strict=True):
            target[: len(row)] = torch.from_numpy(row.astype(np.float32))
        targets = torch.tensor([examples.config.labels.index(label) for label in labels])
        unknown = torch.zeros((n_examples, 0), dtype=torch.long)
        return Batch(phones, n_frames, targets, unknown, torch.full((n_examples, wanted), IGNORED))

    def _draw(self, rng: np.random.Generator, wanted: int) -> tuple[Heard, str]:
        label = self._examples.draw_label(rng)
        clips = self._examples.draw_voice(rng, label)
        parts: list[Heard] = []
        n_frames = 0
        while n_frames < wanted:
            copies = self._heard[clips[rng.integers(len(clips))].file]
            heard = copies[rng.integers(len(copies))]
            start = int(rng.integers(0, max(0, len(heard) - (wanted - n_frames)) + 1))
            pause = np.zeros(
                (int(rng.uniform(*self._examples.recipe.sample.join_gap_s) * self._frames_per_s), heard.shape[1]),
                np.float16,
            )
            pause[:, 0] = 1  # blank
            parts += [heard[start : start + wanted - n_frames], pause]
            n_frames += len(parts[-2]) + len(pause)
        return np.concatenate(parts)[:wanted], label
