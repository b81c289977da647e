"""What is held out when: folds of the recordings of a job, as its labels, speakers and sources allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.errors import ManifestError
from framecls.training.choices import SplitBy
from framecls.training.data.manifest import Recording
from framecls.training.data.splits import (
    assign_folds,
    find_groups,
    find_unsplittable,
    have_sources,
    labels_are_speakers,
    require_splittable,
    split_recordings,
)
from framecls.training.job import Job

_FEW = 200  # clips below which each counts, and five folds take little time
_FOLDS_OF_FEW, _FOLDS_OF_MANY = 5, 3
_NEVER = -1


@dataclass(frozen=True, eq=False)
class Plan:
    """Which recordings are held out together."""

    folds: NDArray[np.int64]  # (recording,) in which each is held out, from 0; -1: in none
    groups: list[str]  # of each recording, what it was not parted from
    how: str  # in words
    is_given: bool = False  # the manifest says what to measure on, so that is never learnt from

    @property
    def n_folds(self) -> int:
        """How many folds there are."""
        return int(self.folds.max()) + 1

    def train(self, fold: int) -> NDArray[np.int64]:
        """Return the numbers of the recordings that are learnt from while a fold is held out."""
        return np.flatnonzero(self.folds != fold)

    def held_out(self, fold: int) -> NDArray[np.int64]:
        """Return the numbers of the recordings of a fold."""
        return np.flatnonzero(self.folds == fold)

    def final(self) -> NDArray[np.int64]:
        """Return the numbers of the recordings that the final model learns from."""
        return np.flatnonzero(self.folds == _NEVER) if self.is_given else np.arange(len(self.folds))


def plan_folds(job: Job, recordings: Sequence[Recording]) -> Plan:
    """Divide the recordings of a job.

    Raises:
        ManifestError: a label cannot be both learnt and measured, by name.
    """
    if any(recording.split is not None for recording in recordings):
        parts = split_recordings(recordings, job.recipe.optim.seed, job.split_by)
        if fault := parts.find_fault():
            raise ManifestError(f"{job.manifest}: {fault}")
        dev = {recording.file for recording in parts.dev}
        folds = np.array([0 if recording.file in dev else _NEVER for recording in recordings])
        return Plan(folds, [recording.name for recording in recordings], parts.how, is_given=True)
    by, note = _choose_by(job.split_by, recordings)
    groups = find_groups(recordings, by)
    require_splittable(recordings, groups)
    wanted = job.recipe.head.folds or (_FOLDS_OF_FEW if len(recordings) < _FEW else _FOLDS_OF_MANY)
    folds = assign_folds(recordings, groups, wanted, job.recipe.optim.seed)
    return Plan(folds, groups, f"{int(folds.max()) + 1} folds by {by}{note}")


def _choose_by(asked: SplitBy | None, recordings: Sequence[Recording]) -> tuple[SplitBy, str]:
    """Return what stays together, and why if that is not what it names: the widest that leaves two of each."""
    if asked is not None:
        return asked, ""
    if labels_are_speakers(recordings):
        return "file", ", since the labels are the speakers"
    if have_sources(recordings):
        lost = find_unsplittable(recordings, find_groups(recordings, "source"))
        if not lost:
            return "source", ""
        return "speaker", f", since sources would leave a label on one side only ({lost[0]})"
    if any(recording.is_named for recording in recordings):
        return "speaker", ""
    return "file", ", since neither speakers nor sources are named"
