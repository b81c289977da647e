"""Recordings to training batches, made on the fly.

Batch number n of a seed is always the same, wherever and whenever it is made: so workers may make it, a run that was
cut off goes on exactly where it stood, and dev batches are fixed by being numbered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from framecls.config import ModelConfig
from framecls.inference.segments import count_frames, frame_times
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording, Span
from framecls.training.examples.augment import Samples, augment_batch, change_delivery, filter_batch, lengthen
from framecls.training.posteriors import FrameTeacher, blend
from framecls.training.recipe import Recipe
from framecls.training.spoken import index_phones, phones_within

# Not a label: cross_entropy's own mark for targets that do not count.
IGNORED = -100
# Not a phone either: fills the time before a clip whose phones are not known.
UNKNOWN_PHONE = "?"
_DEV_BATCH = 16
_FADE_S = 0.01
_MAX_PIECES = 24  # clips and pauses that one example is joined of
_LASTS_ON = 0.7  # chance that a sound that lasts has begun before the window, and that it goes on after it
_LASTS_FROM_S = 0.8  # a shorter clip that goes on is a rattle
_SEAM_S = (0.05, 0.3)  # fade between the pieces of a sound that lasts
_NEAR = 0.8  # lengths in this proportion make a bucket
_N_DRAWN_WHOLE = 64  # of so many whole clips, neighbours in length make a batch


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    waveform: Tensor  # (batch, sample) with the margins that the features want
    n_frames: Tensor  # (batch,)
    targets: Tensor  # (batch, frame, label) 0..1, (batch, frame) label index, or (batch,) label index
    phones: Tensor  # (batch, phone) indices from 1, 0 where there are no more; all 0 where they are not known
    phone_frames: Tensor  # (batch, frame) index of the phone, 0 in a pause, `IGNORED` where it is not known
    sources: tuple[str, ...] = ()  # of the examples, for tables of dev figures
    soft: Tensor | None = None  # (batch, label) a teacher's probabilities, all 0 where nobody was asked (pooled task)
    teacher: Tensor | None = None  # (batch, number) unit vectors that an embedding is to match


@dataclass(frozen=True)
class Piece:
    """One example before it is augmented."""

    samples: Samples
    label: str
    source: str = ""
    phones: tuple[str, ...] = ()  # of all of it, or none
    alignment: tuple[tuple[str, float], ...] = ()  # phones and the seconds at which they end, where they are known
    soft: tuple[tuple[str, float], ...] = ()  # labels and a teacher's probabilities


@dataclass(frozen=True)
class Cut:
    """A piece of a recording, for a mixture."""

    samples: Samples
    holds: NDArray[np.bool_]  # (sample,) where the label of the recording does
    recording: Recording
    start: int  # the first sample of the piece in the recording
    factor: float  # played so many times as fast

    def times_s(self, samples: NDArray[Any], sample_rate: int) -> NDArray[np.float64]:
        """Return the seconds of the recording at which samples of the piece were."""
        return np.asarray((self.start + samples * self.factor) / sample_rate, np.float64)


class NoiseBank:
    """Recorded noise and music to hide speech in."""

    def __init__(self, recordings: Sequence[Recording], store: ClipStore, rng: np.random.Generator) -> None:
        self._recordings, self._store, self._rng = recordings, store, rng
        by_source: dict[str, list[Recording]] = defaultdict(list)
        for recording in recordings:
            by_source[recording.source].append(recording)
        self._sources = list(by_source.values())

    def draw(self, n_samples: int) -> Samples:
        """Return (sample,) noise of a length, short clips repeated."""
        source = self._sources[self._rng.integers(len(self._sources))]
        recording = source[self._rng.integers(len(source))]
        length = self._store.n_samples(recording.file)
        start = int(self._rng.integers(0, max(1, length - n_samples)))
        samples = self._store.read(recording.file, start, start + n_samples)
        return np.resize(samples, n_samples) if len(samples) else np.zeros(n_samples, np.float32)


class BatchMaker:
    """What both tasks need: the recipe, the sounds, and waveforms in the form that the network wants."""

    def __init__(self, config: ModelConfig, recipe: Recipe, store: ClipStore, noise: Sequence[Recording]) -> None:
        self.config, self.recipe, self.store, self.noise = config, recipe, store, noise
        self.sample_rate = config.features.sample_rate
        self.notes: list[dict[str, Any]] | None = None  # of the examples of a batch, what was done; None: nobody asks

    def rng(self, number: int) -> np.random.Generator:
        """Return the generator of one batch."""
        return np.random.default_rng((self.recipe.optim.seed, number))

    def augment(self, waveforms: Tensor, rng: np.random.Generator) -> Tensor:
        """Augment (batch, sample) as the recipe says; what is no sound is left alone."""
        if self.config.features.kind == "given":
            return waveforms
        draw = NoiseBank(self.noise, self.store, rng).draw if self.noise else None
        return augment_batch(waveforms, rng, self.recipe.augment, self.sample_rate, draw, self.notes)

    def begin_note(self) -> None:
        """Begin the note of one more example."""
        if self.notes is not None:
            self.notes.append({"clips": []})

    def note_clip(self, recording: Recording, start: int, speed: float = 1.0) -> None:
        """Note that a clip, from a sample on, is in the example that was begun last."""
        if self.notes is not None:
            clip = {"file": str(recording.file), "label": recording.label, "start": round(start / self.sample_rate, 3)}
            self.notes[-1]["clips"].append(clip | ({"speed": speed} if speed != 1 else {}))

    def silence(self, n_samples: int) -> Samples:
        """Return (sample,) zeros, or (vector, feature) where vectors take the place of samples."""
        return np.zeros((n_samples, *self.config.features.sample_shape), np.float32)

    def with_margins(self, waveforms: Tensor) -> Tensor:
        """Pad (batch, sample) to whole frames, and by the margins on both sides."""
        n_frames = count_frames(waveforms.shape[1], self.config.hop_samples)
        margin = self.config.features.margin_samples
        missing = n_frames * self.config.hop_samples - waveforms.shape[1]
        last_axes = (0, 0) * (waveforms.ndim - 2)
        return torch.nn.functional.pad(waveforms, (*last_axes, margin, margin + missing))

    def change_delivery(self, samples: Samples, rng: np.random.Generator) -> tuple[Samples, float]:
        """Change speed, tempo and pitch of (sample,) as the recipe says; what is no sound is left alone."""
        if self.config.features.kind == "given":
            return samples, 1.0
        return change_delivery(samples, rng, self.recipe.augment, self.sample_rate)


class PooledExamples(BatchMaker):
    """One label an example: label, then source, then voice are drawn, then clips of that voice are joined and cut."""

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
        tree: dict[str, dict[str, dict[str, list[Recording]]]] = {}
        for recording in recordings:
            voices = tree.setdefault(recording.label, {}).setdefault(recording.source, {})
            voices.setdefault(recording.speaker, []).append(recording)
        self._tree = tree
        self._labels = sorted(tree)
        seconds = np.array([self._seconds(tree[label]) for label in self._labels])
        share = seconds**recipe.sample.label_power
        self._label_share = share / share.sum()
        self._spoken: dict[str, dict[str, list[Recording]]] = {}  # clips whose phones are known, by label and source
        for recording in recordings:
            if recording.phones and set(recording.phones) <= self._phone_index.keys():
                sources = self._spoken.setdefault(recording.label, {})
                sources.setdefault(recording.source, []).append(recording)

    def _seconds(self, sources: dict[str, dict[str, list[Recording]]]) -> float:
        clips = (clip for voices in sources.values() for clips in voices.values() for clip in clips)
        return sum(self.store.n_samples(clip.file) for clip in clips) / self.sample_rate

    def make_batch(self, number: int) -> Batch:
        """Return batch `number`: either of cut pieces, or of whole clips with their phones."""
        rng = self.rng(number)
        if self._spoken and rng.random() < self.recipe.sample.whole_chance:
            drawn = self._draw_whole(rng)
        else:
            length_s = float(rng.uniform(*self.recipe.sample.length_s))
            n_examples = max(2, round(self.recipe.optim.batch_s / length_s))
            drawn = [self._draw_piece(rng, length_s) for _ in range(n_examples)]
        waveforms = self.augment(pad_stack([piece.samples for piece in drawn]), rng)
        for row, piece in zip(waveforms, drawn, strict=True):
            row[len(piece.samples) :] = 0
        return self._finish(waveforms, drawn)

    def draw_label(self, rng: np.random.Generator) -> str:
        """Draw a label, those with more audio more often as the recipe's `label_power` says."""
        return self._labels[rng.choice(len(self._labels), p=self._label_share)]

    def draw_voice(self, rng: np.random.Generator, label: str) -> list[Recording]:
        """Draw a source of a label by its weight, then one of its voices; return what that voice said."""
        voices = self._tree[label][self._draw_source(rng, list(self._tree[label]))]
        return voices[list(voices)[rng.integers(len(voices))]]

    def _draw_source(self, rng: np.random.Generator, sources: Sequence[str]) -> str:
        weights = np.array([self.recipe.sample.source_weight.get(source, 1.0) for source in sources])
        return sources[rng.choice(len(sources), p=weights / weights.sum())]

    def _draw_piece(self, rng: np.random.Generator, length_s: float) -> Piece:
        label = self.draw_label(rng)
        clips = self.draw_voice(rng, label)
        self.begin_note()
        wanted = int(length_s * self.sample_rate)
        parts: list[Samples] = []
        phones: tuple[str, ...] | None = ()
        soft: tuple[tuple[str, float], ...] = ()
        alignment: list[tuple[str, float]] = []
        n_samples = 0
        while n_samples < wanted and len(parts) < _MAX_PIECES:
            clip = clips[rng.integers(len(clips))]
            samples, factor = self.change_delivery(self.store.read(clip.file), rng)
            start = max(0, int(rng.integers(0, max(0, len(samples) - (wanted - n_samples)) + 1)))
            self.note_clip(clip, round(start * factor), factor)
            is_whole = len(samples) <= wanted - n_samples
            samples = samples[start : start + wanted - n_samples]
            phones = phones + clip.phones if phones is not None and is_whole and clip.phones else None
            begin_s, shift_s = n_samples / self.sample_rate, (n_samples - start) / self.sample_rate
            alignment += [(UNKNOWN_PHONE, begin_s)]
            alignment += [(phone, max(begin_s, end_s / factor + shift_s)) for phone, end_s in clip.alignment]
            soft = soft or clip.soft  # the clips of one voice that are short were asked about together
            gap = self.silence(int(rng.uniform(*self.recipe.sample.join_gap_s) * self.sample_rate))
            parts += [samples, gap]
            n_samples += len(samples) + len(gap)
        return Piece(np.concatenate(parts)[:wanted], label, "", phones or (), tuple(alignment), soft)

    def _draw_whole(self, rng: np.random.Generator) -> list[Piece]:
        """Draw whole clips of about one length, so that little is padded."""
        labels = sorted(self._spoken)
        drawn = []
        for _ in range(_N_DRAWN_WHOLE):
            sources = self._spoken[labels[rng.integers(len(labels))]]
            clips = sources[self._draw_source(rng, list(sources))]
            drawn.append(clips[rng.integers(len(clips))])
        drawn.sort(key=lambda clip: self.store.n_samples(clip.file))
        longest_s = 1.6 * self.config.window.length_s
        drawn = [clip for clip in drawn if self.store.n_samples(clip.file) <= longest_s * self.sample_rate] or drawn[:1]
        middle_s = self.store.n_samples(drawn[int(rng.integers(len(drawn)))].file) / self.sample_rate
        n_examples = int(np.clip(round(self.recipe.optim.batch_s / middle_s), 1, len(drawn)))
        near = min(
            range(len(drawn) - n_examples + 1),
            key=lambda i: abs(self.store.n_samples(drawn[i + n_examples // 2].file) - middle_s * self.sample_rate),
        )
        examples = []
        for clip in drawn[near : near + n_examples]:
            samples, factor = self.change_delivery(self.store.read(clip.file), rng)
            self.begin_note()
            self.note_clip(clip, 0, factor)
            alignment = tuple((phone, end_s / factor) for phone, end_s in clip.alignment)
            examples.append(Piece(samples, clip.label, clip.source, clip.phones, alignment, clip.soft))
        return examples

    def dev_batches(self, recordings: Sequence[Recording], length_s: float, per_voice: int = 3) -> Iterable[Batch]:
        """Cut what each voice says into examples of a length, its clips joined in order, without augmentation.

        Args:
            recordings: to measure on.
            length_s: of an example; a voice with less gives one shorter example.
            per_voice: examples at most of one voice in one language.
        """
        voices: dict[tuple[str, str, str], list[Recording]] = defaultdict(list)
        for recording in recordings:
            if recording.label in self._label_index:
                voices[recording.source, recording.speaker, recording.label].append(recording)
        examples = []
        for (source, _, label), clips in sorted(voices.items()):
            wanted = int(length_s * self.sample_rate)
            joined = self.silence(0)
            for clip in clips:
                gap = self.silence(self.sample_rate // 5 if len(joined) else 0)
                joined = np.concatenate([joined, gap, self.store.read(clip.file)])
                if len(joined) >= per_voice * wanted:
                    break
            pieces = [joined[i : i + wanted] for i in range(0, len(joined), wanted)][:per_voice]
            pieces = [piece for piece in pieces if len(piece) > 0.6 * wanted] or pieces[:1]
            examples += [Piece(piece, label, source) for piece in pieces]
        for first in range(0, len(examples), _DEV_BATCH):
            some = examples[first : first + _DEV_BATCH]
            yield self._finish(pad_stack([piece.samples for piece in some]), some)

    def _finish(self, waveforms: Tensor, drawn: Sequence[Piece]) -> Batch:
        n_frames = [count_frames(len(piece.samples), self.config.hop_samples) for piece in drawn]
        frames = [self._phone_frames(piece, n) for piece, n in zip(drawn, n_frames, strict=True)]
        return Batch(
            self.with_margins(waveforms),
            torch.tensor(n_frames),
            torch.tensor([self._label_index[piece.label] for piece in drawn]),
            index_phones([piece.phones for piece in drawn], self.config.phones),
            torch.nn.utils.rnn.pad_sequence(frames, batch_first=True, padding_value=IGNORED),
            tuple(piece.source for piece in drawn),
            self._soft_targets(drawn),
        )

    def _soft_targets(self, drawn: Sequence[Piece]) -> Tensor:
        """Return (example, label) a teacher's probabilities, over the labels that the model has."""
        soft = torch.zeros(len(drawn), len(self._label_index))
        for row, piece in zip(soft, drawn, strict=True):
            for label, share in piece.soft:
                if label in self._label_index:
                    row[self._label_index[label]] = share
        return soft / soft.sum(dim=1, keepdim=True).clamp(min=1e-6)

    def _phone_frames(self, piece: Piece, n_frames: int) -> Tensor:
        """Return (frame,) the phone that is spoken at the middle of each frame."""
        if not piece.alignment or not self._phone_index:
            return torch.full((n_frames,), IGNORED)
        ends_s = np.array([end_s for _, end_s in piece.alignment])
        index = np.array([self._phone_index.get(phone, 0 if not phone else IGNORED) for phone, _ in piece.alignment])
        at = np.searchsorted(ends_s, frame_times(n_frames, self.config.hop_s), side="right")
        return torch.from_numpy(np.append(index, IGNORED)[at])


class FrameExamples(BatchMaker):
    """One label (or several, or none) a frame: cut from annotated recordings, or mixed from one clip a label."""

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
        self._material: dict[str, dict[str, list[Recording]]] = {label: {} for label in config.labels}
        for recording in recordings:
            self._material[recording.label].setdefault(recording.source, []).append(recording)
        # Dev examples (those numbered from elsewhere) are the same for every recipe that mixes alike.
        power = 0.0 if number_from else recipe.mix.source_power
        self._shares = {label: self._source_shares(label, power) for label in config.labels} if power else {}
        self._labelled: dict[str, list[tuple[Recording, Span]]] = {}  # all that has a label, for drawing rare ones
        for recording in recordings:
            for span in recording.spans:
                self._labelled.setdefault(span.label, []).append((recording, span))
        self._by_length = sorted(self._recordings, key=lambda r: (store.n_samples(r.file), str(r.file)))
        self._lengths = np.array([store.n_samples(r.file) for r in self._by_length])

    def make_batch(self, number: int) -> Batch:
        """Return batch `number`: windows of one length."""
        rng = self.rng(number + self._number_from)
        length_s = self.config.window.length_s * float(rng.choice([0.3, 0.6, 1.0, 1.0]))
        n_frames = max(1, round(length_s / self.config.hop_s))
        n_examples = max(1, round(self.recipe.optim.batch_s / length_s))
        n_samples = n_frames * self.config.hop_samples
        if self.recipe.sample.bucketed and not self.recipe.mix.enabled:
            return self._make_bucket(rng, n_samples)
        if self.recipe.mix.enabled:
            waveforms, targets = self._mix(rng, n_examples, n_samples, n_frames)
            said: list[tuple[str, ...]] = [()] * n_examples
        else:
            waveforms, targets, said = self._cut(rng, n_examples, n_samples, n_frames)
        if not self.config.overlapping:
            targets = hard_targets(targets)
        return Batch(
            self.with_margins(waveforms),
            torch.full((n_examples,), n_frames),
            targets,
            index_phones(said, self.config.phones),
            torch.full((n_examples, n_frames), IGNORED),
        )

    def _mix(self, rng: np.random.Generator, n_examples: int, n_samples: int, n_frames: int) -> tuple[Tensor, Tensor]:
        """Mix a track a label; return (example, sample) and (example, frame, label) 0 to 1."""
        mix, labels = self.recipe.mix, self.config.labels
        tracks = np.zeros((n_examples, len(labels), n_samples), np.float32)
        # What is heard in each track: only its own label, unless a teacher hears more.
        targets = np.zeros((n_examples, len(labels), n_frames, len(labels)), np.float32)
        for example in range(n_examples):
            self.begin_note()
            only = str(rng.choice(labels)) if mix.alone and rng.random() < mix.alone else ""
            for column, label in enumerate(labels):
                if label == only or (not only and rng.random() < mix.presence.get(label, 0.6)):
                    active, heard = self._fill_track(rng, label, tracks[example, column])
                    hard = targets[example, column]
                    hard[:, column] = frame_share(active, self.config.hop_samples) >= 0.5
                    targets[example, column] = blend(hard, heard, self.recipe.optim.soft_weight)
                    gain_db = rng.uniform(-mix.spread_db, mix.spread_db)
                    loudness = np.sqrt(np.square(tracks[example, column][active]).mean()) if active.any() else 1.0
                    tracks[example, column] *= 10 ** (gain_db / 20) / max(1e-4, float(loudness))
        flat = torch.from_numpy(tracks).flatten(0, 1)
        places: list[dict[str, Any]] = [{} for _ in flat]
        placed = filter_batch(flat, rng, self.recipe.augment, self.sample_rate, places).view(tracks.shape)
        for example, note in enumerate(self.notes or ()):
            note["tracks"] = dict(zip(labels, places[example * len(labels) :], strict=False))
        audible = is_audible(placed, self.config.hop_samples, mix.audible_db).numpy()
        targets *= audible.transpose(0, 2, 1)[..., None]
        mixed = self.augment(placed.sum(dim=1), rng)
        for row in mixed:
            floor_db = float(rng.uniform(*mix.floor_db))
            row += torch.from_numpy(rng.standard_normal(n_samples).astype(np.float32)) * 10 ** (floor_db / 20)
        return mixed.clamp(-1, 1), torch.from_numpy(targets.max(axis=1))

    def _source_shares(self, label: str, power: float) -> NDArray[np.float64]:
        """Return (source,) how often each source of a label is drawn: by a power of the sound there is of it."""
        sources = self._material[label].values()
        weights = np.array([sum(self.store.n_samples(r.file) for r in source) for source in sources]) ** power
        return np.asarray(weights / weights.sum())

    def _draw_clip(self, rng: np.random.Generator, label: str) -> Recording:
        """Draw a clip of a label: its source first."""
        sources = list(self._material[label].values())
        number = rng.choice(len(sources), p=self._shares[label]) if self._shares else rng.integers(len(sources))
        source = sources[number]
        return source[rng.integers(len(source))]

    def _fill_track(
        self, rng: np.random.Generator, label: str, track: Samples
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
        """Lay pieces of clips of one label into (sample,) a silent track.

        Returns:
            (sample,) where the label holds, and (frame, label) what the teacher hears there, if there is one.
        """
        mix, rate = self.recipe.mix, self.sample_rate
        active, heard = np.zeros(len(track), bool), self._nothing_heard(len(track))
        lasting = mix.lasting.get(label, 0.0)
        if lasting and rng.random() < lasting:
            return self._fill_without_pause(rng, label, track)
        at = int(rng.uniform(-0.4, 0.5) * len(track))
        while at < len(track):
            piece = self._draw_piece(rng, self._draw_clip(rng, label), label)
            skip = max(0, -at)
            n = min(len(piece.samples) - skip, len(track) - max(at, 0))
            if n > 0:
                track[max(at, 0) : max(at, 0) + n] += piece.samples[skip : skip + n]
                active[max(at, 0) : max(at, 0) + n] |= piece.holds[skip : skip + n]
                self._note_heard(heard, piece, at)
            at += len(piece.samples) + int(rng.uniform(*mix.gap_s) * rate)
            if rng.random() < 0.1:
                break
        return active, heard

    def _nothing_heard(self, n_samples: int) -> NDArray[np.float32] | None:
        """Return (frame, label) no numbers, for what a teacher hears; None: there is none."""
        shape = (n_samples // self.config.hop_samples, len(self.config.labels))
        return np.full(shape, np.nan, np.float32) if self._teacher else None

    def _note_heard(self, heard: NDArray[np.float32] | None, piece: Cut, at: int) -> None:
        """Write into (frame, label) what the teacher hears in a piece that begins at a sample of the track."""
        if heard is None or self._teacher is None:
            return
        middles = (np.arange(len(heard)) + 0.5) * self.config.hop_samples
        inside = (middles >= at) & (middles < at + len(piece.samples))
        times_s = piece.times_s(middles[inside] - at, self.sample_rate)
        found = self._teacher.hear(piece.recording.file, times_s, self.config.labels)
        if found is not None:
            heard[inside] = found

    def _fill_without_pause(
        self, rng: np.random.Generator, label: str, track: Samples
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32] | None]:
        """Lay a sound that lasts into (sample,) a silent track; it is heard as its piece is on average.

        Returns:
            as `_fill_track`.
        """
        active, heard = np.zeros(len(track), bool), self._nothing_heard(len(track))
        hop = self.config.hop_samples
        first = 0 if rng.random() < _LASTS_ON else int(rng.uniform(0, len(track)))
        last = len(track) if rng.random() < _LASTS_ON else int(rng.uniform(first, len(track)))
        for _ in range(_MAX_PIECES):
            piece = self._draw_piece(rng, self._draw_clip(rng, label), label)
            held = piece.samples[piece.holds]
            n_fade = int(rng.uniform(*_SEAM_S) * self.sample_rate)
            if len(held) >= max(4 * n_fade, _LASTS_FROM_S * self.sample_rate):
                track[first:last] = lengthen(held, last - first, n_fade, rng)
                active[first:last] = True
                if heard is not None and self._teacher is not None:
                    times_s = piece.times_s(np.flatnonzero(piece.holds)[::hop], self.sample_rate)
                    found = self._teacher.hear(piece.recording.file, times_s, self.config.labels)
                    if found is not None:
                        heard[frame_share(active, hop) >= 0.5] = found.mean(axis=0)
                break
        return active, heard

    def _draw_piece(self, rng: np.random.Generator, recording: Recording, label: str) -> Cut:
        rate = self.sample_rate
        length = self.store.n_samples(recording.file)
        wanted = min(length, int(rng.uniform(*self.recipe.mix.piece_s) * rate))
        start = int(rng.integers(0, length - wanted + 1))
        samples = self.store.read(recording.file, start, start + wanted)
        samples, factor = self.change_delivery(samples, rng)
        self.note_clip(recording, start, factor)
        holds = np.zeros(len(samples), bool)
        for span in recording.spans:
            if span.label == label:
                end_s = length / rate if span.end_s is None else span.end_s
                first, last = ((int(t * rate) - start) / factor for t in (span.start_s, end_s))
                holds[max(0, int(first)) : max(0, int(last))] = True
        n_fade = min(int(_FADE_S * rate), len(samples) // 2)
        ramp = np.linspace(0, 1, n_fade, dtype=np.float32)
        samples[:n_fade] *= ramp
        samples[len(samples) - n_fade :] *= ramp[::-1]
        # Each recording at its own loudness first, so that a quiet one is not lost under its neighbours.
        loudness = float(np.sqrt(np.square(samples[holds]).mean())) if holds.any() else 0.0
        samples = samples * np.float32(10 ** (rng.uniform(-4, 4) / 20) / max(loudness, 1e-3))
        return Cut(samples, holds, recording, start, factor)

    def _cut(
        self, rng: np.random.Generator, n_examples: int, n_samples: int, n_frames: int
    ) -> tuple[Tensor, Tensor, list[tuple[str, ...]]]:
        """Cut windows out of annotated recordings.

        Returns:
            (example, sample), (example, frame, label) 0 to 1, and the phones of each example where they are known.
        """
        said: list[tuple[str, ...]] = []
        rows, targets = [], torch.zeros(n_examples, n_frames, len(self.config.labels))
        for example in range(n_examples):
            recording, start = self._draw_window(rng, n_samples)
            self.begin_note()
            self.note_clip(recording, start)
            rows.append(self.store.read(recording.file, start, start + n_samples))
            targets[example] = torch.from_numpy(self.annotate(recording, start, n_frames))
            said.append(self._said(recording, start, n_samples))
        return self.augment(pad_stack(rows, n_samples), rng), targets, said

    def _said(self, recording: Recording, start: int, n_samples: int) -> tuple[str, ...]:
        """Return the phones of a window, none where they are not known or nobody wants them."""
        if not self.config.phones:
            return ()
        length = self.store.n_samples(recording.file)
        return phones_within(recording, *(at / self.sample_rate for at in (start, start + n_samples, length)))

    def _draw_window(self, rng: np.random.Generator, n_samples: int) -> tuple[Recording, int]:
        """Draw a recording, or one that has a label which was drawn, and the first sample of a window of it."""
        balance = self.recipe.sample.balance_chance
        around = None
        if balance and rng.random() < balance:
            labels = sorted(self._labelled)
            spans = self._labelled[labels[rng.integers(len(labels))]]
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

        What is padded behind the shorter ones is no frame, and has no target.
        """
        first, first_start = self._draw_window(rng, n_samples)
        near = self._neighbours(first, n_samples)
        near_files = {recording.file for recording in near}
        hop = self.config.hop_samples
        length_s = min(n_samples, self.store.n_samples(first.file)) / self.sample_rate
        drawn = [(first, first_start)]
        for _ in range(max(1, round(self.recipe.optim.batch_s / max(length_s, 0.1))) - 1):
            recording, start = self._draw_window(rng, n_samples)
            if recording.file not in near_files:
                recording = near[int(rng.integers(len(near)))]
                start = int(rng.integers(0, max(1, self.store.n_samples(recording.file) - n_samples + 1)))
            drawn.append((recording, start - start % hop))
        for recording, start in drawn:
            self.begin_note()
            self.note_clip(recording, start)
        rows = [self.store.read(recording.file, start, start + n_samples) for recording, start in drawn]
        n_frames = torch.tensor([max(1, count_frames(len(row), hop)) for row in rows])
        most = int(n_frames.max())
        targets = torch.zeros(len(rows), most, len(self.config.labels))
        waveforms = self.augment(pad_stack(rows, most * hop), rng)
        for index, (recording, start) in enumerate(drawn):
            targets[index] = torch.from_numpy(self.annotate(recording, start, most))
            targets[index, int(n_frames[index]) :] = 0 if not self.config.overlapping else -1
            waveforms[index, len(rows[index]) :] = 0
        return Batch(
            self.with_margins(waveforms),
            n_frames,
            targets if self.config.overlapping else hard_targets(targets),
            index_phones([self._said(recording, start, n_samples) for recording, start in drawn], self.config.phones),
            torch.full((len(rows), most), IGNORED),
        )

    def _neighbours(self, recording: Recording, n_samples: int) -> Sequence[Recording]:
        """Return recordings of about the length of one, or all that fill a window if it does."""
        lengths = np.minimum(self._lengths, n_samples)
        length = min(n_samples, self.store.n_samples(recording.file))
        low, high = np.searchsorted(lengths, [_NEAR * length, length / _NEAR])
        return self._by_length[int(low) : max(int(high), int(low) + 1)]

    def annotate(self, recording: Recording, start: int, n_frames: int) -> NDArray[np.float32]:
        """Return (frame, label) 0 to 1: which labels manifest and teacher put on the frames from sample `start` on."""
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
        heard = self._teacher.hear(recording.file, times_s, self.config.labels)
        return blend(targets, heard, self.recipe.optim.soft_weight)


def is_audible(tracks: Tensor, hop_samples: int, audible_db: float) -> Tensor:
    """Return (example, frame, label) 1 where a track is no more than so much softer than all together, else 0.

    Args:
        tracks: (example, label, sample), a whole number of frames.
        hop_samples: samples of a frame.
        audible_db: how much softer it may be.
    """
    n_examples, n_labels, n_samples = tracks.shape
    frames = tracks.reshape(n_examples, n_labels, n_samples // hop_samples, hop_samples)
    power = frames.square().mean(dim=3).transpose(1, 2)
    audible: Tensor = power * 10 ** (audible_db / 10) >= power.sum(dim=2, keepdim=True)
    return audible.float()


def frame_share(active: NDArray[np.bool_], hop_samples: int) -> NDArray[np.float32]:
    """Return (frame,) the share of each frame's samples that are active; the length must be whole frames."""
    return np.asarray(active.reshape(-1, hop_samples).mean(axis=1), np.float32)


def hard_targets(targets: Tensor) -> Tensor:
    """Turn (batch, frame, label) 0 or 1 into (batch, frame) label indices, `IGNORED` where there is no label."""
    return torch.where(targets.sum(dim=2) > 0, targets.argmax(dim=2), IGNORED)


def pad_stack(rows: Sequence[Samples], n_samples: int | None = None) -> Tensor:
    """Stack (sample, ...) arrays of different lengths into (row, sample, ...), zeros behind the shorter ones."""
    stacked = np.zeros((len(rows), n_samples or max(map(len, rows)), *rows[0].shape[1:]), np.float32)
    for target, row in zip(stacked, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(stacked)
