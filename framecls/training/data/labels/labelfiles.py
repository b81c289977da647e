"""Label files beside recordings: TextGrid, TIMIT .phn, RTTM, ELAN, Audacity label tracks, Raven selection tables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from framecls import packages
from framecls.audio.find import AUDIO_SUFFIXES
from framecls.errors import AudioError, ManifestError
from framecls.training.data.labels.rows import (
    Found,
    LabelSettings,
    Row,
    index_by_stem,
    parse_seconds,
    read_text,
    splits_of_folders,
    top_folders,
)
from framecls.training.data.labels.textgrid import ALL_TIERS, Interval, read_textgrid

# Start and end in seconds, label, and where they are known the lowest and highest frequency in Hz.
Marked = Interval | tuple[float, float, str, float, float]


@dataclass(frozen=True)
class Format:
    """A kind of label file for the recording of the same name."""

    name: str
    read: Callable[[Path, Path, LabelSettings], Sequence[Marked]]  # label file, recording, options


def parse_audacity(text: str) -> list[Marked]:
    """Return the regions of an Audacity label track: start, end and label between tabs.

    A line that begins with a backslash gives the lowest and highest frequency in Hz of the region before it, whose
    tuple has them too. Regions without text are skipped.

    Raises:
        ManifestError: a line has another form.
    """
    found: list[Marked] = []
    kept = False  # the region before
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        if line.startswith("\\"):
            if kept:
                found[-1] = (*found[-1][:3], *_parse_band(line.split("\t")[1:3]))
            continue
        start, _, rest = line.partition("\t")
        end, _, label = rest.partition("\t")
        try:
            start_s, end_s = parse_seconds(start), parse_seconds(end)
        except ManifestError as error:
            raise ManifestError(
                f"line {number}: {error}: start, end and label with tabs between are expected"
            ) from None
        kept = bool(label.strip())
        if kept:
            found.append((start_s, end_s, label.strip()))
    return found


def _parse_band(words: Sequence[str]) -> tuple[float, float] | tuple[()]:
    """Return the lowest and highest frequency in Hz; nothing where it is not given, which Audacity writes as -1."""
    try:
        low_hz, high_hz = (float(word.replace(",", ".")) for word in words)
    except ValueError:
        return ()
    return (low_hz, high_hz) if 0 <= low_hz < high_hz else ()


def is_raven(text: str) -> bool:
    """Return whether a text is a selection table of Raven, by its first line."""
    return _BEGIN in text.partition("\n")[0].casefold().split("\t")


def parse_raven(text: str, annotation: str | None = None) -> list[Marked]:
    """Return the selections of a table of Raven: start, end, label, and the lowest and highest frequency in Hz.

    A selection that is listed once for each view counts once; one without a label is skipped.

    Args:
        text: of the file.
        annotation: the column that is the label; None: one that is usual for it, or the only one of the user's own.

    Raises:
        ManifestError: there is no such column, or a line has no times.
    """
    lines = text.splitlines()
    columns = [name.strip() for name in lines[0].split("\t")]
    names = [name.casefold() for name in columns]
    label_at = _find_annotation(columns, annotation)
    found: dict[Marked, None] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = dict(zip(names, (cell.strip() for cell in line.split("\t")), strict=False))
        label = cells.get(names[label_at], "")
        if not label:
            continue
        try:
            start_s, end_s = parse_seconds(cells.get(_BEGIN, "")), parse_seconds(cells.get(_END, ""))
        except ManifestError as error:
            raise ManifestError(f"line {number}: {error}") from None
        band = _parse_band([cells.get("low freq (hz)", ""), cells.get("high freq (hz)", "")])
        found[start_s, end_s, label, *band] = None
    return list(found)


def _find_annotation(columns: Sequence[str], wanted: str | None) -> int:
    names = [name.casefold() for name in columns]
    own = [name for name in columns if name and not _RAVEN_COLUMN.fullmatch(name)]
    usual = [name for name in _ANNOTATIONS if name in names]
    if wanted is not None:
        usual = [wanted.casefold()] if wanted.casefold() in names else []
    elif not usual and len(own) == 1:
        usual = [own[0].casefold()]
    if usual:
        return names.index(usual[0])
    what = f"no column {wanted!r}" if wanted is not None else "which column is the label? name it with --annotation"
    raise ManifestError(f"{what}: there are {', '.join(own) or 'none but those of Raven itself'}")


# Columns of Raven's selection tables, in lower case, and those that usually hold the label.
_BEGIN, _END = "begin time (s)", "end time (s)"
_ANNOTATIONS = ("annotation", "label", "species", "common name", "species code", "call type", "sound type", "tags")
_RAVEN_COLUMN = re.compile(
    r"selection|view|channel|score|confidence|begin (path|file|date|clock time)|end (path|file|date|clock time)|"
    r"file offset.*|notes?|.*\(.*\)",
    re.IGNORECASE,
)


def parse_phn(text: str, sample_rate: int) -> list[Interval]:
    """Return the phones of a TIMIT .phn file: first sample, end sample, symbol.

    Raises:
        ManifestError: a line has another form.
    """
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 3 or not (parts[0].isdecimal() and parts[1].isdecimal()):
            raise ManifestError(f"line {number}: first sample, end sample and phone are expected")
        found.append((int(parts[0]) / sample_rate, int(parts[1]) / sample_rate, parts[2]))
    return found


def parse_rttm(text: str) -> dict[str, list[Interval]]:
    """Return the segments of each file id of an RTTM file, with the speaker as label.

    Raises:
        ManifestError: a line has another form.
    """
    found: dict[str, list[Interval]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts or parts[0] != "SPEAKER":
            continue  # comments and other types of lines
        if len(parts) < 8:
            raise ManifestError(f"line {number}: SPEAKER wants a file, channel, start, length and, in column 8, a name")
        start_s, length_s = parse_seconds(parts[3]), parse_seconds(parts[4])
        found.setdefault(parts[1], []).append((start_s, start_s + length_s, parts[7]))
    return found


def choose_tier(tiers: dict[str, list[Interval]], wanted: str | None) -> list[Interval]:
    """Return the intervals of one tier of a TextGrid: the one that is wanted, or the only one.

    Raises:
        ManifestError: there is no such tier, or there are several and none is named.
    """
    names = ", ".join(tiers)
    if wanted == ALL_TIERS:
        return sorted(interval for intervals in tiers.values() for interval in intervals)
    if not tiers:
        raise ManifestError("there is no interval tier")
    if wanted is None and len(tiers) > 1:
        raise ManifestError(f"it has several tiers, choose one with --tier: {names} (or all: --tier '{ALL_TIERS}')")
    if wanted is not None and wanted not in tiers:
        raise ManifestError(f"no interval tier {wanted!r}; it has {names}")
    return sorted(tiers[wanted or names])


def _sample_rate(file: Path) -> int:
    from framecls.audio import open_audio  # with all its decoders: no other label file needs them

    try:
        with open_audio(file) as stream:
            return stream.info.sample_rate
    except AudioError as error:
        raise ManifestError(f"its recording {file.name}: {error}") from error


def _read_txt(path: Path, reading: LabelSettings) -> list[Marked]:
    text = read_text(path)
    return parse_raven(text, reading.annotation) if is_raven(text) else parse_audacity(text)


def read_elan(path: Path) -> dict[str, list[Interval]]:
    """Read the annotations of each tier of an ELAN file, without empty ones.

    Raises:
        PackageError: pympi is not installed.
        ManifestError: it is no ELAN file.
    """
    elan = packages.load("ELAN files", "pympi", "pympi-ling").Elan
    try:
        document = elan.Eaf(str(path))
        tiers = {name: document.get_annotation_data_for_tier(name) for name in document.get_tier_names()}
    except Exception as error:  # pympi raises it itself
        raise ManifestError(f"not an ELAN file, or damaged ({type(error).__name__})") from None
    return {
        name: [(row[0] / 1000, row[1] / 1000, row[2].strip()) for row in rows if row[2].strip() and row[1] > row[0]]
        for name, rows in tiers.items()
    }


# By suffix, in lower case; of several kinds beside the same recordings the first is read.
FORMATS: dict[str, Format] = {
    ".textgrid": Format("TextGrids", lambda path, _, reading: choose_tier(read_textgrid(path), reading.tier)),
    ".phn": Format("TIMIT phone files", lambda path, file, _: parse_phn(read_text(path), _sample_rate(file))),
    ".eaf": Format("ELAN files", lambda path, _, reading: choose_tier(read_elan(path), reading.tier)),
    ".txt": Format("Audacity label tracks or Raven tables", lambda path, _, reading: _read_txt(path, reading)),
}
RTTM_SUFFIX = ".rttm"


# What Raven, BirdNET and framecls add to the name of a recording.
_TABLE_SUFFIX = re.compile(r"(\.Table\.\d+|\.BirdNET)?\.selections?(\.table)?\.txt$", re.IGNORECASE)


def pair(labels: Sequence[Path], audio: Sequence[Path]) -> dict[Path, Path]:
    """Return the recording beside each label file: a.wav for a.txt, and for a.wav.txt."""
    by_name = {file: file for file in audio}
    by_stem: dict[Path, list[Path]] = {}
    for file in audio:
        by_stem.setdefault(file.with_suffix(""), []).append(file)
    pairs = {}
    for path in labels:
        name = _TABLE_SUFFIX.sub("", path.name)
        bare = path.with_name(name) if name != path.name else path.with_suffix("")
        match = by_name.get(bare) or next(iter(by_stem.get(bare, [])), None)
        if match is not None:
            pairs[path] = match
    return pairs


def find_label_files(files: Sequence[Path]) -> str | None:
    """Return the suffix of the label files among those of a folder, None if there are none."""
    audio = [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES]
    for suffix in (*FORMATS, RTTM_SUFFIX):
        labels = [file for file in files if file.suffix.lower() == suffix]
        # Other texts may be beside recordings.
        if suffix == ".txt":
            labels = [path for path in pair(labels, audio) if _is_label_track(path)]
        if labels:
            return suffix
    return None


def _is_label_track(path: Path) -> bool:
    try:
        text = read_text(path)
        return is_raven(text) or bool(parse_audacity(text))
    except ManifestError:
        return False


def read_label_files(root: Path, files: Sequence[Path], suffix: str, reading: LabelSettings) -> Found:
    """Read the label files of one kind, and find their recordings.

    Args:
        root: the folder.
        files: all files in it, at any depth.
        suffix: a key of FORMATS, or RTTM_SUFFIX.
        reading: which tier.
    """
    audio = [file for file in files if file.suffix.lower() in AUDIO_SUFFIXES]
    labels = [file for file in files if file.suffix.lower() == suffix]
    if suffix == RTTM_SUFFIX:
        return _read_rttms(root, labels, audio)
    form = FORMATS[suffix]
    found = Found(f"{form.name} beside recordings")
    pairs = pair(labels, audio)
    placed = _FolderSplits(root, list(pairs.values()), found)
    for path in labels:
        name = str(path.relative_to(root))
        if path not in pairs:
            if suffix != ".txt":
                found.problems.append(f"{name}: there is no recording of this name beside it")
            continue
        try:
            spans = form.read(path, pairs[path], reading)
        except ManifestError as error:
            found.problems.append(f"{name}: {error}")
            continue
        if points := [span for span in spans if span[0] == span[1]]:
            which = f"such as {points[0][2]} at {points[0][0]:.2f} s"
            found.notes.append(f"{name}: labels of no length are left out: {len(points)}, {which}")
            spans = [span for span in spans if span[0] != span[1]]
        if not spans and not reading.by_row:
            found.notes.append(f"{name}: nothing is labelled in it")
            spans = [(0.0, math.inf, "")]
        for row in placed.rows(pairs[path], spans, name, timit=suffix == ".phn"):
            found.add(row)
    _note_unlabelled(found, audio)
    return found


def _read_rttms(root: Path, labels: Sequence[Path], audio: Sequence[Path]) -> Found:
    found = Found("RTTM files")
    stems = index_by_stem(audio)
    for stem in [stem for stem in stems if stem.split() != [stem]]:  # an id is one word: spaces become underscores
        stems.setdefault("_".join(stem.split()), []).extend(stems[stem])
    placed = _FolderSplits(root, audio, found)
    for path in labels:
        name = str(path.relative_to(root))
        try:
            spoken = parse_rttm(read_text(path))
        except ManifestError as error:
            found.problems.append(f"{name}: {error}")
            continue
        for file_id, spans in spoken.items():
            matches = stems.get(file_id, [])
            near = [file for file in matches if file.parent == path.parent] or matches
            if len(near) != 1:
                what = "there is no recording of this name" if not near else f"{len(near)} recordings have this name"
                found.problems.append(f"{name}: file {file_id}: {what}")
                continue
            for row in placed.rows(near[0], spans, f"{name}, {file_id}"):
                found.add(row)
    _note_unlabelled(found, audio)
    return found


class _FolderSplits:
    """Splits and, in TIMIT, speakers by the folders of recordings."""

    def __init__(self, root: Path, audio: Sequence[Path], found: Found) -> None:
        self._root = root
        self._tops = dict(zip(audio, top_folders(audio, root), strict=True))
        self._splits = splits_of_folders(set(self._tops.values()))
        if left := sorted(name for name, split in self._splits.items() if split is None):
            found.notes.append(f"left out: {', '.join(left)}, since there is a dev folder too")

    def rows(self, file: Path, spans: Sequence[Marked], where: str, *, timit: bool = False) -> Iterator[Row]:
        """Yield a row for each label of a recording, none if its folder is left out."""
        split = self._splits.get(self._tops[file])
        if self._splits and split is None:
            return
        speaker = file.parent.name if timit and file.parent != self._root else ""
        for number, (start_s, end_s, label, *band) in enumerate(spans, start=1):
            place = f"{where}, label {number}"
            end = end_s if math.isfinite(end_s) else None
            yield Row(file, label, place, "", start_s, end, speaker, split=split, band_hz=tuple(band))


def _note_unlabelled(found: Found, audio: Sequence[Path]) -> None:
    left = len(set(audio) - {row.file for row in found.rows})
    if left and not found.problems:
        found.notes.append(f"{left} of {len(audio)} recordings are left out: no label file is about them")
