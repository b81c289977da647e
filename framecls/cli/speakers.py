"""`framecls speakers`: who is enrolled; list, remove, rename, export, import."""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from framecls.cli import checks
from framecls.cli.console import DONE, Console, escape, set_up_logging
from framecls.cli.options import (
    MessageOptions,
    SpeakersExportOptions,
    SpeakersImportOptions,
    SpeakersListOptions,
    SpeakersRemoveOptions,
    SpeakersRenameOptions,
)
from framecls.cli.progress import clock
from framecls.errors import GalleryError, UsageError
from framecls.gallery import Clip, check_name, default_path, open_gallery

_FIELDS = ("name", "model", "file", "heard", "added", "vector")


def list_people(options: SpeakersListOptions) -> int:
    """Print a row a person and return the exit status.

    Raises:
        UsageError: there is no such format.
        GalleryError: the gallery cannot be used.
    """
    console = _begin(options)
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
        _print_people([(p.name, str(p.n_clips), clock(p.heard_s), p.added[:10]) for p in people])
    if not people:
        console.note(f"nobody is enrolled in {escape(str(path))}: framecls enroll NAME CLIP...")
    return DONE


def _may_exist(path: Path) -> bool:
    """Return False where there is nothing; where that cannot be told, whoever opens it says why."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _print_people(rows: list[tuple[str, str, str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from framecls.cli.tables import make_console

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Name", overflow="fold", style="bold")
    for title in ("Clips", "Speech", "Last added"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(escape(cell)) for cell in row))
    make_console(sys.stdout).print(table)


def remove_people(options: SpeakersRemoveOptions) -> int:
    """Forget people and return the exit status."""
    console = _begin(options)
    with open_gallery(options.gallery or default_path()) as gallery:
        gallery.remove([check_name(name) for name in options.names])
    console.note(f"forgotten: {', '.join(map(escape, options.names))}")
    return DONE


def rename_person(options: SpeakersRenameOptions) -> int:
    """Give somebody another name and return the exit status."""
    console = _begin(options)
    old, new = check_name(options.old), check_name(options.new)
    with open_gallery(options.gallery or default_path()) as gallery:
        gallery.rename(old, new)
    console.note(f"{escape(options.old)} is {escape(new)} from now on")
    return DONE


def export_people(options: SpeakersExportOptions) -> int:
    """Write people's clips and return the exit status."""
    console = _begin(options)
    path = options.gallery or default_path()
    checks.check_overwrites({"-o": options.output}, {"the gallery": path})
    with open_gallery(path) as gallery:
        clips = gallery.clips([check_name(name) for name in options.names] if options.names else None)
    text = "".join(json.dumps(_as_row(clip), ensure_ascii=False) + "\n" for clip in clips)
    if options.output is None:
        sys.stdout.write(text)
        return DONE
    try:
        options.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GalleryError(f"{options.output}: cannot be written: {error.strerror}") from error
    console.note(f"{escape(str(options.output))}: {len(clips)} clips of {len({clip.name for clip in clips})} people")
    return DONE


def import_people(options: SpeakersImportOptions) -> int:
    """Enroll what was exported and return the exit status.

    Raises:
        GalleryError: a file cannot be read or is no export, or its vectors are another model's; nothing is enrolled.
    """
    console = _begin(options)
    clips = [clip for name in options.files for clip in _read_export(name)]
    with open_gallery(options.gallery or default_path(), create=True) as gallery:
        n_new = gallery.add(clips)
    console.note(f"{n_new} clips of {len({clip.name for clip in clips})} people imported, {len(clips) - n_new} known")
    return DONE


def _begin(options: MessageOptions) -> Console:
    set_up_logging(options.verbose, options.debug)
    return Console(quiet=options.quiet, debug=options.debug)


def _as_row(clip: Clip) -> dict[str, Any]:
    vector = base64.b64encode(clip.vector.astype("<f4").tobytes()).decode("ascii")
    values = (clip.name, clip.model, clip.file, clip.heard_s, clip.added, vector)
    return dict(zip(_FIELDS, values, strict=True))


def _read_export(name: str) -> Iterator[Clip]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise GalleryError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise GalleryError(f"{name}: not an export of voices: it is no text") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield _parse_row(json.loads(line))
            except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, UsageError) as error:
                raise GalleryError(f"{name}: line {number} is not one that speakers export writes: {error}") from None


def _parse_row(row: dict[str, Any]) -> Clip:
    vector = np.frombuffer(base64.b64decode(row["vector"], validate=True), "<f4").astype(np.float32)
    if not 0.9 < float(vector @ vector) < 1.1:
        raise ValueError("its vector is not of unit length")
    heard_s = float(row["heard"])
    if not 0 <= heard_s < 1e9:
        raise ValueError("heard is not a time in seconds")
    texts = [row["model"], row["file"], row["added"]]
    if not all(isinstance(text, str) for text in texts) or not row["model"]:
        raise ValueError("model, file and added are no texts")
    return Clip(check_name(row["name"]), row["model"], row["file"], heard_s, vector, row["added"])
