"""Recordings divided into train and dev, or into folds: no speaker on both sides, and each label where it can be."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from framecls.errors import ManifestError
from framecls.training.choices import SplitBy
from framecls.training.data.labels import Split
from framecls.training.data.manifest import Recording, find_labels

_DEV_FOLDS = 7  # one of which is dev
# Whole sources go to dev only if that leaves enough on both sides.
_SOURCE_SHARE = (0.03, 0.4)

Folds = NDArray[np.int64]  # (recording,) the number of the fold in which each is held out, from 0


@dataclass(frozen=True)
class Parts:
    """The train and dev recordings, and how they were split."""

    train: list[Recording]
    dev: list[Recording]
    how: str
    shared: tuple[str, ...]  # named speakers on both sides all the same

    def find_fault(self) -> str | None:
        """Return which side is empty, in words; None if neither is."""
        for name, side in (("train", self.train), ("dev", self.dev)):
            if not side:
                return f"the {name} split is empty: name more speakers, or give each row a split, train or dev"
        return None


def split_recordings(recordings: Sequence[Recording], seed: int = 0, by: SplitBy | None = None) -> Parts:
    """Split recordings into train and dev.

    Recordings whose split is given stay there. Of the others, about one speaker in seven goes to dev with all of their
    recordings, since a speaker of the training set is no test. Each label is on both sides if two speakers have it.

    Args:
        recordings: all of them.
        seed: of the random choice.
        by: what stays together: a speaker; a source, with every speaker in it; or a file. None: the source where every
            recording names one and enough is left on both sides, else the speaker, or the file where the label itself
            is the speaker.
    """
    free = [recording for recording in recordings if recording.split is None]
    if not free:
        return _split(recordings, [], "as given")
    given = "" if len(free) == len(recordings) else " where no split is given"
    if by is not None:
        return _split(recordings, _choose_sides(free, seed, by), f"by {by}{given}")
    if labels_are_speakers(free):
        sides = _choose_sides(free, seed, "file")
        return _split(recordings, sides, f"by file{given}, since the labels are the speakers")
    if have_sources(free):
        parts = _split(recordings, _choose_sides(free, seed, "source"), f"by speaker and source{given}")
        if _has_enough(parts):
            return parts
        given += " (whole sources would leave too little on one side, or a label on one side only)"
    return _split(recordings, _choose_sides(free, seed, "speaker"), f"{_by_speaker(free)}{given}")


def labels_are_speakers(recordings: Sequence[Recording]) -> bool:
    """Return whether each recording's label is who speaks, so that no speaker can be held out."""
    return all(
        recording.is_named and recording.spans and recording.speaker == recording.label for recording in recordings
    )


def have_sources(recordings: Sequence[Recording]) -> bool:
    """Return whether each recording names its source, and not all the same."""
    return all(recording.source for recording in recordings) and len({r.source for r in recordings}) > 1


def _by_speaker(recordings: Sequence[Recording]) -> str:
    named = any(recording.is_named for recording in recordings)
    return "by speaker" if named else "by file, since no speakers are named"


def choose_split_by(asked: SplitBy | None, *, voices: bool) -> SplitBy | None:
    """Return what stays together in `split_recordings`: as asked for, else as the kind of model needs.

    A model of voices is for new speakers, so none may be on both sides although the speaker is the label.
    """
    return asked or ("speaker" if voices else None)


def _split(recordings: Sequence[Recording], sides: Sequence[Split], how: str) -> Parts:
    free = iter(sides)
    chosen = [(recording, recording.split or next(free)) for recording in recordings]
    train = [recording for recording, side in chosen if side == "train"]
    dev = [recording for recording, side in chosen if side == "dev"]
    return Parts(train, dev, how, tuple(sorted(_named(train) & _named(dev))))


def _named(recordings: Iterable[Recording]) -> set[str]:
    return {name for recording in recordings if recording.is_named for name in (recording.speaker, *recording.others)}


def _has_enough(parts: Parts) -> bool:
    share = len(parts.dev) / (len(parts.train) + len(parts.dev))
    is_learnt = set(find_labels(parts.dev)) <= set(find_labels(parts.train))
    return _SOURCE_SHARE[0] <= share <= _SOURCE_SHARE[1] and is_learnt


def _choose_sides(recordings: Sequence[Recording], seed: int, by: SplitBy) -> list[Split]:
    """Choose a side for each recording at random; those with a speaker (or source, or file) in common share a side."""
    groups = find_groups(recordings, by)
    folds = assign_folds(recordings, groups, _DEV_FOLDS, seed)
    sides = spread_labels(recordings, groups, ((folds == 0) & (folds.max() > 0)).astype(np.int64))
    return ["dev" if side else "train" for side in sides]


def find_groups(recordings: Sequence[Recording], by: SplitBy) -> list[str]:
    """Return for each recording the name of the group that it cannot be parted from."""
    from scipy.cluster.hierarchy import DisjointSet

    keys = [_keys(recording, by) for recording in recordings]
    sets = DisjointSet(name for names in keys for name in names)
    for first, *others in keys:
        for other in others:
            sets.merge(first, other)
    first_of = {name: min(together) for together in sets.subsets() for name in together}
    return [first_of[names[0]] for names in keys]


def assign_folds(recordings: Sequence[Recording], groups: Sequence[str], n_folds: int, seed: int) -> Folds:
    """Divide recordings into folds, groups whole and each label as evenly as they allow (a recording's rarest counts).

    There are fewer folds where there are fewer groups, and a label of two groups or more is in two folds at least.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    n_folds = min(n_folds, len(set(groups)))
    folds = np.zeros(len(recordings), np.int64)
    if n_folds < 2:
        return folds
    counts = Counter(label for recording in recordings for label in _labels_of(recording))
    rarest = [min(_labels_of(recording), key=lambda label: (counts[label], label)) for recording in recordings]
    order = np.random.default_rng(seed).permutation(len(recordings))
    splitter = StratifiedGroupKFold(n_folds)
    _, classes, sizes = np.unique(rarest, return_inverse=True, return_counts=True)
    if sizes.max() < n_folds:  # no label is in all folds, so none can be evenly
        classes[:] = 0
    _, members = np.unique(np.array(groups), return_inverse=True)
    with warnings.catch_warnings():  # of a label rarer than there are folds, which is seen to below
        warnings.simplefilter("ignore")
        for number, (_, held_out) in enumerate(splitter.split(order, classes[order], members[order])):
            folds[order[held_out]] = number
    return spread_labels(recordings, groups, folds)


def spread_labels(recordings: Sequence[Recording], groups: Sequence[str], folds: Folds) -> Folds:
    """Move groups until each label that two of them have is in two folds at least, and no fold is left empty."""
    folds = folds.copy()
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    labels = {group: set().union(*(_labels_of(recordings[i]) for i in ids)) for group, ids in members.items()}
    holders = {label: [g for g in members if label in labels[g]] for label in sorted(set().union(*labels.values()))}
    fold_of = {group: int(folds[ids[0]]) for group, ids in members.items()}
    n_folds = max(2, max(fold_of.values(), default=0) + 1)

    def lonely(label: str) -> bool:
        return len(holders[label]) > 1 and len({fold_of[group] for group in holders[label]}) == 1

    for label in sorted(holders, key=lambda label: len(holders[label])):
        if not lonely(label):
            continue
        sizes = Counter({fold: 0 for fold in range(n_folds)})
        for group, fold in fold_of.items():
            sizes[fold] += len(members[group])
        home = fold_of[holders[label][0]]
        target = min((fold for fold in range(n_folds) if fold != home), key=lambda fold: (sizes[fold], fold))
        for group in sorted(holders[label], key=lambda g: (len(labels[g]), len(members[g]), g)):
            fold_of[group] = target
            if not any(lonely(other) for other in labels[group]):
                break
            fold_of[group] = home
    for group, ids in members.items():
        folds[ids] = fold_of[group]
    return folds


def find_unsplittable(recordings: Sequence[Recording], groups: Sequence[str]) -> list[str]:
    """Return a line for each label that only one group has: held out it is not learnt, learnt it is not measured."""
    holders: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for recording, group in zip(recordings, groups, strict=True):
        for label in find_labels([recording]):
            holders[label].add(group)
            counts[label] += 1
    lines = []
    for label in sorted(holders):
        if len(holders[label]) == 1:
            n, name = counts[label], next(iter(holders[label])).removeprefix("source ")
            lines.append(f"{label}{_ONLY}{name}" if n == 1 else f"{label}: all {n} clips are from {name}")
    return lines


_ONLY = ": its only clip is "
_OR_FILES = ", or let clips of one be on both sides (--split-by file)"


def require_splittable(recordings: Sequence[Recording], groups: Sequence[str]) -> None:
    """Refuse labels that cannot be both learnt and measured.

    Raises:
        ManifestError: it names them.
    """
    if lines := find_unsplittable(recordings, groups):
        what = "1 label has" if len(lines) == 1 else f"{len(lines)} labels have"
        raise ManifestError(
            f"{what} clips from one place only, so nothing could tell whether it was learnt: add clips from another "
            f"speaker or source{'' if all(_ONLY in line for line in lines) else _OR_FILES}",
            lines,
        )


def _labels_of(recording: Recording) -> set[str]:
    return {span.label for span in recording.spans} or {""}


def _keys(recording: Recording, by: SplitBy) -> list[str]:
    if by == "file":
        return [recording.name]
    speakers = [recording.speaker, *recording.others]
    return [f"source {recording.source}", *speakers] if by == "source" and recording.source else speakers
