"""SQLite files of framecls: create, recognise and open them without trusting their content.

In the place of such a file may be anything: a link, a pipe, another program's database, or a malicious file. None of
these is written to, and none can make SQLite wait, run code of a schema, or touch a file beside it that is not its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import stat
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framecls.errors import FrameclsError

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_VERSION_AT, _APPLICATION_AT = 60, 68  # bytes of the header: PRAGMA user_version and application_id
_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_WAL_MAGICS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_SHM_VERSION = 3007000
_STATEMENT_S = 120.0  # only a malicious file makes a statement take so long
_CHECK_EVERY = 100_000  # instructions of SQLite's virtual machine
# Without following links, and without waiting for the other end of a pipe: the file may have been replaced since it was
# looked at.
_OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "NONBLOCK", "CLOEXEC", "BINARY"))


@dataclass(frozen=True)
class FileKind:
    """A kind of state file, recognised by its header and its schema."""

    name: str  # as in "not a journal of results"
    application_id: int  # PRAGMA application_id
    version: int  # PRAGMA user_version
    schema: tuple[str, ...]
    advice: str  # to a user who finds something else in its place
    error: type[FrameclsError]
    permissions: int = 0o666  # before the umask
    most_bytes: int = 10**9  # of one value
    wal: bool = False  # PRAGMA journal_mode = WAL: a change does not wait for the disk


_ANY = FileKind("file of framecls", 0, 0, (), "name the file itself", FrameclsError)


class Connection(sqlite3.Connection):
    """A connection whose statements end in bounded time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.timed_out = False
        self._deadline_s = time.monotonic() + _STATEMENT_S
        self.set_progress_handler(self._check_deadline, _CHECK_EVERY)

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Execute one statement."""
        self._deadline_s = time.monotonic() + _STATEMENT_S
        return super().execute(*arguments)

    def _check_deadline(self) -> bool:
        self.timed_out = time.monotonic() > self._deadline_s
        return self.timed_out


# POSIX releases the locks of a file as soon as a process closes any descriptor of it. A file that a connection of this
# process has open was checked before, and is not opened again to be checked.
_opening = threading.Lock()
_open_files: Counter[tuple[int, int]] = Counter()


@contextmanager
def open_state_file(
    path: Path, kind: FileKind, *, create: bool, timeout_s: float, exclusive: bool = False
) -> Iterator[Connection]:
    """Open a state file, in autocommit mode, and close it after the block.

    Args:
        path: of the file.
        kind: what it must be.
        create: create it where there is none, or an empty file.
        timeout_s: how long to wait for another process that has it locked.
        exclusive: keep other processes from opening it.

    Raises:
        FrameclsError: of the kind's own class: it is something else, or damaged.
        FileNotFoundError: there is none.
        OSError: it cannot be opened, or not be made.
        sqlite3.Error: SQLite cannot use it; `explain` tells why.
    """
    while True:
        connection, place = _connect(path, kind, create, timeout_s)
        try:
            _prepare(connection, path, kind, exclusive=exclusive, timeout_s=timeout_s)
            if _place_of(path) != place:  # another process, which had it locked, removed it since
                continue
            yield connection
            return
        finally:
            connection.close()
            with _opening:
                _open_files[place] -= 1


def _connect(path: Path, kind: FileKind, create: bool, timeout_s: float) -> tuple[Connection, tuple[int, int]]:
    with _opening:
        place = _place_of(path)
        if place is None and create:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.close(os.open(path, flags, kind.permissions))
            place = _place_of(path)
        if place is None:
            raise FileNotFoundError(2, "there is no such file", str(path))
        if not _open_files[place]:
            check_place(path, kind)
        uri = f"{path.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(
            uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False, factory=Connection
        )
        _open_files[place] += 1
        return connection, place


def _place_of(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def read_header(path: Path) -> bytes:
    """Return the first 100 bytes of a regular file, without following a link or waiting for a pipe.

    Raises:
        FrameclsError: it is something else, or cannot be read.
    """
    try:
        return _read_ends(path, _ANY)[0]
    except OSError as error:
        raise FrameclsError(f"{path}: cannot be read: {error.strerror}") from error


def find_damage(connection: sqlite3.Connection) -> str:
    """Return what SQLite's integrity check finds; empty for a sound file."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return "" if found == "ok" else str(found)


def check_place(path: Path, kind: FileKind) -> None:
    """Refuse a file that is neither empty nor of a kind, by its header, and foreign files beside it.

    Raises:
        FrameclsError: of the kind's own class, in a line that names the file.
        OSError: it cannot be read.
    """
    header, _ = _read_ends(path, kind)
    if header:
        _check_header(path, header, kind)
    for suffix in ("-journal", "-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            first, last = _read_ends(beside, kind, is_beside=True)
            if not _is_own_file(suffix, first, last):
                raise kind.error(f"{beside}: something else than SQLite's own file beside a {kind.name}: {kind.advice}")
    has_journal = os.path.lexists(f"{path}-journal")
    if header and not has_journal:
        _check_unlocked(path, kind)


def _read_ends(path: Path, kind: FileKind, *, is_beside: bool = False) -> tuple[bytes, bytes]:
    """Return the first and the last bytes of a regular file; refuse anything else, unopened where possible."""
    status = os.lstat(path)
    if stat.S_ISREG(status.st_mode):
        try:
            descriptor = os.open(path, _OPEN_FLAGS)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise kind.error(f"{path}: this {kind.name} cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and not (is_beside and status.st_nlink > 1):
                first = os.read(descriptor, _HEADER_BYTES)
                os.lseek(descriptor, max(0, status.st_size - 8), os.SEEK_SET)
                return first, os.read(descriptor, 8)
        finally:
            os.close(descriptor)
    beside = "the file beside " if is_beside else ""
    raise kind.error(f"{path}: {_name_type(status)}, not {beside}a {kind.name}: {kind.advice}")


def _name_type(status: os.stat_result) -> str:
    names = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    other = "another name of some file" if stat.S_ISREG(status.st_mode) else "a device"
    return names.get(stat.S_IFMT(status.st_mode), other)


def _check_header(path: Path, header: bytes, kind: FileKind) -> None:
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise kind.error(f"{path}: not a {kind.name}: {kind.advice}")
    application_id, version = read_ids(header)
    if application_id != kind.application_id:
        raise kind.error(f"{path}: another program's database, not a {kind.name}: {kind.advice}")
    if version != kind.version:
        newer = version > kind.version
        way_out = "update framecls" if newer else kind.advice
        raise kind.error(f"{path}: a {kind.name} of the {'newer' if newer else 'unknown'} format {version}: {way_out}")


def read_ids(header: bytes) -> tuple[int, int]:
    """Return the application id and the version in the first 100 bytes of an SQLite file; (0, 0) of any other."""
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return 0, 0
    (application_id,), (version,) = (struct.unpack_from(">i", header, at) for at in (_APPLICATION_AT, _VERSION_AT))
    return application_id, version


def _is_own_file(suffix: str, first: bytes, last: bytes) -> bool:
    """Whether a file beside a database is SQLite's own, which SQLite overwrites or removes unchecked."""
    if not first:
        return True
    if suffix == "-wal":
        return first[:4] in _WAL_MAGICS
    if suffix == "-shm":
        return int.from_bytes(first[:4], sys.byteorder) in (0, _SHM_VERSION)
    # A journal that ends in this names another file, which SQLite would remove; ours never do.
    return first[:8] in (_JOURNAL_MAGIC, bytes(8)) and last != _JOURNAL_MAGIC


def _check_unlocked(path: Path, kind: FileKind) -> None:
    """Check the schema without a lock, so that a foreign file stays untouched.

    What another process is writing may look damaged here; real damage shows when the file is opened.
    """
    uri = f"{path.absolute().as_uri()}?immutable=1"
    with contextlib.suppress(sqlite3.DatabaseError):
        connection = sqlite3.connect(uri, uri=True, factory=Connection)
        try:
            _check_schema(connection, path, kind)
        finally:
            connection.close()


def _check_schema(connection: sqlite3.Connection, path: Path, kind: FileKind) -> None:
    expected = _schema_rows(kind.schema)
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT ?"
    if set(connection.execute(query, (len(expected) + 1,))) != expected:
        raise kind.error(f"{path}: not a {kind.name}, its tables are others: {kind.advice}")


@functools.cache
def _schema_rows(schema: tuple[str, ...]) -> frozenset[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in schema:
            connection.execute(statement)
        return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _prepare(connection: Connection, path: Path, kind: FileKind, *, exclusive: bool, timeout_s: float) -> None:
    """Create the tables of an empty file; refuse tables of another schema."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, kind.most_bytes)
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    if exclusive:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    if _is_empty(connection):
        connection.execute("BEGIN IMMEDIATE")
        if _is_empty(connection):  # nobody else was faster
            for statement in kind.schema:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
            connection.execute(f"PRAGMA user_version = {kind.version}")
        connection.execute("COMMIT")
    _check_schema(connection, path, kind)
    deadline_s = time.monotonic() + timeout_s
    while kind.wal:
        try:
            connection.execute("PRAGMA journal_mode = WAL")  # a file system that cannot have it keeps the other mode
            return
        except sqlite3.OperationalError:  # SQLite itself waits for no other process here
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(0.02)


def _is_empty(connection: sqlite3.Connection) -> bool:
    # The header of any other file was checked before.
    return bool(connection.execute("PRAGMA application_id").fetchone() == (0,))


def explain(connection: Connection | None, error: sqlite3.Error) -> str:
    """Return why SQLite failed, as a message for a user.

    Raises:
        KeyboardInterrupt: the user interrupted it.
    """
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_INTERRUPT":
        if connection is None or not connection.timed_out:
            raise KeyboardInterrupt from error
        return "damaged: it takes too long to read"
    if name == "SQLITE_FULL" or name == "SQLITE_IOERR_SHMSIZE":
        return "No space left on device"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")):
        return "another process has been writing to it for too long: try again"
    if name.startswith("SQLITE_READONLY"):
        return "it cannot be written to"
    return str(error)
