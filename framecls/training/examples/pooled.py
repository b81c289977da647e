"""Examples of a pooled task: recordings of one speaker, joined and cut, with one label each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framecls.config import ModelConfig
from framecls.inference.windows import count_frames, frame_times
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.data.phones import index_phones
from framecls.training.examples.augment import Samples
from framecls.training.examples.batch import IGNORED, Batch, BatchMaker, pad_stack
from framecls.training.recipe import Recipe

# Not a phone: fills the time before a recording whose phones are not known.
UNKNOWN_PHONE = "?"
_DEV_BATCH = 16
_MAX_PIECES = 24  # recordings and pauses that one example is joined of
_N_CANDIDATES = 64  # whole recordings that are sampled, of which neighbours in length make a batch


@dataclass(frozen=True)
class Example:
    """One example before augmentation."""

    samples: Samples
    label: str
    source: str = ""
    phones: tuple[str, ...] = ()  # of all of it, or none
    alignment: tuple[tuple[str, float], ...] = ()  # phones and the seconds at which they end, where they are known
    soft_label: tuple[tuple[str, float], ...] = ()  # labels and a teacher's probabilities


class PooledExamples(BatchMaker):
    """Make batches of one label an example: sample label, source and speaker, then join and cut clips."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: ModelConfig,
        recipe: Recipe,
        store: ClipStore,
        noise: Sequence[Recording] = (),
    ) -> None:
        super().__init__(config, recipe, store, noise)
        self._label_index = {label: i for i, label in enumerate(config.labels)}
        self._phone_index = {phone: i for i, phone in enumerate(config.phones, start=1)}
        # Recordings by label, source and speaker.
        self._tree: dict[str, dict[str, dict[str, list[Recording]]]] = {}
        for recording in recordings:
            speakers = self._tree.setdefault(recording.label, {}).setdefault(recording.source, {})
            speakers.setdefault(recording.speaker, []).append(recording)
        self._labels = sorted(self._tree)
        weights = np.array([self._seconds(label) for label in self._labels]) ** recipe.sample.label_power
        self._label_weights = weights / weights.sum()
        self._with_phones: dict[str, dict[str, list[Recording]]] = {}  # known phones, by label and source
        for recording in recordings:
            if recording.phones and set(recording.phones) <= self._phone_index.keys():
                sources = self._with_phones.setdefault(recording.label, {})
                sources.setdefault(recording.source, []).append(recording)

    def _seconds(self, label: str) -> float:
        clips = (clip for speakers in self._tree[label].values() for clips in speakers.values() for clip in clips)
        return sum(self.store.n_samples(clip.file) for clip in clips) / self.sample_rate

    def make_batch(self, number: int) -> Batch:
        """Return batch `number`: of cut examples, or by chance of whole recordings with their phones."""
        rng = self.rng(number)
        if self._with_phones and rng.random() < self.recipe.sample.whole_chance:
            examples = self._sample_whole(rng)
        else:
            length_s = float(rng.uniform(*self.recipe.sample.length_s))
            n_examples = max(2, round(self.recipe.optim.batch_s / length_s))
            examples = [self._sample_example(rng, length_s) for _ in range(n_examples)]
        waveforms = self.augment(pad_stack([example.samples for example in examples]), rng)
        for row, example in zip(waveforms, examples, strict=True):
            row[len(example.samples) :] = 0
        return self._finish(waveforms, examples)

    def sample_label(self, rng: np.random.Generator) -> str:
        """Sample a label, those with more audio more often by the recipe's `label_power`."""
        return self._labels[rng.choice(len(self._labels), p=self._label_weights)]

    def sample_speaker(self, rng: np.random.Generator, label: str) -> list[Recording]:
        """Sample a source of a label by its weight, then a speaker; return that speaker's recordings."""
        speakers = self._tree[label][self._sample_source(rng, list(self._tree[label]))]
        return speakers[list(speakers)[rng.integers(len(speakers))]]

    def _sample_source(self, rng: np.random.Generator, sources: Sequence[str]) -> str:
        weights = np.array([self.recipe.sample.source_weight.get(source, 1.0) for source in sources])
        return sources[rng.choice(len(sources), p=weights / weights.sum())]

    def _sample_example(self, rng: np.random.Generator, length_s: float) -> Example:
        label = self.sample_label(rng)
        clips = self.sample_speaker(rng, label)
        self.begin_note()
        wanted = int(length_s * self.sample_rate)
        parts: list[Samples] = []
        phones: tuple[str, ...] | None = ()
        soft_label: tuple[tuple[str, float], ...] = ()
        alignment: list[tuple[str, float]] = []
        n_samples = 0
        while n_samples < wanted and len(parts) < _MAX_PIECES:
            clip = clips[rng.integers(len(clips))]
            samples, speed = self.perturb(self.store.read(clip.file), rng)
            start = max(0, int(rng.integers(0, max(0, len(samples) - (wanted - n_samples)) + 1)))
            self.note_clip(clip, round(start * speed), speed)
            is_whole = len(samples) <= wanted - n_samples
            samples = samples[start : start + wanted - n_samples]
            phones = phones + clip.phones if phones is not None and is_whole and clip.phones else None
            begin_s, shift_s = n_samples / self.sample_rate, (n_samples - start) / self.sample_rate
            alignment += [(UNKNOWN_PHONE, begin_s)]
            alignment += [(phone, max(begin_s, end_s / speed + shift_s)) for phone, end_s in clip.alignment]
            soft_label = soft_label or clip.soft  # a teacher judges the short clips of one speaker together
            gap = self.silence(int(rng.uniform(*self.recipe.sample.join_gap_s) * self.sample_rate))
            parts += [samples, gap]
            n_samples += len(samples) + len(gap)
        return Example(np.concatenate(parts)[:wanted], label, "", phones or (), tuple(alignment), soft_label)

    def _sample_whole(self, rng: np.random.Generator) -> list[Example]:
        """Sample whole recordings of about one length, so that little is padded."""
        labels = sorted(self._with_phones)
        sampled = []
        for _ in range(_N_CANDIDATES):
            sources = self._with_phones[labels[rng.integers(len(labels))]]
            clips = sources[self._sample_source(rng, list(sources))]
            sampled.append(clips[rng.integers(len(clips))])
        sampled.sort(key=lambda clip: self.store.n_samples(clip.file))
        longest_s = 1.6 * self.config.window.length_s
        fitting = [clip for clip in sampled if self.store.n_samples(clip.file) <= longest_s * self.sample_rate]
        sampled = fitting or sampled[:1]
        middle_s = self.store.n_samples(sampled[int(rng.integers(len(sampled)))].file) / self.sample_rate
        n_examples = int(np.clip(round(self.recipe.optim.batch_s / middle_s), 1, len(sampled)))
        near = min(
            range(len(sampled) - n_examples + 1),
            key=lambda i: abs(self.store.n_samples(sampled[i + n_examples // 2].file) - middle_s * self.sample_rate),
        )
        examples = []
        for clip in sampled[near : near + n_examples]:
            samples, speed = self.perturb(self.store.read(clip.file), rng)
            self.begin_note()
            self.note_clip(clip, 0, speed)
            alignment = tuple((phone, end_s / speed) for phone, end_s in clip.alignment)
            examples.append(Example(samples, clip.label, clip.source, clip.phones, alignment, clip.soft))
        return examples

    def dev_batches(self, recordings: Sequence[Recording], length_s: float, per_speaker: int = 3) -> Iterable[Batch]:
        """Join the recordings of each speaker in order and cut them into examples, without augmentation.

        Args:
            recordings: to measure on.
            length_s: of an example; a speaker with less gives one shorter example.
            per_speaker: examples at most of one speaker and label.
        """
        speakers: dict[tuple[str, str, str], list[Recording]] = defaultdict(list)
        for recording in recordings:
            if recording.label in self._label_index:
                speakers[recording.source, recording.speaker, recording.label].append(recording)
        examples = []
        for (source, _, label), clips in sorted(speakers.items()):
            wanted = int(length_s * self.sample_rate)
            joined = self.silence(0)
            for clip in clips:
                gap = self.silence(self.sample_rate // 5 if len(joined) else 0)
                joined = np.concatenate([joined, gap, self.store.read(clip.file)])
                if len(joined) >= per_speaker * wanted:
                    break
            pieces = [joined[i : i + wanted] for i in range(0, len(joined), wanted)][:per_speaker]
            pieces = [piece for piece in pieces if len(piece) > 0.6 * wanted] or pieces[:1]
            examples += [Example(piece, label, source) for piece in pieces]
        for first in range(0, len(examples), _DEV_BATCH):
            part = examples[first : first + _DEV_BATCH]
            yield self._finish(pad_stack([example.samples for example in part]), part)

    def _finish(self, waveforms: Tensor, examples: Sequence[Example]) -> Batch:
        n_frames = [count_frames(len(example.samples), self.config.hop_samples) for example in examples]
        frames = [self._phone_frames(example, n) for example, n in zip(examples, n_frames, strict=True)]
        return Batch(
            self.with_margins(waveforms),
            torch.tensor(n_frames),
            torch.tensor([self._label_index[example.label] for example in examples]),
            index_phones([example.phones for example in examples], self.config.phones),
            torch.nn.utils.rnn.pad_sequence(frames, batch_first=True, padding_value=IGNORED),
            tuple(example.source for example in examples),
            self._soft_targets(examples),
        )

    def _soft_targets(self, examples: Sequence[Example]) -> Tensor:
        """Return (example, label) a teacher's probabilities, over the labels that the model has."""
        soft = torch.zeros(len(examples), len(self._label_index))
        for row, example in zip(soft, examples, strict=True):
            for label, share in example.soft_label:
                if label in self._label_index:
                    row[self._label_index[label]] = share
        return soft / soft.sum(dim=1, keepdim=True).clamp(min=1e-6)

    def _phone_frames(self, example: Example, n_frames: int) -> Tensor:
        """Return (frame,) the phone that is spoken at the middle of each frame."""
        if not example.alignment or not self._phone_index:
            return torch.full((n_frames,), IGNORED)
        ends_s = np.array([end_s for _, end_s in example.alignment])
        index = np.array([self._phone_index.get(phone, 0 if not phone else IGNORED) for phone, _ in example.alignment])
        at = np.searchsorted(ends_s, frame_times(n_frames, self.config.hop_s), side="right")
        return torch.from_numpy(np.append(index, IGNORED)[at])
