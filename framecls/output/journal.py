"""A file of records that a run adds to as it goes, and that a kill at any moment leaves readable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from framecls.errors import FrameclsError, OutputError
from framecls.output.files import atomic_write, lock
from framecls.output.text import encodable

_KEY_BYTES = 32  # of a key, hexadecimal
_HEAD_BYTES = 8 + 1 + _KEY_BYTES + 1  # checksum, space, key, space
_SYNC_S = 1.0  # a power failure costs what was done in this time
_PATIENCE_S = 10.0  # with another run that tidies a shared journal


def make_key(*facts: str | int) -> str:
    """Return the key of a record from what the record is true of."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_KEY_BYTES]


class Journal:
    """Records by key. Make it with `open_journal`.

    A line is a CRC-32 of what follows it, the key and a JSON object. Lines are appended and never changed; the last one
    of a key counts, and one that was cut short, or that a disk has spoilt, is as if it were not there.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._places: dict[str, tuple[int, int]] = {}  # key -> offset and length of the JSON text, in bytes
        self._n_lines = 0
        self._adding = threading.Lock()
        self._synced_s = time.monotonic()
        self._is_synced = True
        self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a record, or None if there is none."""
        if key not in self._places:
            return None
        offset, length = self._places[key]
        record: dict[str, Any] = json.loads(os.pread(self._descriptor, length, offset))
        return record

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Append a record; a kill after this call does not lose it. Several threads may call this.

        Raises:
            OutputError: it cannot be written.
        """
        text = json.dumps(record).encode()
        with self._adding:
            self._append(key, text)

    def _append(self, key: str, text: bytes) -> None:
        try:
            # One call, so that lines of several runs do not mix: O_APPEND finds the end of the file and writes there.
            line = _make_line(key, text)
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
            end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
            self._places[key] = (end - 1 - len(text), len(text))
            self._n_lines += 1
            self._is_synced = time.monotonic() - self._synced_s > _SYNC_S
            if self._is_synced:
                os.fsync(self._descriptor)
                self._synced_s = time.monotonic()
        except OSError as error:
            raise _explain(self._path, error) from error

    def keep(self, keys: Iterable[str]) -> None:
        """Drop every record but these. It is the last thing to do: the file is replaced, and this is still the old one.

        Raises:
            FrameclsError: the shorter journal cannot be written; the longer one stays.
        """
        wanted = [key for key in dict.fromkeys(keys) if key in self._places]
        if set(wanted) == set(self._places) and self._n_lines == len(wanted):
            return
        if not wanted:
            self._path.unlink(missing_ok=True)
            return
        with atomic_write(self._path, binary=True) as stream:
            for key in wanted:
                offset, length = self._places[key]
                stream.write(_make_line(key, os.pread(self._descriptor, length, offset)))

    def tidy(self) -> None:
        """Drop what newer records have replaced, if that is most of the file and no other run is adding to it."""
        if self._n_lines > 2 * len(self._places) and _try_lock(self._descriptor, alone=True):
            self.keep(self._places)

    def close(self) -> None:
        """Close the file; one that has nothing in it goes."""
        with contextlib.suppress(OSError):
            if not os.fstat(self._descriptor).st_size and _try_lock(self._descriptor, alone=True):
                self._path.unlink()
            if not self._is_synced:
                os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        # closefd: closing any other descriptor of a file would give this one's lock away.
        with open(self._descriptor, "rb", closefd=False) as stream:
            offset, is_cut = 0, False
            for line in stream:
                is_cut = not line.endswith(b"\n")
                line += b"\n" * is_cut
                body = line[_HEAD_BYTES - _KEY_BYTES - 1 :]
                if line[:8] == b"%08x" % zlib.crc32(body):
                    key = body[:_KEY_BYTES].decode("latin-1")
                    self._places[key] = (offset + _HEAD_BYTES, len(line) - _HEAD_BYTES - 1)
                self._n_lines += 1
                offset += len(line)
        if is_cut:
            os.write(self._descriptor, b"\n")  # what a kill cut short must not swallow the next line


def _make_line(key: str, text: bytes) -> bytes:
    body = key.encode("latin-1") + b" " + text + b"\n"
    return b"%08x %b" % (zlib.crc32(body), body)


@contextmanager
def open_journal(path: Path, *, alone: bool) -> Iterator[Journal]:
    """Open a journal, an empty one if there is none, and close it after the block.

    Args:
        path: of the file; folders above it are made.
        alone: refuse to share it with another run; else several may add to it.

    Raises:
        OutputError: it cannot be written.
        FrameclsError: another run has it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(path, alone)
    except OSError as error:
        raise _explain(path, error) from error
    if descriptor is None:
        raise FrameclsError(f"another run of framecls is writing in {encodable(str(path.parent))}: let it end first")
    try:
        journal = Journal(path, descriptor)
    except OSError as error:
        os.close(descriptor)
        raise _explain(path, error) from error
    try:
        yield journal
    finally:
        journal.close()


def _open_locked(path: Path, alone: bool) -> int | None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if _try_lock(descriptor, alone=alone):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
            elif alone or time.monotonic() > give_up_s:
                os.close(descriptor)
                return None
            else:
                time.sleep(0.05)  # another run, which shares it, is tidying it up
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # replaced or removed before it was locked: its successor is the journal


def _try_lock(descriptor: int, *, alone: bool) -> bool:
    try:
        return lock(descriptor, alone=alone)
    except OSError:  # a file system without locks
        return True


def _explain(path: Path, error: OSError) -> OutputError:
    # The journal is no file that the user knows of: the folder is what is wrong.
    return OutputError(f"cannot write in {encodable(str(path.parent))}: {error.strerror or error}")
