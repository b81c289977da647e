"""Splits and folds: nobody on both sides, and every label on each where it can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framecls.errors import ManifestError
from framecls.training.data.manifest import Recording, Span
from framecls.training.data.splits import (
    assign_folds,
    find_groups,
    find_unsplittable,
    require_splittable,
    split_recordings,
)


def record(number: int, label: str, speaker: str, source: str = "") -> Recording:
    name = f"{number}.wav"
    return Recording(Path(name), (Span(label),), speaker, source, name=name)


def test_no_label_is_left_without_dev_clips() -> None:
    """107 clips of six kinds, of which the rarest had none: the split that `framecls train` crashed on."""
    sizes = {"robin": 30, "wren": 25, "owl": 20, "frog": 15, "toad": 9, "newt": 8}
    labels = [label for label, size in sizes.items() for _ in range(size)]
    recordings = [record(i, label, f"s{i}") for i, label in enumerate(labels)]
    for seed in range(10):
        parts = split_recordings(recordings, seed)
        for side in (parts.train, parts.dev):
            assert {r.label for r in side} == set(sizes)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), min_size=2, max_size=60),
    st.integers(2, 6),
    st.integers(0, 5),
)
def test_folds_keep_groups_whole_and_spread_labels(rows: list[tuple[str, int]], n_folds: int, seed: int) -> None:
    recordings = [record(i, label, f"s{speaker}") for i, (label, speaker) in enumerate(rows)]
    groups = find_groups(recordings, "speaker")
    folds = assign_folds(recordings, groups, n_folds, seed)
    by_group = {group: {int(f) for f, g in zip(folds, groups, strict=True) if g == group} for group in groups}
    assert all(len(found) == 1 for found in by_group.values())
    lost = {line.partition(":")[0] for line in find_unsplittable(recordings, groups)}
    for label in {label for label, _ in rows} - lost:
        held = {int(f) for f, r in zip(folds, recordings, strict=True) if r.label == label}
        if len(set(groups)) >= 4:  # with fewer groups a label can only be where another has to be as well
            assert len(held) > 1


def test_labels_are_even_over_folds() -> None:
    recordings = [record(i, "ab"[i % 4 == 0], f"s{i}") for i in range(100)]
    folds = assign_folds(recordings, find_groups(recordings, "speaker"), 5, 0)
    assert np.bincount(folds).tolist() == [20] * 5
    assert all(sum(r.label == "b" for r, f in zip(recordings, folds, strict=True) if f == n) == 5 for n in range(5))


def test_what_cannot_be_split_is_named() -> None:
    recordings = [record(0, "owl", "x", "pond"), record(1, "owl", "y", "pond"), record(2, "wren", "z", "wood")]
    recordings.append(record(3, "wren", "v", "hill"))
    assert find_unsplittable(recordings, find_groups(recordings, "source")) == ["owl: all 2 clips are from pond"]
    assert find_unsplittable(recordings, find_groups(recordings, "speaker")) == []
    with pytest.raises(ManifestError, match=r"1 label has clips from one place only.*owl: all 2 clips are from pond"):
        require_splittable(recordings, find_groups(recordings, "source"))
