"""Where results go on disk, and how they get there whole or not at all."""

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
from framecls.output.text import encodable

try:
    import fcntl
except ImportError:  # not on a POSIX system: without locks, nothing is cleaned up
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.framecls-[0-9a-f]{16}\.tmp")
# What stands in the way of one file stands in the way of all.
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
    What else goes wrong in the block is not of this file, and passes as it is.

    Raises:
        OutputError: no space, or the disk cannot be written at all; also raised by the stream.
        FrameclsError: no permission, a folder in the way, or anything else that keeps the file from being written.
    """
    with _explained(path):
        target = Path(os.path.realpath(path))
        temporary = None
        if is_device(target):
            stream = _open(target, os.O_WRONLY, path, binary)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary, stream = _open_temporary(target, path, binary)
    try:
        yield stream
        with _explained(path):
            stream.flush()
            if temporary is not None:
                os.fsync(stream.fileno())
                if target.exists():
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                os.replace(temporary, target)  # before it is closed: until then its lock says that it has an owner
            stream.close()
    except BaseException:  # an interrupt too must leave nothing behind
        with contextlib.suppress(OSError, FrameclsError):  # what went wrong first is what is told
            stream.close()
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain_write_error(path, error) from error


def explain_write_error(path: Path, error: OSError) -> FrameclsError:
    """Return the error to raise for a file that could not be written: an OutputError where no other could be either."""
    kind = OutputError if error.errno in _FOR_ALL else FrameclsError
    reason = error.strerror or str(error)
    if error.errno in (errno.EEXIST, errno.ENOTDIR):  # of a folder that is to be made on the way
        reason = "a file is in the way where a folder would have to be"
    return kind(f"cannot write {encodable(str(path))}: {reason}")


def is_device(path: Path) -> bool:
    """Whether a path is a pipe, a terminal or another device: something that is there to be written, not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def lock(descriptor: int, *, alone: bool) -> bool:
    """Lock a file against other processes until it is closed or this process ends, and return whether that succeeded.

    The lock is not inherited: worker processes that outlive a killed run do not keep it. Closing any other descriptor
    of the file in this process gives it away.

    Args:
        descriptor: of the file, open for reading and writing.
        alone: nobody else may lock it meanwhile; else others may lock it in the same way.

    Raises:
        OSError: the file system, or the system, has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    try:
        fcntl.lockf(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Remove the temporary files of runs that were killed, and return how many there were.

    Whoever writes a temporary file holds its lock, so one that can be locked belongs to nobody.
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
            if lock(descriptor, alone=True):
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
            lock(stream.fileno(), alone=True)
        if os.fstat(stream.fileno()).st_nlink:  # else another run took it for an orphan before it was locked
            return temporary, stream
        stream.close()


class _File(io.FileIO):
    """A file that says which one it is where it cannot be written."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "wb")
        self._path = path

    def write(self, data: Any, /) -> int:
        """See FileIO."""
        with _explained(self._path):
            return super().write(data)


def _open(file: Path, flags: int, path: Path, binary: bool) -> IO[Any]:
    """Open a file to write it; `path` is what it is called where that fails."""
    # os.open and not tempfile: the file's permissions then follow the umask, as those of any other file.
    descriptor = os.open(file, flags | getattr(os, "O_BINARY", 0), 0o666)
    buffer = io.BufferedWriter(_File(descriptor, path))
    return buffer if binary else io.TextIOWrapper(buffer, "utf-8", errors="backslashreplace", newline="")
