"""An embedding of voices: examples to learn it from, the vectors of a teacher, and the loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from framecls.config import UNKNOWN, ModelConfig
from framecls.errors import ManifestError
from framecls.inference.windows import count_frames
from framecls.training.data.clips import ClipStore
from framecls.training.data.manifest import Recording
from framecls.training.examples.augment import Samples, play_at
from framecls.training.examples.mixtures import IGNORED, Batch, BatchMaker, pad_stack
from framecls.training.recipe import Recipe, VoiceConfig

_DEV_BATCH = 16
_MAX_PIECES = 24  # clips that one example is joined of
_GAP_S = 0.1


@dataclass(frozen=True)
class Teacher:
    """What another model makes of recordings, played at one speed or several."""

    vectors: Tensor  # (group, number) of unit length, their common part taken away
    rows: dict[Path, dict[float, int]]  # the row of `vectors` for each recording and speed


def read_teacher(path: Path) -> Teacher:
    """Read a file as `recipes.embed_corpus` writes it: the arrays files, speeds, group, and vectors.

    All vectors of one teacher have much in common; it says nothing of a voice, so their mean is taken away.

    Raises:
        ManifestError: the file cannot be read, or does not hold that.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            files, speeds, group = (arrays[name].tolist() for name in ("files", "speeds", "group"))
            vectors = torch.from_numpy(arrays["vectors"].astype(np.float32))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise ManifestError(f"{path}: not a teacher's file (arrays files, speeds, group, vectors): {error}") from error
    fits = vectors.ndim == 2 and len(files) == len(speeds) == len(group) > 0 and bool(torch.isfinite(vectors).all())
    if not fits or not 0 <= min(group) <= max(group) < len(vectors):
        raise ManifestError(f"{path}: not a teacher's file: its arrays do not fit together")
    rows: dict[Path, dict[float, int]] = defaultdict(dict)
    for file, speed, index in zip(files, speeds, group, strict=True):
        rows[path.parent / str(file)][round(float(speed), 4)] = int(index)
    return Teacher(functional.normalize(vectors - vectors.mean(dim=0), dim=1), dict(rows))


def find_dev_fault(
    recordings: Sequence[Recording], length_s: Callable[[Recording], float], piece_s: float
) -> str | None:
    """Return what keeps voices from being measured on some recordings, if anything does.

    Args:
        recordings: to measure on.
        length_s: gives the length of one.
        piece_s: what a voice says is cut into pieces of this length.
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
    """A source is drawn, one of its voices, a speed; then clips of that voice are joined and cut.

    A voice is the label of a recording; recordings of the label "unknown" are each a voice of their own, and only a
    teacher can say anything of them. At another speed a voice is another one.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: ModelConfig,
        recipe: Recipe,
        store: ClipStore,
        noise: Sequence[Recording] = (),
        teacher: Teacher | None = None,
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
        self._share = weights / weights.sum() if len(weights) else weights
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
        """How many voices there are to tell apart, each speed of one counted by itself."""
        return len(self._index)

    def make_batch(self, number: int) -> Batch:
        """Return batch `number`: pieces of one length."""
        rng = self.rng(number)
        length_s = float(rng.uniform(*self.recipe.sample.length_s))
        n_examples = max(2, round(self.recipe.optim.batch_s / length_s))
        drawn = [self._draw(rng, int(length_s * self.sample_rate)) for _ in range(n_examples)]
        waveforms = self.augment(pad_stack([samples for samples, _, _ in drawn]), rng)
        for row, (samples, _, _) in zip(waveforms, drawn, strict=True):
            row[len(samples) :] = 0
        taught = [vector for _, _, vector in drawn if vector is not None]
        voices = [voice for _, voice, _ in drawn]
        lengths = [len(samples) for samples, _, _ in drawn]
        return self._finish(waveforms, lengths, voices, teacher=torch.stack(taught) if taught else None)

    def _draw(self, rng: np.random.Generator, wanted: int) -> tuple[Samples, int, Tensor | None]:
        """Return (sample,) a piece of one voice, its index, and (number,) what the teacher makes of it."""
        source = self._sources[rng.choice(len(self._sources), p=self._share)]
        voices = self._tree[source]
        label, own = list(voices)[rng.integers(len(voices))]
        clips = voices[label, own]
        speeds = self._speeds(clips[0])
        speed = speeds[rng.integers(len(speeds))]
        self.begin_note()
        parts: list[Samples] = []
        taught = torch.zeros(self.config.embedding)
        n_samples = 0
        while n_samples < wanted and len(parts) < 2 * _MAX_PIECES:
            clip = clips[rng.integers(len(clips))]
            # Read no more than is wanted, from anywhere in the clip.
            needed = int((wanted - n_samples) * speed) + 1
            start = int(rng.integers(0, max(0, self.store.n_samples(clip.file) - needed) + 1))
            self.note_clip(clip, start, speed)
            samples = play_at(self.store.read(clip.file, start, start + needed), speed)[: wanted - n_samples]
            if self.teacher is not None and speed in self.teacher.rows[clip.file]:
                taught += len(samples) * self.teacher.vectors[self.teacher.rows[clip.file][speed]]
            gap = np.zeros(int(rng.uniform(*self.recipe.sample.join_gap_s) * self.sample_rate), np.float32)
            parts += [samples, gap]
            n_samples += len(samples) + len(gap)
        vector = functional.normalize(taught, dim=0) if self.teacher is not None else None
        return np.concatenate(parts)[:wanted], self._index.get((source, label, speed), IGNORED), vector

    def cut_voices(
        self, recordings: Sequence[Recording], length_s: float, per_voice: int = 12
    ) -> list[tuple[Samples, int, str]]:
        """Cut what each voice says into pieces of a length, its clips joined in order.

        Args:
            recordings: to measure on; those of unknown voices are left out.
            length_s: of a piece; what is left of a voice is dropped, unless it is all that there is.
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
            some = pieces[first : first + _DEV_BATCH]
            waveforms = pad_stack([samples for samples, _, _ in some])
            lengths = [len(samples) for samples, _, _ in some]
            yield self._finish(waveforms, lengths, [v for _, v, _ in some], tuple(source for _, _, source in some))

    def cut_voice(self, clips: Sequence[Recording], length_s: float) -> list[Samples]:
        """Return (sample,) pieces of a length of what one voice says."""
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
        teacher: Tensor | None = None,
    ) -> Batch:
        n_frames = [count_frames(length, self.config.hop_samples) for length in lengths]
        return Batch(
            self.with_margins(waveforms),
            torch.tensor(n_frames),
            torch.tensor(voices),
            torch.zeros((len(lengths), 0), dtype=torch.long),
            torch.full((len(lengths), max(n_frames)), IGNORED),
            sources,
            teacher=teacher,
        )

    def check(self) -> None:
        """Refuse recordings that there is nothing to learn from.

        Raises:
            ManifestError: what is missing.
        """
        if not self._tree or (self.teacher is None and self.n_voices < 2):
            raise ManifestError("no voices to tell apart: name at least two, or give --teacher vectors of these clips")

    def make_loss(self) -> VoiceLoss:
        """Return the loss of these voices; with a teacher their vectors begin where it has them.

        Raises:
            ManifestError: there is nothing to learn from, or the teacher's vectors are of another size.
        """
        self.check()
        size = self.config.embedding
        if self.teacher is None:
            return VoiceLoss(torch.randn(self.n_voices, size) / size**0.5, None, self.recipe.voices)
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
        return VoiceLoss(centres, self.teacher.vectors, self.recipe.voices)


class VoiceLoss(nn.Module):
    """Tell voices apart by a margin, and be close to the teacher.

    Args:
        centres: (voice, number) where the voices' own vectors begin; they are learnt with the network.
        anchors: (group, number) the teacher's vectors, or None.
        config: the weights of the parts.
    """

    def __init__(self, centres: Tensor, anchors: Tensor | None, config: VoiceConfig) -> None:
        super().__init__()
        self.config = config
        self.centres = nn.Parameter(functional.normalize(centres, dim=1)) if config.margin_weight else None
        self.register_buffer("anchors", None if anchors is None else torch.unique(anchors, dim=0), persistent=False)

    def forward(self, vectors: Tensor, batch: Batch) -> Tensor:
        """Return the loss of (example, number) unit vectors."""
        config = self.config
        loss = vectors.new_zeros(())
        if self.centres is not None:
            loss = loss + config.margin_weight * self._tell_apart(vectors, batch.targets.to(vectors.device))
        if batch.teacher is None:
            return loss
        teacher = batch.teacher.to(vectors.device)
        loss = loss + config.teacher_weight * (1 - (vectors * teacher).sum(dim=1)).mean()
        if config.anchor_weight:
            loss = loss + config.anchor_weight * self._compare(vectors, teacher)
        return loss

    def _tell_apart(self, vectors: Tensor, voices: Tensor) -> Tensor:
        assert self.centres is not None
        known = voices != IGNORED
        if not known.any():
            return vectors.new_zeros(())
        cosines = vectors[known] @ functional.normalize(self.centres, dim=1).T
        margins = self.config.margin * functional.one_hot(voices[known], len(self.centres))
        return functional.cross_entropy(self.config.scale * (cosines - margins), voices[known])

    def _compare(self, vectors: Tensor, teacher: Tensor) -> Tensor:
        anchors = self.get_buffer("anchors")
        sharpness = 1 / self.config.anchor_temperature
        wanted = (sharpness * teacher @ anchors.T).softmax(dim=1)
        found = (sharpness * vectors @ anchors.T).log_softmax(dim=1)
        return functional.kl_div(found, wanted, reduction="batchmean")
