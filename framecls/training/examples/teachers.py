"""Soft targets from other models: posteriors of every frame, and embeddings of voices, read from .npz files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from framecls.errors import ManifestError


@dataclass(frozen=True, eq=False)
class FrameTeacher:
    """The posteriors of another model, at frames of its own."""

    scores: NDArray[np.float16]  # (frame, label) of all recordings, one after the other; NaN where there is none
    rows: dict[Path, tuple[int, int]]  # the rows [first, last) of each recording
    labels: tuple[str, ...]
    hop_s: float

    def posteriors_at(
        self, file: Path, times_s: NDArray[np.float64], labels: Sequence[str]
    ) -> NDArray[np.float32] | None:
        """Interpolate (time, label) posteriors at times of a recording; None if the teacher has none of it.

        Labels that the teacher does not know are NaN.
        """
        if file not in self.rows:
            return None
        first, last = self.rows[file]
        known = self.scores[first:last].astype(np.float32)
        centres_s = (np.arange(len(known)) + 0.5) * self.hop_s
        posteriors = np.full((len(times_s), len(labels)), np.nan, np.float32)
        for column, label in enumerate(labels):
            if label in self.labels:
                posteriors[:, column] = np.interp(times_s, centres_s, known[:, self.labels.index(label)])
        return posteriors


def blend_targets(
    hard: NDArray[np.float32], posteriors: NDArray[np.float32] | None, weight: float
) -> NDArray[np.float32]:
    """Average (frame, label) hard targets and a teacher's posteriors by a weight, where there are posteriors."""
    if posteriors is None:
        return hard
    return np.where(np.isnan(posteriors), hard, (1 - weight) * hard + weight * posteriors).astype(np.float32)


def read_frame_teacher(path: Path, labels: Sequence[str]) -> FrameTeacher:
    """Read an npz of the arrays files (relative to its folder), ends (of each file, the row after its last), scores,
    labels and hop (seconds); frame n of a recording has its centre at (n + 0.5) * hop.

    Raises:
        ManifestError: the file cannot be read, has other arrays, or knows none of the labels.
    """
    arrays = _load_arrays(path, "files", "ends", "scores", "labels", "hop")
    try:
        files, ends, known = (arrays[name].ravel().tolist() for name in ("files", "ends", "labels"))
        scores, hop_s = arrays["scores"].astype(np.float16), float(arrays["hop"])
    except (ValueError, TypeError) as error:
        raise ManifestError(f"{path}: not a teacher's file: {error}") from error
    starts = [0, *ends[:-1]]
    fits = scores.ndim == 2 and scores.shape[1] == len(known) and hop_s > 0 and len(files) == len(ends) > 0
    if not fits or ends[-1] != len(scores) or any(end <= start for start, end in zip(starts, ends, strict=True)):
        raise ManifestError(f"{path}: not a teacher's file: its arrays do not fit together")
    if bool((scores < 0).any() or (scores > 1).any()):
        raise ManifestError(f"{path}: not a teacher's file: scores are probabilities, 0 to 1")
    if not set(known) & set(labels):
        raise ManifestError(f"{path}: the teacher knows {', '.join(map(str, known))}; none of them is a label here")
    rows = {path.parent / str(file): span for file, span in zip(files, zip(starts, ends, strict=True), strict=True)}
    return FrameTeacher(scores, rows, tuple(map(str, known)), hop_s)


@dataclass(frozen=True)
class VoiceTeacher:
    """The embeddings of another model, of recordings played at one speed or several."""

    vectors: Tensor  # (group, number) of unit length, their mean subtracted
    rows: dict[Path, dict[float, int]]  # the row of `vectors` for each recording and speed


def read_voice_teacher(path: Path) -> VoiceTeacher:
    """Read an npz as `recipes.embed_corpus` writes it: the arrays files, speeds, group, and vectors.

    What all embeddings of a model have in common says nothing of a voice, so their mean is subtracted.

    Raises:
        ManifestError: the file cannot be read, or has other arrays.
    """
    arrays = _load_arrays(path, "files", "speeds", "group", "vectors")
    try:
        files, speeds, group = (arrays[name].ravel().tolist() for name in ("files", "speeds", "group"))
        vectors = torch.from_numpy(arrays["vectors"].astype(np.float32))
    except (ValueError, TypeError) as error:
        raise ManifestError(f"{path}: not a teacher's file: {error}") from error
    fits = vectors.ndim == 2 and len(files) == len(speeds) == len(group) > 0 and bool(torch.isfinite(vectors).all())
    if not fits or not 0 <= min(group) <= max(group) < len(vectors):
        raise ManifestError(f"{path}: not a teacher's file: its arrays do not fit together")
    rows: dict[Path, dict[float, int]] = defaultdict(dict)
    for file, speed, index in zip(files, speeds, group, strict=True):
        rows[path.parent / str(file)][round(float(speed), 4)] = int(index)
    return VoiceTeacher(functional.normalize(vectors - vectors.mean(dim=0), dim=1), dict(rows))


def _load_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise ManifestError(f"{path}: not a teacher's file (arrays {', '.join(names)}): {error}") from error
