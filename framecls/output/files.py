"""Write files atomically, and remove what killed runs left."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from framecls.errors import FrameclsError, OutputError
from framecls.text import encodable

try:
    import fcntl
except ImportError:  # not on a POSIX system: without locks, nothing is cleaned up
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.framecls-[0-9a-f]{16}\.tmp")
# Errors that every other file would meet, too.
_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ESTALE}


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
    Other exceptions of the block pass unchanged.

    Raises:
        OutputError: no space, or the disk cannot be written at all; also raised by the stream.
        FrameclsError: no permission, a folder in the way, or anything else that keeps the file from being written.
    """
    with _translated_errors(path):
        target = Path(os.path.realpath(path))
        temporary = None
        if is_device(target):
            stream = _open(target, os.O_WRONLY, path, binary)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary, stream = _open_temporary(target, path, binary)
    try:
        yield stream
        with _translated_errors(path):
            stream.flush()
            if temporary is not None:
                os.fsync(stream.fileno())
                if target.exists():
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                os.replace(temporary, target)  # before it is closed: its lock protects it until then
            stream.close()
    except BaseException:  # also of an interrupt
        with contextlib.suppress(OSError, FrameclsError):  # the first error is the one to report
            stream.close()
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_write_error(path, error) from error


def explain_write_error(path: Path, error: OSError) -> FrameclsError:
    """Return the error to raise for a file that could not be written: an OutputError where no other could be either."""
    kind = OutputError if error.errno in _FOR_ALL else FrameclsError
    reason = error.strerror or str(error)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):  # of a parent folder
        reason = "a file is in the way where a folder would have to be"
    return kind(f"cannot write {encodable(str(path))}: {reason}")


def is_device(path: Path) -> bool:
    """Whether a path is a pipe, a terminal or another device, which is written to but never replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def lock(descriptor: int) -> bool:
    """Lock a file against other processes until it is closed or this process ends, and return whether that succeeded.

    The lock is not inherited: worker processes that outlive a killed run do not keep it. Closing any other descriptor
    of the file in this process releases it.

    Raises:
        OSError: the file system, or the system, has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Remove the temporary files of runs that were killed, and return how many there were.

    A temporary file is locked while it is written, so one that can be locked has no writer.
    """
    n_removed = 0
    for folder in set(folders):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if _TEMPORARY.fullmatch(entry.name):
                    n_removed += _remove_orphan(entry.path)
    return n_removed


def _remove_orphan(path: str) -> bool:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            if lock(descriptor):
                os.unlink(path)
                return True
        finally:
            os.close(descriptor)
    return False


def _open_temporary(target: Path, path: Path, binary: bool) -> tuple[Path, IO[Any]]:
    if target.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    while True:
        temporary = target.with_name(f".framecls-{secrets.token_hex(8)}.tmp")
        stream = _open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, path, binary)
        with contextlib.suppress(OSError):
            lock(stream.fileno())
        if os.fstat(stream.fileno()).st_nlink:  # else another run removed it as an orphan before it was locked
            return temporary, stream
        stream.close()


class _File(io.FileIO):
    """A file whose write errors name it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self._path = path

    def write(self, data: Any, /) -> int:
        """See FileIO."""
        with _translated_errors(self._path):
            return super().write(data)


def _open(file: Path, flags: int, path: Path, binary: bool) -> IO[Any]:
    """Open a file for writing; errors name it `path`."""
    # os.open and not tempfile: the file's permissions then follow the umask, as those of any other file.
    descriptor = os.open(file, flags | getattr(os, "O_BINARY", 0), 0o666)
    buffer = io.BufferedWriter(_File(descriptor, path))
    return buffer if binary else io.TextIOWrapper(buffer, "utf-8", errors="backslashreplace", newline="")
