"""Kaldi data directories: wav.scp, and segments, utt2lang, utt2spk where they are there."""

from __future__ import annotations

import os
from pathlib import Path

from framecls.errors import ManifestError
from framecls.training.data.labels.rows import Found, Row, Split, parse_seconds, read_text, splits_of_folders

WAV_SCP = "wav.scp"


def find_directories(root: Path) -> dict[Path, Split | None]:
    """Return the data directories of a path with their splits: itself, or those in it (train, dev, test)."""
    if os.path.isfile(root / WAV_SCP):
        return {root: None}
    inside = [folder for folder in sorted(root.iterdir()) if (folder / WAV_SCP).is_file()]
    splits = splits_of_folders(folder.name for folder in inside)
    if not splits:
        return dict.fromkeys(inside, None)
    return {folder: split for folder in inside if (split := splits[folder.name]) is not None}


def read_kaldi(root: Path) -> Found:
    """Read one Kaldi data directory, or several in a folder.

    The label of an utterance is its language (utt2lang), or else its speaker (utt2spk).

    Raises:
        ManifestError: a file cannot be read, or there are no labels.
    """
    found = Found("a Kaldi data directory")
    for folder, split in find_directories(root).items():
        within = "" if folder == root else f"{folder.name}: "  # the caller names the root
        try:
            _read_directory(folder, within, split, found)
        except ManifestError as error:
            raise ManifestError(f"{within}{error}") from error
    return found


def _read_directory(folder: Path, within: str, split: Split | None, found: Found) -> None:
    labels = _read_pairs(folder, "utt2lang")
    speakers = _read_pairs(folder, "utt2spk")
    if not labels and not speakers:
        raise ManifestError("neither utt2lang nor utt2spk is there to say what each utterance is")
    if not labels:
        found.notes.append(f"{within}there is no utt2lang, so the speakers of utt2spk are the labels")
    recordings = _read_pairs(folder, WAV_SCP)
    piped = {name for name, path in recordings.items() if path.endswith("|")}
    found.problems += [
        f"{within}{WAV_SCP}: {name}: a pipe command, which is not run: write its output to a file and name that"
        for name in recordings
        if name in piped
    ]
    for utterance, (recording, start_s, end_s) in _read_segments(folder, recordings).items():
        if recording in piped:
            continue
        where = f"{within}{utterance}"
        label = (labels or speakers).get(utterance)
        if label is None:
            found.problems.append(f"{where}: not in {'utt2lang' if labels else 'utt2spk'}")
        elif recording not in recordings:
            found.problems.append(f"{where}: no recording {recording} in {WAV_SCP}")
        else:
            file = _locate(folder, recordings[recording])
            speaker = speakers.get(utterance, "")
            found.add(Row(file, label, where, recording, start_s, end_s, speaker, split=split))


def _locate(folder: Path, path: str) -> Path:
    """Return the path of a recording, relative to the data directory or to the working directory."""
    return next((place for place in (folder / path, Path(path)) if os.path.isfile(place)), folder / path)


def _read_segments(folder: Path, recordings: dict[str, str]) -> dict[str, tuple[str, float, float | None]]:
    segments = _read_pairs(folder, "segments")
    if not segments:
        return {name: (name, 0.0, None) for name in recordings}
    parsed: dict[str, tuple[str, float, float | None]] = {}
    for utterance, rest in segments.items():
        parts = rest.split()
        if len(parts) < 3:
            raise ManifestError(f"segments: {utterance}: a recording, start and end are expected")
        end_s = None if parts[2] == "-1" else parse_seconds(parts[2])
        parsed[utterance] = (parts[0], parse_seconds(parts[1]), end_s)
    return parsed


def _read_pairs(folder: Path, name: str) -> dict[str, str]:
    """Read a file of "key value" lines; empty if there is no such file."""
    path = folder / name
    if not os.path.isfile(path):
        return {}
    try:
        lines = read_text(path).splitlines()
    except ManifestError as error:
        raise ManifestError(f"{name}: {error}") from error
    pairs = {}
    for number, line in enumerate(lines, start=1):
        key, _, value = line.strip().partition(" ")
        if not value.strip() and "\t" in key:
            key, _, value = key.partition("\t")
        if key and not value.strip():
            raise ManifestError(f"{name}: line {number}: nothing stands behind {key}")
        if key:
            pairs[key] = value.strip()
    return pairs
