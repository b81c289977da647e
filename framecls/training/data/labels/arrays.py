"""Precomputed features: one (vector, feature) array an utterance, with a label for each vector or for all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.errors import ManifestError, is_out_of_memory
from framecls.training.data.labels.folders import read_folders
from framecls.training.data.labels.rows import (
    ARRAY_SUFFIXES,
    Found,
    LabelSettings,
    Row,
    Split,
    index_by_stem,
    read_text,
    split_of,
)

# Suffixes of a file of frame labels beside a.npy, after "a".
_BESIDE = (".labels.npy", ".labels.pt", ".labels.txt", ".txt", ".lab")
_LABELS_WORD = "label"  # in the name of a text file that has a line of labels for each utterance
_MAX_FEATURES = 4096


def load_array(file: Path) -> NDArray[Any]:
    """Read an array of numbers from .npy or .pt, without unpickling code.

    Raises:
        ManifestError: it is neither, or holds something else.
    """
    try:
        if file.suffix.lower() == ".npy":
            return np.asarray(np.load(file, allow_pickle=False))
        import torch

        value = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        raise ManifestError(f"no plain array of numbers ({type(error).__name__})") from None
    if not isinstance(value, torch.Tensor):
        raise ManifestError(f"it holds a {type(value).__name__}, not one tensor")
    return np.asarray(value.float().numpy() if value.is_floating_point() else value.numpy())


def load_vectors(file: Path) -> NDArray[np.float32]:
    """Read (vector, feature) float32.

    Raises:
        ManifestError: it has other axes, or numbers that are not finite.
    """
    array = load_array(file)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu" or array.shape[1] > _MAX_FEATURES:
        raise ManifestError(f"an array (vector, feature) of numbers is expected, not {array.dtype} {array.shape}")
    with np.errstate(over="ignore"):
        vectors = array.astype(np.float32)
    if not np.isfinite(vectors).all():
        raise ManifestError("it holds numbers that are not finite")
    return vectors


def read_frame_labels(file: Path) -> list[str]:
    """Read a label for each vector: an array (vector,), or words with white space between.

    Raises:
        ManifestError: it is neither.
    """
    if file.suffix.lower() not in ARRAY_SUFFIXES:
        return read_text(file).split()
    array = load_array(file)
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise ManifestError(f"an array (vector,) of whole numbers is expected, not {array.dtype} {array.shape}")
    return [str(value) for value in array.tolist()]


def frame_label_rows(row: Row, labels: Sequence[str], vectors_per_s: float) -> Iterator[Row]:
    """Yield a copy of the row for each run of equal labels of its vectors."""
    first = 0
    for last in range(1, len(labels) + 1):
        if last == len(labels) or labels[last] != labels[first]:
            start_s, end_s = first / vectors_per_s, last / vectors_per_s
            where = f"{row.where}, vector {first}"
            yield replace(row, label=labels[first], where=where, start_s=start_s, end_s=end_s)
            first = last


def read_arrays(root: Path, files: Sequence[Path], reading: LabelSettings) -> Found:
    """Read a folder of arrays and the labels of their vectors.

    They are in a text file with "label" in its name and a line an utterance (its name, then the labels), or in a
    file beside each array; without either, the folder of an array is its label.

    Raises:
        ManifestError: no label can be found.
    """
    arrays = [file for file in files if file.suffix.lower() in ARRAY_SUFFIXES and ".labels" not in file.name]
    if lists := [file for file in files if _LABELS_WORD in file.stem.lower() and file.suffix.lower() == ".txt"]:
        lists = [file for file in lists if not file.name.endswith(".labels.txt")]
    if lists:
        found = Found("feature arrays with lists of frame labels")
        _read_lists(lists, arrays, _read_splits(files), found, reading)
        return found
    beside = {array: path for array in arrays if (path := _find_beside(array)) is not None}
    if not beside:
        found = read_folders(root, arrays)
        found.kind = "feature arrays in a folder for each label"
        return found
    found = Found("feature arrays with frame labels beside them")
    for array, path in beside.items():
        _add(found, Row(array, "", str(array.relative_to(root))), _try_labels(path, found), reading)
    if left := len(arrays) - len(beside):
        found.notes.append(f"{left} of {len(arrays)} arrays are left out: there are no frame labels beside them")
    return found


def _find_beside(array: Path) -> Path | None:
    names = (array.with_name(array.stem + ending) for ending in _BESIDE)
    return next((path for path in names if os.path.isfile(path)), None)


def _try_labels(path: Path, found: Found) -> list[str]:
    try:
        return read_frame_labels(path)
    except ManifestError as error:
        found.problems.append(f"{path.name}: {error}")
        return []


def _add(found: Found, row: Row, labels: Sequence[str], reading: LabelSettings) -> None:
    for part in frame_label_rows(row, labels, reading.vectors_per_s):
        found.add(part)


def _read_lists(
    lists: Sequence[Path], arrays: Sequence[Path], splits: dict[str, Split], found: Found, reading: LabelSettings
) -> None:
    by_name = index_by_stem(arrays)
    named = set()
    for path in lists:
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            name, *labels = line.split() or [""]
            if not name:
                continue
            matches = by_name.get(name, [])
            if len(matches) != 1:
                what = "no array has this name" if not matches else f"{len(matches)} arrays have this name"
                found.problems.append(f"{path.name}, line {number}: {name}: {what}")
                continue
            named.add(matches[0])
            row = Row(matches[0], "", f"{path.name}, line {number}", split=splits.get(name))
            _add(found, row, labels, reading)
    if left := len(arrays) - len(named):
        found.notes.append(f"{left} of {len(arrays)} arrays are left out: no list of labels names them")


def _read_splits(files: Sequence[Path]) -> dict[str, Split]:
    """Return the split of each utterance that lists such as train_split.txt and dev_split.txt name, if both do."""
    splits: dict[str, Split] = {}
    for file in files:
        word, _, rest = file.stem.partition("_")
        split = split_of(word)
        if file.suffix.lower() == ".txt" and rest in ("split", "list") and split in ("train", "dev"):
            splits |= dict.fromkeys(read_text(file).split(), split)
    # A list of what may be trained on, alone, leaves open what to measure on.
    return splits if {"train", "dev"} <= set(splits.values()) else {}
