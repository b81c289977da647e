"""Examples of a model of voices: recordings of one voice, joined and cut."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from framecls.config import UNKNOWN, ModelConfig
from framecls.errors import ManifestError
from framecls.inference.windows import count_frames
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.examples.augment import Samples, change_speed
from framecls.training.examples.batch import IGNORED, Batch, BatchMaker, pad_stack
from framecls.training.examples.teachers import VoiceTeacher
from framecls.training.recipe import Recipe

_DEV_BATCH = 16
_MAX_PARTS = 48  # recordings and pauses that one example is joined of
_GAP_S = 0.1


def find_dev_fault(
    recordings: Sequence[Recording], length_s: Callable[[Recording], float], piece_s: float
) -> str | None:
    """Return why voices cannot be measured on some recordings; None if they can.

    Args:
        recordings: to measure on.
        length_s: returns the length of one.
        piece_s: length of the pieces that are compared.
    """
    spoken_s: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for recording in recordings:
        if recording.label != UNKNOWN:
            spoken_s[recording.source][recording.label] += length_s(recording) + _GAP_S
    # Pairs of one voice and pairs of two are compared, within a source.
    if any(len(voices) > 1 and max(voices.values()) >= 2 * piece_s for voices in spoken_s.values()):
        return None
    where = " of one source" if len(spoken_s) > 1 else ""
    return (
        f"voices cannot be told apart on this dev split: it needs two{where}, and {2 * piece_s:g} s of one of them: "
        "name more speakers, or give rows the split dev"
    )


class VoiceExamples(BatchMaker):
    """Make batches of one voice an example: sample a source, a voice and a speed, then join and cut its recordings.

    The voice of a recording is its label; each recording labelled "unknown" is a voice of its own, from which only a
    teacher makes a target. At another speed a voice counts as another one.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: ModelConfig,
        recipe: Recipe,
        store: ClipStore,
        noise: Sequence[Recording] = (),
        teacher: VoiceTeacher | None = None,
    ) -> None:
        super().__init__(config, recipe, store, noise)
        self.teacher = teacher
        tree: dict[str, dict[tuple[str, str], list[Recording]]] = {}
        for recording in recordings:
            if self._speeds(recording) and store.n_samples(recording.file):
                own = str(recording.file) if recording.label == UNKNOWN else ""
                tree.setdefault(recording.source, {}).setdefault((recording.label, own), []).append(recording)
        self._tree = tree
        self._sources = sorted(tree)
        weights = np.array([recipe.sample.source_weight.get(source, 1.0) for source in self._sources])
        self._source_weights = weights / weights.sum() if len(weights) else weights
        known = {
            (source, label, speed)
            for source, voices in tree.items()
            for (label, own), clips in voices.items()
            for speed in self._speeds(clips[0])
            if not own
        }
        self._index = {key: index for index, key in enumerate(sorted(known))}

    def _speeds(self, recording: Recording) -> list[float]:
        if self.teacher is None:
            return list(self.recipe.voices.speeds)
        return sorted(self.teacher.rows.get(recording.file, {}))

    @property
    def n_voices(self) -> int:
        """How many voices there are, each speed of one counted by itself."""
        return len(self._index)

    def make_batch(self, number: int) -> Batch:
        """Return batch `number`: pieces of one length."""
        rng = self.rng(number)
        length_s = float(rng.uniform(*self.recipe.sample.length_s))
        n_examples = max(2, round(self.recipe.optim.batch_s / length_s))
        examples = [self._sample_example(rng, int(length_s * self.sample_rate)) for _ in range(n_examples)]
        waveforms = self.augment(pad_stack([samples for samples, _, _ in examples]), rng)
        for row, (samples, _, _) in zip(waveforms, examples, strict=True):
            row[len(samples) :] = 0
        vectors = [vector for _, _, vector in examples if vector is not None]
        voices = [voice for _, voice, _ in examples]
        lengths = [len(samples) for samples, _, _ in examples]
        return self._finish(waveforms, lengths, voices, teacher_vectors=torch.stack(vectors) if vectors else None)

    def _sample_example(self, rng: np.random.Generator, wanted: int) -> tuple[Samples, int, Tensor | None]:
        """Return (sample,) a piece of one voice, the index of the voice, and (number,) the teacher's embedding."""
        source = self._sources[rng.choice(len(self._sources), p=self._source_weights)]
        voices = self._tree[source]
        label, own = list(voices)[rng.integers(len(voices))]
        clips = voices[label, own]
        speeds = self._speeds(clips[0])
        speed = speeds[rng.integers(len(speeds))]
        self.begin_note()
        parts: list[Samples] = []
        vector = torch.zeros(self.config.embedding)
        n_samples = 0
        while n_samples < wanted and len(parts) < _MAX_PARTS:
            clip = clips[rng.integers(len(clips))]
            # Read only what is needed, from anywhere in the recording.
            needed = int((wanted - n_samples) * speed) + 1
            start = int(rng.integers(0, max(0, self.store.n_samples(clip.file) - needed) + 1))
            self.note_clip(clip, start, speed)
            samples = change_speed(self.store.read(clip.file, start, start + needed), speed)[: wanted - n_samples]
            if self.teacher is not None and speed in self.teacher.rows[clip.file]:
                vector += len(samples) * self.teacher.vectors[self.teacher.rows[clip.file][speed]]
            gap = np.zeros(int(rng.uniform(*self.recipe.sample.join_gap_s) * self.sample_rate), np.float32)
            parts += [samples, gap]
            n_samples += len(samples) + len(gap)
        target = functional.normalize(vector, dim=0) if self.teacher is not None else None
        return np.concatenate(parts)[:wanted], self._index.get((source, label, speed), IGNORED), target

    def cut_voices(
        self, recordings: Sequence[Recording], length_s: float, per_voice: int = 12
    ) -> list[tuple[Samples, int, str]]:
        """Join the recordings of each voice in order and cut them into pieces of a length.

        Args:
            recordings: to measure on; those of unknown voices are left out.
            length_s: of a piece; a shorter rest is dropped, unless it is all there is of a voice.
            per_voice: pieces at most of one voice.

        Returns:
            (sample,) each piece, the index of its voice, and the name of its source.
        """
        voices: dict[tuple[str, str], list[Recording]] = defaultdict(list)
        for recording in recordings:
            if recording.label != UNKNOWN:
                voices[recording.source, recording.label].append(recording)
        return [
            (piece, index, source)
            for index, ((source, _), clips) in enumerate(sorted(voices.items()))
            for piece in self.cut_voice(clips, length_s)[:per_voice]
        ]

    def dev_batches(self, recordings: Sequence[Recording], length_s: float, per_voice: int = 12) -> Iterator[Batch]:
        """Yield the pieces of `cut_voices`, without augmentation; each is one window, however long."""
        pieces = self.cut_voices(recordings, length_s, per_voice)
        for first in range(0, len(pieces), _DEV_BATCH):
            samples, voices, sources = zip(*pieces[first : first + _DEV_BATCH], strict=True)
            yield self._finish(pad_stack(samples), [len(piece) for piece in samples], voices, sources)

    def cut_voice(self, clips: Sequence[Recording], length_s: float) -> list[Samples]:
        """Return (sample,) pieces of a length of the recordings of one voice."""
        gap = np.zeros(int(_GAP_S * self.sample_rate), np.float32)
        joined = np.concatenate([part for clip in clips for part in (self.store.read(clip.file), gap)])
        wanted = int(length_s * self.sample_rate)
        whole = len(joined) // wanted
        return [joined[i * wanted : (i + 1) * wanted] for i in range(whole)] or [joined]

    def _finish(
        self,
        waveforms: Tensor,
        lengths: Sequence[int],
        voices: Sequence[int],
        sources: tuple[str, ...] = (),
        teacher_vectors: Tensor | None = None,
    ) -> Batch:
        n_frames = [count_frames(length, self.config.hop_samples) for length in lengths]
        return Batch(
            self.with_margins(waveforms),
            torch.tensor(n_frames),
            torch.tensor(voices),
            torch.zeros((len(lengths), 0), dtype=torch.long),
            torch.full((len(lengths), max(n_frames)), IGNORED),
            sources,
            teacher_vectors=teacher_vectors,
        )

    def check(self) -> None:
        """Check that there is something to learn.

        Raises:
            ManifestError: what is missing.
        """
        if not self._tree or (self.teacher is None and self.n_voices < 2):
            raise ManifestError("no voices to tell apart: name at least two, or give --teacher vectors of these clips")

    def initial_centres(self) -> Tensor:
        """Return (voice, number) where the vector of each voice begins: at the teacher's mean, or at random.

        Raises:
            ManifestError: there is nothing to learn from, or the teacher's vectors are of another size.
        """
        self.check()
        size = self.config.embedding
        if self.teacher is None:
            return torch.randn(self.n_voices, size).div(size**0.5)
        if self.teacher.vectors.shape[1] != size:
            raise ManifestError(
                f"the teacher's vectors have {self.teacher.vectors.shape[1]} numbers, the model's {size}: "
                "set embedding in the recipe to that"
            )
        centres = torch.zeros(self.n_voices, size)
        for (source, label, speed), index in self._index.items():
            for clip in self._tree[source][label, ""]:
                rows = self.teacher.rows[clip.file]
                if speed in rows:
                    centres[index] += self.teacher.vectors[rows[speed]]
        return centres
