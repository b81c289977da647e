"""Readers of labels, one module for each kind of label file; all return rows."""

from __future__ import annotations

import os
from pathlib import Path

from framecls.audio.find import AUDIO_SUFFIXES
from framecls.errors import ManifestError
from framecls.training.data.labels.arrays import read_arrays
from framecls.training.data.labels.folders import read_folders
from framecls.training.data.labels.kaldi import WAV_SCP, find_directories, read_kaldi
from framecls.training.data.labels.labelfiles import FORMATS, RTTM_SUFFIX, find_label_files, read_label_files
from framecls.training.data.labels.listing import read_listing
from framecls.training.data.labels.rows import ARRAY_SUFFIXES, Found, LabelSettings, Row, Split
from framecls.training.data.labels.walk import list_files

__all__ = ["ARRAY_SUFFIXES", "Found", "LabelSettings", "Row", "Split", "read_rows"]

_KINDS = (
    "a manifest (JSON lines or CSV), a Kaldi data directory, recordings with label files beside them (TextGrid, RTTM, "
    "Audacity, Raven, ELAN, .phn), a folder for each label, or feature arrays (.npy, .pt)"
)

_WANTED = AUDIO_SUFFIXES | ARRAY_SUFFIXES


def read_rows(path: Path, reading: LabelSettings) -> Found:
    """Detect what a path holds, and read its labels.

    Raises:
        ManifestError: it is of no known kind, or cannot be read; the message does not name the path.
    """
    if path.name == WAV_SCP:
        return read_kaldi(path.parent)
    if not os.path.isdir(path):
        return _read_file(path, reading)
    if find_directories(path):
        return read_kaldi(path)
    files = list_files(path, _WANTED)
    if any(file.suffix.lower() in AUDIO_SUFFIXES for file in files):
        suffix = find_label_files(files)
        if suffix is not None:
            return read_label_files(path, files, suffix, reading)
        return read_folders(path, [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES])
    if any(file.suffix.lower() in ARRAY_SUFFIXES for file in files):
        return read_arrays(path, files, reading)
    if any(file.name == "feats.scp" for file in files):
        raise ManifestError(f"Kaldi's feature archives are not read: add {WAV_SCP}, or save the features as .npy")
    raise ManifestError(f"there are no recordings with labels in this folder: give {_KINDS}")


def _read_file(path: Path, reading: LabelSettings) -> Found:
    suffix = path.suffix.lower()
    if suffix in AUDIO_SUFFIXES or suffix in ARRAY_SUFFIXES:
        raise ManifestError(f"a recording by itself has no labels: give its label file, or {_KINDS}")
    if suffix == RTTM_SUFFIX or suffix in FORMATS:
        # A label file by itself refers to recordings beside it.
        near = [file for file in list_files(path.parent, _WANTED) if file.suffix.lower() in AUDIO_SUFFIXES]
        found = read_label_files(path.parent, [path, *near], suffix, reading)
        found.notes.clear()  # other recordings there do not matter
        return found
    return read_listing(path, reading)
