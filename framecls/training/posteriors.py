"""What another model hears in every frame of recordings, for a model of frames to learn from beside the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecls.errors import ManifestError


@dataclass(frozen=True, eq=False)
class FrameTeacher:
    """Probabilities of another model, in frames of its own."""

    scores: NDArray[np.float16]  # (frame, label) of all recordings, one after the other; not a number: nobody was asked
    rows: dict[Path, tuple[int, int]]  # of each recording, its first row and the one after its last
    labels: tuple[str, ...]
    hop_s: float

    def hear(self, file: Path, times_s: NDArray[np.float64], labels: Sequence[str]) -> NDArray[np.float32] | None:
        """Return (time, label) probabilities at times of a recording, between its frames along a line.

        Labels that the teacher does not know are not a number; None: it has not heard the recording.
        """
        if file not in self.rows:
            return None
        first, last = self.rows[file]
        known = self.scores[first:last].astype(np.float32)
        centres_s = (np.arange(len(known)) + 0.5) * self.hop_s
        heard = np.full((len(times_s), len(labels)), np.nan, np.float32)
        for column, label in enumerate(labels):
            if label in self.labels:
                heard[:, column] = np.interp(times_s, centres_s, known[:, self.labels.index(label)])
        return heard


def blend(hard: NDArray[np.float32], heard: NDArray[np.float32] | None, weight: float) -> NDArray[np.float32]:
    """Move (frame, label) hard targets towards what a teacher heard, by a weight, where it was asked."""
    if heard is None:
        return hard
    return np.where(np.isnan(heard), hard, (1 - weight) * hard + weight * heard).astype(np.float32)


def read_frame_teacher(path: Path, labels: Sequence[str]) -> FrameTeacher:
    """Read an npz of the arrays files (paths, from its own folder), ends (of each, the row after its last), scores,
    labels and hop (seconds); frame n of a recording is around (n + 0.5) * hop.

    Raises:
        ManifestError: the file cannot be read, does not hold that, or knows none of the labels.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            files, ends, known = (arrays[name].tolist() for name in ("files", "ends", "labels"))
            scores, hop_s = arrays["scores"].astype(np.float16), float(arrays["hop"])
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        what = "arrays files, ends, scores, labels, hop"
        raise ManifestError(f"{path}: not a teacher's file ({what}): {error}") from error
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
