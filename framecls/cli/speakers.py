"""`framecls speakers`: who is enrolled; list, remove, rename, export, import."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from framecls.cli import checks
from framecls.cli.messages import DONE, INCOMPLETE, open_messages
from framecls.cli.options import (
    SpeakersExportOptions,
    SpeakersImportOptions,
    SpeakersListOptions,
    SpeakersRemoveOptions,
    SpeakersRenameOptions,
)
from framecls.errors import GalleryError
from framecls.output.files import atomic_write, is_device
from framecls.speakers.exchange import read_clips, write_clip
from framecls.speakers.gallery import Clip, check_name, default_path, open_gallery
from framecls.text import escape, hms


def list_people(options: SpeakersListOptions) -> int:
    """Print a row for each person and return the exit status.

    Raises:
        UsageError: there is no such format.
        GalleryError: the gallery cannot be used.
    """
    messages = open_messages(options)
    checks.check_report_format(options.format)
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
    """Return False where there is nothing; other errors are for `open_gallery` to report."""
    try:
        path.lstat()
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return True


def _print_people(rows: list[tuple[str, str, str, str]]) -> None:
    from rich.text import Text

    from framecls.output.tables import make_console, make_table

    table = make_table(("Name", "fold"), *((title, "right") for title in ("Clips", "Speech", "Last added")))
    for name, *numbers in rows:
        table.add_row(Text(escape(name), style="bold"), *numbers)
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
    lines = map(write_clip, clips)
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
        try:
            with _open_export(name) as file:
                clips += read_clips(file, name, clips[0] if clips else None)
        except OSError as error:
            raise GalleryError(f"{name}: cannot be read: {error.strerror}") from error
    with open_gallery(options.gallery or default_path(), create=True) as gallery:
        n_new = gallery.add(clips)
    messages.note(f"{n_new} clips of {len({clip.name for clip in clips})} people imported, {len(clips) - n_new} known")
    return DONE


@contextlib.contextmanager
def _open_export(name: str) -> Iterator[BinaryIO]:
    if name != "-":
        with open(name, "rb") as file:
            yield file
        return
    if sys.stdin is None:
        raise GalleryError("standard input is closed: pipe an export into it, or give a file")
    yield sys.stdin.buffer
