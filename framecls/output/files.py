"""Where results go on disk, and how they get there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from framecls.errors import FrameclsError
from framecls.output.text import encodable


def mirrored_path(folder: Path, relative: Path, suffix: str) -> Path:
    """Return where an input's result goes: `OUT`, `a/b.wav`, `.TextGrid` → `OUT/a/b.wav.TextGrid`.

    The input's own suffix stays, so that `a.wav` and `a.mp3` never collide. The path never leaves the folder: a leading
    `/` goes, and each `..` that is left after tidying becomes a folder `_`.
    """
    tidy = Path(os.path.normpath(relative))
    parts = ["_" if part == ".." else part for part in tidy.parts if part != tidy.anchor]
    inside = Path(*parts)
    return folder / inside.parent / f"{inside.name or 'audio'}{suffix}"


@contextmanager
def atomic_write(path: Path, binary: bool) -> Iterator[IO[Any]]:
    """Open a file that appears, or replaces an older one, only when the block ends without an exception.

    The text or bytes go to a hidden temporary file in the same folder; parent folders are made. Text is UTF-8, lines
    end in a line feed. A link is followed, and a pipe or a device, which nothing may replace, is written directly.

    Raises:
        FrameclsError: no space, no permission, a folder in the way, or any other OSError while writing.
    """
    try:
        target = Path(os.path.realpath(path))
        if _is_device(target):
            with _open(target, os.O_WRONLY, binary) as stream:
                yield stream
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _replacement(target, binary) as stream:
                yield stream
    except OSError as error:
        raise FrameclsError(f"cannot write {encodable(str(path))}: {error.strerror or error}") from error


@contextmanager
def _replacement(target: Path, binary: bool) -> Iterator[IO[Any]]:
    if target.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    temporary = target.with_name(f".framecls-{secrets.token_hex(8)}.tmp")
    try:
        with _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, binary) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except BaseException:  # an interrupt too must leave nothing behind
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _open(path: Path, flags: int, binary: bool) -> IO[Any]:
    # os.open and not tempfile: the file's permissions then follow the umask, as those of any other file.
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    if binary:
        return os.fdopen(descriptor, "wb")
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="")


def _is_device(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
