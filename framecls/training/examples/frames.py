"""Examples of a frame task: windows of annotated recordings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.config import ModelConfig
from framecls.inference.windows import count_frames, frame_times
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording, Span
from framecls.training.data.phones import index_phones, phones_within
from framecls.training.examples.batch import IGNORED, Batch, BatchMaker, pad_stack
from framecls.training.examples.teachers import FrameTeacher, blend_targets
from framecls.training.recipe import Recipe

_NEAR = 0.8  # recordings whose lengths are in this proportion go into one bucket


class FrameExamples(BatchMaker):
    """Make batches of windows of annotated recordings, with one label a frame, or several or none.

    Args:
        number_from: added to the number of a batch, so that dev batches differ from training batches.
        teacher: its posteriors are mixed into the targets.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: ModelConfig,
        recipe: Recipe,
        store: ClipStore,
        noise: Sequence[Recording] = (),
        number_from: int = 0,
        teacher: FrameTeacher | None = None,
    ) -> None:
        super().__init__(config, recipe, store, noise)
        self._number_from = number_from
        self._teacher = teacher
        self._recordings = list(recordings)
        self._label_index = {label: i for i, label in enumerate(config.labels)}
        self._spans: dict[str, list[tuple[Recording, Span]]] = {}  # by label, to sample rare ones more often
        for recording in recordings:
            for span in recording.spans:
                self._spans.setdefault(span.label, []).append((recording, span))
        self._by_length = sorted(self._recordings, key=lambda r: (store.n_samples(r.file), str(r.file)))
        self._lengths = np.array([store.n_samples(r.file) for r in self._by_length])

    def make_batch(self, number: int) -> Batch:
        """Return batch `number`: windows of one length, or of one bucket."""
        rng = self.rng(number + self._number_from)
        length_s = self.config.window.length_s * float(rng.choice([0.3, 0.6, 1.0, 1.0]))
        n_frames = max(1, round(length_s / self.config.hop_s))
        n_examples = max(1, round(self.recipe.optim.batch_s / length_s))
        return self._make(rng, n_examples, n_frames)

    def _make(self, rng: np.random.Generator, n_examples: int, n_frames: int) -> Batch:
        n_samples = n_frames * self.config.hop_samples
        if self.recipe.sample.bucketed:
            return self._make_bucket(rng, n_samples)
        phones: list[tuple[str, ...]] = []
        rows, targets = [], torch.zeros(n_examples, n_frames, len(self.config.labels))
        for example in range(n_examples):
            recording, start = self._sample_window(rng, n_samples)
            self.begin_note()
            self.note_clip(recording, start)
            rows.append(self.store.read(recording.file, start, start + n_samples))
            targets[example] = torch.from_numpy(self.annotate(recording, start, n_frames))
            phones.append(self._phones_of(recording, start, n_samples))
        return self._finish(self.augment(pad_stack(rows, n_samples), rng), targets, phones)

    def _finish(
        self,
        waveforms: Tensor,
        targets: Tensor,
        phones: Sequence[tuple[str, ...]],
        n_frames: Tensor | None = None,
    ) -> Batch:
        """Return a batch of (example, sample) and (example, frame, label); all frames count if `n_frames` is None."""
        if not self.config.overlapping:
            targets = hard_targets(targets)
        return Batch(
            self.with_margins(waveforms),
            torch.full((len(waveforms),), targets.shape[1]) if n_frames is None else n_frames,
            targets,
            index_phones(phones, self.config.phones),
            torch.full((len(waveforms), targets.shape[1]), IGNORED),
        )

    def _phones_of(self, recording: Recording, start: int, n_samples: int) -> tuple[str, ...]:
        """Return the phones of a window, none where they are not known or the model has none."""
        if not self.config.phones:
            return ()
        length = self.store.n_samples(recording.file)
        return phones_within(recording, *(at / self.sample_rate for at in (start, start + n_samples, length)))

    def _sample_window(self, rng: np.random.Generator, n_samples: int) -> tuple[Recording, int]:
        """Sample a recording and the first sample of a window: anywhere, or by chance around a label."""
        balance = self.recipe.sample.balance_chance
        around = None
        if balance and rng.random() < balance:
            labels = sorted(self._spans)
            spans = self._spans[labels[rng.integers(len(labels))]]
            recording, around = spans[rng.integers(len(spans))]
        else:
            recording = self._recordings[rng.integers(len(self._recordings))]
        length = self.store.n_samples(recording.file)
        if around is None:
            start = int(rng.integers(0, max(1, length - n_samples + 1)))
        else:
            end_s = length / self.sample_rate if around.end_s is None else around.end_s
            middle = rng.uniform(around.start_s, end_s) * self.sample_rate
            start = int(np.clip(middle - rng.random() * n_samples, 0, max(0, length - n_samples)))
        return recording, start - start % self.config.hop_samples

    def _make_bucket(self, rng: np.random.Generator, n_samples: int) -> Batch:
        """Return a batch of windows of recordings of about one length, none longer than its recording or `n_samples`.

        Padding behind the shorter ones is no frame, and has no target.
        """
        first, first_start = self._sample_window(rng, n_samples)
        near = self._neighbours(first, n_samples)
        near_files = {recording.file for recording in near}
        hop = self.config.hop_samples
        length_s = min(n_samples, self.store.n_samples(first.file)) / self.sample_rate
        windows = [(first, first_start)]
        for _ in range(max(1, round(self.recipe.optim.batch_s / max(length_s, 0.1))) - 1):
            recording, start = self._sample_window(rng, n_samples)
            if recording.file not in near_files:
                recording = near[int(rng.integers(len(near)))]
                start = int(rng.integers(0, max(1, self.store.n_samples(recording.file) - n_samples + 1)))
            windows.append((recording, start - start % hop))
        for recording, start in windows:
            self.begin_note()
            self.note_clip(recording, start)
        rows = [self.store.read(recording.file, start, start + n_samples) for recording, start in windows]
        n_frames = torch.tensor([max(1, count_frames(len(row), hop)) for row in rows])
        longest = int(n_frames.max())
        targets = torch.zeros(len(rows), longest, len(self.config.labels))
        waveforms = self.augment(pad_stack(rows, longest * hop), rng)
        for index, (recording, start) in enumerate(windows):
            targets[index] = torch.from_numpy(self.annotate(recording, start, longest))
            targets[index, int(n_frames[index]) :] = 0 if not self.config.overlapping else -1
            waveforms[index, len(rows[index]) :] = 0
        phones = [self._phones_of(recording, start, n_samples) for recording, start in windows]
        return self._finish(waveforms, targets, phones, n_frames)

    def _neighbours(self, recording: Recording, n_samples: int) -> Sequence[Recording]:
        """Return recordings of about the length of one, or all that fill a window if it does."""
        lengths = np.minimum(self._lengths, n_samples)
        length = min(n_samples, self.store.n_samples(recording.file))
        low, high = np.searchsorted(lengths, [_NEAR * length, length / _NEAR])
        return self._by_length[int(low) : max(int(high), int(low) + 1)]

    def annotate(self, recording: Recording, start: int, n_frames: int) -> NDArray[np.float32]:
        """Return (frame, label) targets 0..1 of the frames from sample `start` on, by manifest and teacher."""
        targets = np.zeros((n_frames, len(self.config.labels)), np.float32)
        rate, hop = self.sample_rate, self.config.hop_samples
        length_s = self.store.n_samples(recording.file) / rate
        for span in recording.spans:
            # A frame has the label that holds at its middle.
            first = round((span.start_s * rate - start) / hop)
            last = round(((length_s if span.end_s is None else span.end_s) * rate - start) / hop)
            targets[max(0, first) : max(0, last), self._label_index[span.label]] = 1
        if self._teacher is None:
            return targets
        times_s = start / rate + frame_times(n_frames, self.config.hop_s)
        posteriors = self._teacher.posteriors_at(recording.file, times_s, self.config.labels)
        return blend_targets(targets, posteriors, self.recipe.optim.soft_weight)


def hard_targets(targets: Tensor) -> Tensor:
    """Turn (batch, frame, label) 0 or 1 into (batch, frame) label indices, `IGNORED` where there is no label."""
    return torch.where(targets.sum(dim=2) > 0, targets.argmax(dim=2), IGNORED)
