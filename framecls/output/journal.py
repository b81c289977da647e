"""Keep the results of a run in an SQLite file that survives a kill at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framecls.errors import FrameclsError, OutputError
from framecls.statefile import Connection, FileKind, explain, find_damage, open_state_file
from framecls.text import encodable

_KEY_DIGITS = 32
_SYNC_S = 1.0  # a power failure costs what was done in this time
_BUSY_TIMEOUT_S = 30.0  # for other runs that write to a shared journal
_SMALL_BYTES = 2**20  # of a record that another run may have added since the size of the file was read

JOURNAL = FileKind(
    name="journal of results",
    application_id=0x66636C6A,  # "fclj"
    version=1,
    schema=(
        "CREATE TABLE record (key TEXT NOT NULL PRIMARY KEY, content BLOB NOT NULL, arrays BLOB NOT NULL, "
        "digest BLOB NOT NULL)",
    ),
    advice="move it away, or name another place with -o",
    error=FrameclsError,
    wal=True,
)


def make_key(*facts: str | int) -> str:
    """Return the key of a record from the facts that decide its content."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_KEY_DIGITS]


@dataclass(frozen=True)
class Record:
    """The content of a record."""

    values: dict[str, Any] = field(default_factory=dict)  # what JSON can hold
    arrays: bytes = b""  # numbers, as the values say


class Journal:
    """Records by key, for several threads. Make it with `open_journal`.

    A record may be damaged or forged: damage shows by the digest, and the user of the values must check them.
    """

    def __init__(self, path: Path, connection: Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._synced_s = time.monotonic()
        connection.execute("PRAGMA synchronous = NORMAL")
        pages, page_bytes = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        self._most_bytes = max(pages * page_bytes, _SMALL_BYTES)  # no record is longer

    def __len__(self) -> int:
        with self._locked() as connection:
            (n_records,) = connection.execute("SELECT COUNT(*) FROM record").fetchone()
        return int(n_records)

    def __contains__(self, key: str) -> bool:
        with self._locked() as connection:
            return connection.execute("SELECT 1 FROM record WHERE key = ?", (key,)).fetchone() is not None

    def get(self, key: str) -> Record | None:
        """Return a record, or None if there is none or it is damaged.

        Raises:
            FrameclsError: the journal cannot be read.
        """
        query = f"SELECT content, arrays, digest FROM record WHERE key = ? AND {_IS_PLAUSIBLE}"
        with self._locked() as connection:
            row = connection.execute(query, (key, self._most_bytes)).fetchone()
        return _parse(key, *row) if row is not None else None

    def records(self) -> Iterator[tuple[str, Record | None]]:
        """Yield every key and its record, None for a damaged one; what is added meanwhile may come or not.

        Raises:
            FrameclsError: the journal cannot be read.
        """
        with self._locked() as connection:
            keys = [str(key) for (key,) in connection.execute("SELECT key FROM record ORDER BY rowid")]
        for key in keys:
            yield key, self.get(key)

    def add(self, key: str, record: Record) -> None:
        """Add a record, or replace the one of that key; a kill after this call does not lose it.

        Raises:
            FrameclsError: it cannot be written.
        """
        content = json.dumps(record.values).encode()
        row = (key, content, record.arrays, _digest(key, content, record.arrays))
        with self._locked() as connection:
            now_s = time.monotonic()
            is_due = now_s - self._synced_s > _SYNC_S
            if is_due:  # with this record all before it go to the disk
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?, ?)", row)
            if is_due:
                connection.execute("PRAGMA synchronous = NORMAL")
                self._synced_s = now_s
        self._most_bytes += len(content) + len(record.arrays)

    def remove(self, key: str) -> None:
        """Remove a record.

        Raises:
            FrameclsError: the journal cannot be written.
        """
        with self._locked() as connection:
            connection.execute("DELETE FROM record WHERE key = ?", (key,))

    def keep(self, keys: Iterable[str]) -> None:
        """Remove all records but these.

        Raises:
            FrameclsError: the journal cannot be written; every record stays.
        """
        with self._locked() as connection:
            connection.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY) WITHOUT ROWID")
            connection.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", ((key,) for key in keys))
            connection.execute("DELETE FROM record WHERE key NOT IN (SELECT key FROM temp.wanted)")
            connection.execute("DROP TABLE temp.wanted")

    def find_damage(self) -> str:
        """Return what SQLite's integrity check finds; empty for a sound file.

        Raises:
            FrameclsError: the journal cannot be read.
        """
        with self._locked() as connection:
            return find_damage(connection)

    def remove_if_empty(self) -> None:
        """Remove the file if it has no records and no other run has it open."""
        with contextlib.suppress(sqlite3.Error, OSError), self._lock:
            self._connection.execute("PRAGMA busy_timeout = 0")
            if self._connection.execute("SELECT 1 FROM record LIMIT 1").fetchone() is not None:
                return
            self._connection.execute("PRAGMA journal_mode = DELETE")  # fails while another run has it open
            self._connection.execute("BEGIN EXCLUSIVE")
            if self._connection.execute("SELECT 1 FROM record LIMIT 1").fetchone() is None:
                self.path.unlink()
            self._connection.execute("ROLLBACK")

    @contextmanager
    def _locked(self) -> Iterator[Connection]:
        with self._lock, _translated_errors(self.path, self._connection):
            yield self._connection


# For a record that claims to be longer than the file, SQLite would allocate that much memory.
_IS_PLAUSIBLE = (
    "typeof(content) = 'blob' AND typeof(arrays) = 'blob' AND typeof(digest) = 'blob' "
    "AND length(content) + length(arrays) + length(digest) <= ?"
)


def _digest(key: str, content: bytes, arrays: bytes) -> bytes:
    digest = hashlib.blake2b(key.encode() + len(content).to_bytes(8, "big"), digest_size=8)
    digest.update(content)
    digest.update(arrays)
    return digest.digest()


def _parse(key: str, content: bytes, arrays: bytes, digest: bytes) -> Record | None:
    if digest != _digest(key, content, arrays):
        return None
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return Record(values, arrays) if isinstance(values, dict) else None


@contextmanager
def open_journal(path: Path, *, exclusive: bool, create: bool = True) -> Iterator[Journal]:
    """Open a journal and close it after the block; one that is empty then goes.

    Args:
        path: of the file; folders above it are made.
        exclusive: refuse to share it with another run; else several may add to it.
        create: create it if there is none; else it is only read, and a lock is not waited for.

    Raises:
        OutputError: it cannot be written.
        FrameclsError: another run has it, or there is something else in its place.
    """
    timeout_s = _BUSY_TIMEOUT_S if create and not exclusive else 0.0
    with contextlib.ExitStack() as stack:
        with _translated_errors(path, None, exclusive=exclusive):
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            opened = open_state_file(path, JOURNAL, create=create, timeout_s=timeout_s, exclusive=exclusive)
            journal = Journal(path, stack.enter_context(opened))
        try:
            yield journal
        finally:
            if create:
                journal.remove_if_empty()


@contextmanager
def _translated_errors(path: Path, connection: Connection | None, *, exclusive: bool = False) -> Iterator[None]:
    """Turn errors of SQLite and the system into ours.

    Users do not know of the journal: where it cannot be written, the message names its folder.
    """
    folder = encodable(str(path.parent))
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror or error}") from error
    except sqlite3.ProgrammingError:  # a bug, not a damaged file
        raise
    except sqlite3.OperationalError as error:
        if exclusive and getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise FrameclsError(f"another run of framecls is writing in {folder}: let it end first") from error
        raise OutputError(f"cannot write in {folder}: {explain(connection, error)}") from error
    except sqlite3.DatabaseError as error:
        said = f"{encodable(str(path))}: this journal is damaged ({explain(connection, error)}): {JOURNAL.advice}"
        raise FrameclsError(said) from error
