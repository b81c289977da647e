"""`framecls speakers`: who is enrolled; list, remove, rename, export, import."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from framecls.cli import checks
from framecls.cli.console import DONE, INCOMPLETE, open_messages
from framecls.cli.options import (
    SpeakersExportOptions,
    SpeakersImportOptions,
    SpeakersListOptions,
    SpeakersRemoveOptions,
    SpeakersRenameOptions,
)
from framecls.errors import GalleryError, UsageError
from framecls.output.files import atomic_write, is_device
from framecls.output.text import encodable, escape, hms
from framecls.speakers.gallery import Clip, check_name, default_path, is_unit, open_gallery

_FIELDS = ("name", "model", "file", "heard", "added", "vector")
_MOST_LINE_BYTES = 2**20


def list_people(options: SpeakersListOptions) -> int:
    """Print a row a person and return the exit status.

    Raises:
        UsageError: there is no such format.
        GalleryError: the gallery cannot be used.
    """
    messages = open_messages(options)
    if options.format not in ("table", "json"):
        raise UsageError(f"-f {options.format}: choose table or json")
    path = options.gallery or default_path()
    people = []
    if _may_exist(path):
        with open_gallery(path) as gallery:
            people = gallery.people()
    if options.format == "json":
        rows = [{"name": p.name, "clips": p.n_clips, "heard": round(p.heard_s, 3), "added": p.added} for p in people]
        sys.stdout.write(json.dumps(rows, ensure_ascii=False) + "\n")
    elif people:
        _print_people([(p.name, str(p.n_clips), hms(p.heard_s), p.added[:10]) for p in people])
    if not people:
        messages.note(f"nobody is enrolled in {escape(str(path))}: framecls enroll NAME CLIP...")
    return DONE


def _may_exist(path: Path) -> bool:
    """Return False where there is nothing; where that cannot be told, whoever opens it says why."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _print_people(rows: list[tuple[str, str, str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from framecls.output.tables import make_console

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Name", overflow="fold", style="bold")
    for title in ("Clips", "Speech", "Last added"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(escape(cell)) for cell in row))
    make_console(sys.stdout).print(table)


def remove_people(options: SpeakersRemoveOptions) -> int:
    """Forget people and return the exit status."""
    messages = open_messages(options)
    with open_gallery(options.gallery or default_path()) as gallery:
        gallery.remove([check_name(name) for name in options.names])
    messages.note(f"forgotten: {', '.join(map(escape, options.names))}")
    return DONE


def rename_person(options: SpeakersRenameOptions) -> int:
    """Give somebody another name and return the exit status."""
    messages = open_messages(options)
    old, new = check_name(options.old), check_name(options.new)
    with open_gallery(options.gallery or default_path()) as gallery:
        gallery.rename(old, new)
    messages.note(f"{escape(options.old)} is {escape(new)} from now on")
    return DONE


def export_people(options: SpeakersExportOptions) -> int:
    """Write people's clips and return the exit status."""
    messages = open_messages(options)
    path = options.gallery or default_path()
    checks.check_overwrites({"-o": options.output}, {"the gallery": path})
    with open_gallery(path) as gallery:
        clips = gallery.clips([check_name(name) for name in options.names] if options.names else None)
        status = INCOMPLETE if gallery.n_damaged else DONE
    lines = (json.dumps(_as_row(clip), ensure_ascii=False) + "\n" for clip in clips)
    if options.output is None or str(options.output) == "-":
        sys.stdout.writelines(lines)
        return status
    _write_private(options.output, lines)
    messages.note(f"{escape(str(options.output))}: {len(clips)} clips of {len({clip.name for clip in clips})} people")
    return status


def _write_private(path: Path, lines: Iterable[str]) -> None:
    """Write a file whole or not at all, so that nobody but its owner can read it at any time.

    Raises:
        FrameclsError: it cannot be written.
    """
    if is_device(path):
        with atomic_write(path, binary=False) as stream:
            stream.writelines(lines)
        return
    try:
        if path.exists():
            path.chmod(0o600)
    except OSError as error:
        raise GalleryError(f"{path}: cannot be made private: {error.strerror}") from error
    with atomic_write(path, binary=False) as stream:
        if hasattr(os, "fchmod"):  # on Windows the folder's permissions decide
            os.fchmod(stream.fileno(), 0o600)
        stream.writelines(lines)


def import_people(options: SpeakersImportOptions) -> int:
    """Enroll what was exported and return the exit status.

    Raises:
        GalleryError: a file cannot be read or is no export, or its vectors are another model's; nothing is enrolled.
    """
    messages = open_messages(options)
    clips: list[Clip] = []
    for name in options.files:
        _read_export(name, clips)
    with open_gallery(options.gallery or default_path(), create=True) as gallery:
        n_new = gallery.add(clips)
    messages.note(f"{n_new} clips of {len({clip.name for clip in clips})} people imported, {len(clips) - n_new} known")
    return DONE


def _as_row(clip: Clip) -> dict[str, Any]:
    vector = base64.b64encode(clip.vector.astype("<f4").tobytes()).decode("ascii")
    values = (clip.name, clip.model, clip.file, clip.heard_s, clip.added, vector)
    return dict(zip(_FIELDS, values, strict=True))


def _read_export(name: str, clips: list[Clip]) -> None:
    """Add the clips of an export to others, whose vectors theirs must go with.

    Raises:
        GalleryError: it cannot be read, or a line of it is none of an export.
    """
    try:
        with _open_export(name) as file:
            for number in itertools.count(1):
                line = file.readline(_MOST_LINE_BYTES)
                if not line:
                    return
                if line.strip():
                    clips.append(_parse_line(name, number, line, clips[0] if clips else None))
    except OSError as error:
        raise GalleryError(f"{name}: cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _open_export(name: str) -> Iterator[BinaryIO]:
    if name != "-":
        with open(name, "rb") as file:
            yield file
        return
    if sys.stdin is None:
        raise GalleryError("standard input is closed: pipe an export into it, or give a file")
    yield sys.stdin.buffer


def _parse_line(name: str, number: int, line: bytes, first: Clip | None) -> Clip:
    where = f"{name}: line {number}"
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise GalleryError(f"{where}: not an export of voices: it is no text") from None
    try:
        clip = _parse_row(json.loads(text))
    except (ValueError, RecursionError, UsageError) as error:
        raise GalleryError(f"{where} is not one that speakers export writes: {error}") from None
    if first is not None and clip.model != first.model:
        raise GalleryError(f"{where}: its voice was heard by the model {clip.model}, those before by {first.model}")
    if first is not None and clip.vector.size != first.vector.size:
        sizes = f"its vector has {clip.vector.size} numbers, those before it {first.vector.size}"
        raise GalleryError(f"{where}: {sizes}: they cannot be compared")
    return clip


def _parse_row(row: Any) -> Clip:
    if not isinstance(row, dict) or not row.keys() >= set(_FIELDS):
        raise ValueError(f"it has no {', '.join(_FIELDS)}")
    texts = [row[key] for key in _FIELDS if key != "heard"]
    if not all(isinstance(text, str) for text in texts) or not row["model"]:
        raise ValueError("name, model, file, added and vector are no texts")
    if type(row["heard"]) not in (int, float) or not 0 <= row["heard"] < 1e9:
        raise ValueError("heard is not a time in seconds")
    data = base64.b64decode(row["vector"], validate=True)
    vector = np.frombuffer(data, "<f4").astype(np.float32)
    if not is_unit(vector):
        raise ValueError("its vector is not of unit length")
    name, model, file, added = (encodable(row[key]) for key in ("name", "model", "file", "added"))
    return Clip(check_name(name), model, file, float(row["heard"]), vector, added)
