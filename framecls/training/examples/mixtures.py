"""Examples of a frame task whose labels overlap: mixtures of one track a label, each made of clips of that label."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.training.data.manifest import Recording
from framecls.training.examples.augment import Samples, extend_with_crossfades, filter_batch
from framecls.training.examples.batch import Batch
from framecls.training.examples.frames import FrameExamples
from framecls.training.examples.teachers import blend_targets

_FADE_S = 0.01
_CONTINUES = 0.7  # chance that a continuous sound begins before the window, and that it ends after it
_MIN_CONTINUOUS_S = 0.8  # a shorter clip, repeated, is a rattle
_CROSSFADE_S = (0.05, 0.3)  # between the pieces of a continuous sound
_MAX_TRIES = 24  # clips to look for one long enough to be continued

Track = tuple[NDArray[np.bool_], NDArray[np.float32] | None]  # (sample,) activity; (frame, label) posteriors


@dataclass(frozen=True)
class Piece:
    """A stretch of a recording to lay into a track."""

    samples: Samples
    active: NDArray[np.bool_]  # (sample,) where the recording's label holds
    recording: Recording
    start: int  # the first sample of the piece in the recording
    speed: float

    def times_s(self, samples: NDArray[Any], sample_rate: int) -> NDArray[np.float64]:
        """Return the times in the recording, in seconds, of samples of the piece."""
        return np.asarray((self.start + samples * self.speed) / sample_rate, np.float64)


class MixtureExamples(FrameExamples):
    """Make batches of mixtures; the arguments are those of `FrameExamples`."""

    @functools.cached_property
    def _by_source(self) -> dict[str, dict[str, list[Recording]]]:
        """The recordings of each label and source."""
        tree: dict[str, dict[str, list[Recording]]] = {label: {} for label in self.config.labels}
        for recording in self._recordings:
            if not recording.spans:
                continue
            tree[recording.label].setdefault(recording.source, []).append(recording)
        return tree

    @functools.cached_property
    def _source_weights(self) -> dict[str, NDArray[np.float64]]:
        """The probability of each source of a label, by its length; empty if all are as likely.

        Dev examples, which have numbers of their own, are the same whatever power a recipe gives to the length.
        """
        power = 0.0 if self._number_from else self.recipe.mix.source_power
        weights = {}
        for label, sources in self._by_source.items() if power else ():
            lengths = np.array([sum(self.store.n_samples(r.file) for r in source) for source in sources.values()])
            weights[label] = lengths**power / (lengths**power).sum()
        return weights

    def _make(self, rng: np.random.Generator, n_examples: int, n_frames: int) -> Batch:
        waveforms, targets = self._mix(rng, n_examples, n_frames)
        return self._finish(waveforms, targets, [()] * n_examples)

    def _mix(self, rng: np.random.Generator, n_examples: int, n_frames: int) -> tuple[Tensor, Tensor]:
        """Mix one track a label; return (example, sample) and (example, frame, label) 0..1."""
        mix, labels, n_samples = self.recipe.mix, self.config.labels, n_frames * self.config.hop_samples
        tracks = np.zeros((n_examples, len(labels), n_samples), np.float32)
        # Targets of each track: its own label, and what a teacher adds.
        targets = np.zeros((n_examples, len(labels), n_frames, len(labels)), np.float32)
        for example in range(n_examples):
            self.begin_note()
            only = str(rng.choice(labels)) if mix.alone and rng.random() < mix.alone else ""
            for column, label in enumerate(labels):
                if not self._by_source[label]:  # of which no clip is on this side of the split
                    continue
                if label == only or (not only and rng.random() < mix.presence.get(label, 0.6)):
                    active, posteriors = self._fill_track(rng, label, tracks[example, column])
                    hard = targets[example, column]
                    hard[:, column] = active_share(active, self.config.hop_samples) >= 0.5
                    targets[example, column] = blend_targets(hard, posteriors, self.recipe.optim.soft_weight)
                    gain_db = rng.uniform(-mix.spread_db, mix.spread_db)
                    loudness = np.sqrt(np.square(tracks[example, column][active]).mean()) if active.any() else 1.0
                    tracks[example, column] *= 10 ** (gain_db / 20) / max(1e-4, float(loudness))
        flat = torch.from_numpy(tracks).flatten(0, 1)
        notes: list[dict[str, Any]] = [{} for _ in flat]
        filtered = filter_batch(flat, rng, self.recipe.augment, self.sample_rate, notes).view(tracks.shape)
        for example, note in enumerate(self.notes or ()):
            note["tracks"] = dict(zip(labels, notes[example * len(labels) :], strict=False))
        audible = is_audible(filtered, self.config.hop_samples, mix.audible_db).numpy()
        targets *= audible.transpose(0, 2, 1)[..., None]
        mixed = self.augment(filtered.sum(dim=1), rng)
        for row in mixed:
            floor_db = float(rng.uniform(*mix.floor_db))
            row += torch.from_numpy(rng.standard_normal(n_samples).astype(np.float32)) * 10 ** (floor_db / 20)
        return mixed.clamp(-1, 1), torch.from_numpy(targets.max(axis=1))

    def _sample_clip(self, rng: np.random.Generator, label: str) -> Recording:
        """Sample a recording of a label: its source first."""
        sources = list(self._by_source[label].values())
        weights = self._source_weights.get(label)
        number = rng.choice(len(sources), p=weights) if weights is not None else rng.integers(len(sources))
        source = sources[number]
        return source[rng.integers(len(source))]

    def _fill_track(self, rng: np.random.Generator, label: str, track: Samples) -> Track:
        """Lay pieces of recordings of one label into (sample,) a silent track."""
        mix, rate = self.recipe.mix, self.sample_rate
        lasting = mix.lasting.get(label, 0.0)
        if lasting and rng.random() < lasting:
            return self._fill_continuously(rng, label, track)
        active, posteriors = np.zeros(len(track), bool), self._no_posteriors(len(track))
        at = int(rng.uniform(-0.4, 0.5) * len(track))
        while at < len(track):
            piece = self._sample_piece(rng, self._sample_clip(rng, label), label)
            skip = max(0, -at)
            n = min(len(piece.samples) - skip, len(track) - max(at, 0))
            if n > 0:
                track[max(at, 0) : max(at, 0) + n] += piece.samples[skip : skip + n]
                active[max(at, 0) : max(at, 0) + n] |= piece.active[skip : skip + n]
                self._add_posteriors(posteriors, piece, at)
            at += len(piece.samples) + int(rng.uniform(*mix.gap_s) * rate)
            if rng.random() < 0.1:
                break
        return active, posteriors

    def _no_posteriors(self, n_samples: int) -> NDArray[np.float32] | None:
        """Return (frame, label) NaN to hold a teacher's posteriors; None if there is no teacher."""
        shape = (n_samples // self.config.hop_samples, len(self.config.labels))
        return np.full(shape, np.nan, np.float32) if self._teacher else None

    def _add_posteriors(self, posteriors: NDArray[np.float32] | None, piece: Piece, at: int) -> None:
        """Write the teacher's posteriors of a piece that begins at sample `at` of the track into (frame, label)."""
        if posteriors is None or self._teacher is None:
            return
        middles = (np.arange(len(posteriors)) + 0.5) * self.config.hop_samples
        inside = (middles >= at) & (middles < at + len(piece.samples))
        times_s = piece.times_s(middles[inside] - at, self.sample_rate)
        found = self._teacher.posteriors_at(piece.recording.file, times_s, self.config.labels)
        if found is not None:
            posteriors[inside] = found

    def _fill_continuously(self, rng: np.random.Generator, label: str, track: Samples) -> Track:
        """Lay one sound without pauses into (sample,) a silent track; its posteriors are the piece's mean."""
        active, posteriors = np.zeros(len(track), bool), self._no_posteriors(len(track))
        hop = self.config.hop_samples
        first = 0 if rng.random() < _CONTINUES else int(rng.uniform(0, len(track)))
        last = len(track) if rng.random() < _CONTINUES else int(rng.uniform(first, len(track)))
        for _ in range(_MAX_TRIES):
            piece = self._sample_piece(rng, self._sample_clip(rng, label), label)
            sound = piece.samples[piece.active]
            n_fade = int(rng.uniform(*_CROSSFADE_S) * self.sample_rate)
            if len(sound) >= max(4 * n_fade, _MIN_CONTINUOUS_S * self.sample_rate):
                track[first:last] = extend_with_crossfades(sound, last - first, n_fade, rng)
                active[first:last] = True
                if posteriors is not None and self._teacher is not None:
                    times_s = piece.times_s(np.flatnonzero(piece.active)[::hop], self.sample_rate)
                    found = self._teacher.posteriors_at(piece.recording.file, times_s, self.config.labels)
                    if found is not None:
                        posteriors[active_share(active, hop) >= 0.5] = found.mean(axis=0)
                break
        return active, posteriors

    def _sample_piece(self, rng: np.random.Generator, recording: Recording, label: str) -> Piece:
        rate = self.sample_rate
        length = self.store.n_samples(recording.file)
        wanted = min(length, int(rng.uniform(*self.recipe.mix.piece_s) * rate))
        start = int(rng.integers(0, length - wanted + 1))
        samples, speed = self.perturb(self.store.read(recording.file, start, start + wanted), rng)
        self.note_clip(recording, start, speed)
        active = np.zeros(len(samples), bool)
        for span in recording.spans:
            if span.label == label:
                end_s = length / rate if span.end_s is None else span.end_s
                first, last = ((int(t * rate) - start) / speed for t in (span.start_s, end_s))
                active[max(0, int(first)) : max(0, int(last))] = True
        n_fade = min(int(_FADE_S * rate), len(samples) // 2)
        ramp = np.linspace(0, 1, n_fade, dtype=np.float32)
        samples[:n_fade] *= ramp
        samples[len(samples) - n_fade :] *= ramp[::-1]
        # Normalise the loudness of each recording, so that a quiet one is not lost among its neighbours.
        loudness = float(np.sqrt(np.square(samples[active]).mean())) if active.any() else 0.0
        samples = samples * np.float32(10 ** (rng.uniform(-4, 4) / 20) / max(loudness, 1e-3))
        return Piece(samples, active, recording, start, speed)


def is_audible(tracks: Tensor, hop_samples: int, audible_db: float) -> Tensor:
    """Return (example, frame, label) 1 where a track is at most `audible_db` softer than the mixture, else 0.

    Args:
        tracks: (example, label, sample), a whole number of frames.
        hop_samples: samples of a frame.
        audible_db: decibels of power.
    """
    n_examples, n_labels, n_samples = tracks.shape
    frames = tracks.reshape(n_examples, n_labels, n_samples // hop_samples, hop_samples)
    power = frames.square().mean(dim=3).transpose(1, 2)
    audible: Tensor = power * 10 ** (audible_db / 10) >= power.sum(dim=2, keepdim=True)
    return audible.float()


def active_share(active: NDArray[np.bool_], hop_samples: int) -> NDArray[np.float32]:
    """Return (frame,) the share of each frame's samples that are active; the length must be whole frames."""
    return np.asarray(active.reshape(-1, hop_samples).mean(axis=1), np.float32)
