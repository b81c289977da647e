"""Voices enrolled by name, in one SQLite file that several processes may use at once.

No torch here: a gallery can be listed, exported and mended without a model. What is stored can tell a person by the
voice, so the file is for its owner's eyes only.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from framecls.config import UNKNOWN
from framecls.errors import WHO_IS, GalleryError, UsageError, suggest

SCHEMA_VERSION = 1
# Tells our files from any other program's: "fcls" in the header of the file.
_APPLICATION_ID = 0x66636C73
_SCHEMA = """
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE clip (
    id INTEGER PRIMARY KEY,
    person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
    model TEXT NOT NULL,
    file TEXT NOT NULL,
    heard_s REAL NOT NULL,
    added TEXT NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX clip_person ON clip (person);
CREATE INDEX clip_model ON clip (model);
"""
# How long one process waits for another that writes.
_PATIENCE_S = 30.0
_MAX_NAME = 200
_VECTOR_TYPE = np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Clip:
    """One recording of a voice, as a model heard it."""

    name: str  # who it is
    model: str  # which weights made the vector
    file: str  # where it came from: for people to read
    heard_s: float  # seconds of speech in it
    vector: NDArray[np.float32]  # (number,) of unit length
    added: str = ""  # UTC; "": now


@dataclass(frozen=True)
class Person:
    """Somebody who is enrolled."""

    name: str
    n_clips: int
    heard_s: float
    added: str  # when the last clip came, UTC


def default_path() -> Path:
    """Return where the gallery of this user is: in the data folder that the system gives to programs."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Application Support")
    else:
        base = os.environ.get("XDG_DATA_HOME", "")
        # A relative path there is to be ignored, says the XDG specification.
        base = base if os.path.isabs(base) else str(Path.home() / ".local" / "share")
    return Path(base) / "framecls" / "speakers.sqlite"


def check_name(text: str) -> str:
    """Return a person's name as it is stored: composed characters, no blanks around it.

    Raises:
        UsageError: it is empty, too long, cannot be printed, or is the answer for those whom nobody knows.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name or not name.isprintable() or len(name) > _MAX_NAME:
        raise UsageError(f"{text[:60]!r} is no name: 1 to {_MAX_NAME} printable characters are wanted")
    if name == UNKNOWN:
        raise UsageError(f"nobody can be enrolled as {UNKNOWN!r}: that is the answer for voices that are not enrolled")
    return name


class Gallery:
    """The people of one file. Make it with `open_gallery`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def people(self) -> list[Person]:
        """Return who is enrolled, by name."""
        query = """SELECT name, COUNT(*), SUM(heard_s), MAX(added) FROM clip JOIN person ON person.id = clip.person
                   GROUP BY person.id ORDER BY name"""
        with self._reading():
            return [Person(str(n), int(c), float(s), str(a)) for n, c, s, a in self._connection.execute(query)]

    def clips(self, names: Sequence[str] | None = None) -> list[Clip]:
        """Return the clips of some people, or of all, by name and in the order in which they came.

        Raises:
            GalleryError: nobody is enrolled by one of the names, or what is stored makes no sense.
        """
        query = """SELECT name, model, file, heard_s, vector, added FROM clip JOIN person ON person.id = clip.person
                   ORDER BY name, clip.id"""
        with self._reading():
            found = [self._parse(row) for row in self._connection.execute(query)]
        if len({clip.vector.size for clip in found}) > 1 and len({clip.model for clip in found}) == 1:
            raise self._damaged()
        if names is None:
            return found
        for name in names:
            if all(clip.name != name for clip in found):
                raise self._nobody(name, (clip.name for clip in found))
        return [clip for clip in found if clip.name in set(names)]

    def models(self) -> list[str]:
        """Return which weights made the vectors; one, or none where nobody is enrolled."""
        with self._reading():
            return [str(row[0]) for row in self._connection.execute("SELECT DISTINCT model FROM clip ORDER BY model")]

    def add(self, clips: Sequence[Clip]) -> int:
        """Enroll clips, all or none of them, and return how many were new: the same one again changes nothing.

        Raises:
            GalleryError: others are enrolled with other weights, whose vectors cannot be compared with these.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        n_new = 0
        with self._writing() as connection:
            for clip in clips:
                other = connection.execute("SELECT model FROM clip WHERE model != ? LIMIT 1", (clip.model,)).fetchone()
                if other is not None:
                    raise self.other_model(str(other[0]), clip.model)
                connection.execute("INSERT OR IGNORE INTO person (name) VALUES (?)", (clip.name,))
                (person,) = connection.execute("SELECT id FROM person WHERE name = ?", (clip.name,)).fetchone()
                vector = clip.vector.astype(_VECTOR_TYPE).tobytes()
                known = connection.execute("SELECT 1 FROM clip WHERE person = ? AND vector = ?", (person, vector))
                if known.fetchone() is None:
                    row = (person, clip.model, clip.file, clip.heard_s, clip.added or now, vector)
                    columns = "person, model, file, heard_s, added, vector"
                    connection.execute(f"INSERT INTO clip ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)
                    n_new += 1
        return n_new

    def remove(self, names: Sequence[str]) -> None:
        """Forget people and all their clips, all or none of them.

        Raises:
            GalleryError: nobody is enrolled by one of the names.
        """
        with self._writing() as connection:
            for name in names:
                if connection.execute("DELETE FROM person WHERE name = ?", (name,)).rowcount == 0:
                    raise self._nobody(name, self._names())

    def rename(self, old: str, new: str) -> None:
        """Give somebody another name.

        Raises:
            GalleryError: nobody is enrolled by the old name, or somebody by the new one.
        """
        with self._writing() as connection:
            names = self._names()
            if old not in names:
                raise self._nobody(old, names)
            if new != old and new in names:
                raise GalleryError(f"{self.path}: somebody is enrolled as {new!r} already: choose another name")
            connection.execute("UPDATE person SET name = ? WHERE name = ?", (new, old))

    def other_model(self, enrolled: str, wanted: str) -> GalleryError:
        """Return what to say where the vectors are of other weights than those at hand."""
        return GalleryError(
            f"{self.path}: its voices were enrolled with the model {enrolled}, and cannot be compared with {wanted}: "
            "give that model with -m, or enroll them again in another file with --gallery"
        )

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _names(self) -> list[str]:
        return [str(row[0]) for row in self._connection.execute("SELECT name FROM person")]

    def _nobody(self, name: str, names: Iterable[str]) -> GalleryError:
        return GalleryError(f"{self.path}: nobody is enrolled as {name!r}{suggest(name, names, WHO_IS)}")

    def _damaged(self) -> GalleryError:
        return GalleryError(f"{self.path}: this gallery is damaged: import an export of it into a new file")

    def _parse(self, row: tuple[Any, ...]) -> Clip:
        """Return a row as a clip; SQLite itself does not care what type a column holds."""
        name, model, file, heard_s, blob, added = row
        texts = all(isinstance(value, str) for value in (name, model, file, added))
        if not texts or not isinstance(heard_s, float) or not isinstance(blob, bytes):
            raise self._damaged()
        if not blob or len(blob) % _VECTOR_TYPE.itemsize:
            raise self._damaged()
        vector = np.frombuffer(blob, _VECTOR_TYPE).astype(np.float32)
        if not 0.9 < float(vector @ vector) < 1.1:  # false of NaN too
            raise self._damaged()
        return Clip(name, model, file, heard_s, vector, added)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated(self.path):
            yield

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction; no other process writes until it is over."""
        with translated(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


@contextmanager
def open_gallery(path: Path, *, create: bool = False) -> Iterator[Gallery]:
    """Open a gallery, and close it at the end of the block.

    Args:
        path: the file.
        create: make an empty one where there is none.

    Raises:
        GalleryError: there is no such file, it is not a gallery, or it is one of a newer kind.
    """
    if not path.exists() and not create:
        raise GalleryError(f"{path}: nobody is enrolled yet, there is no such gallery: framecls enroll NAME CLIP...")
    try:
        if create and not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise GalleryError(f"{path}: this gallery cannot be made: {error.strerror}") from error
    with translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE_S, isolation_level=None
        )
    gallery = Gallery(path, connection)
    try:
        with translated(path):
            connection.execute("PRAGMA foreign_keys = ON")
            _check(path, connection)
        yield gallery
    finally:
        gallery.close()


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Make the tables of an empty file; refuse one that is not ours.

    Raises:
        GalleryError: it is another program's, or a newer framecls made it.
    """
    if _is_empty(connection):
        connection.execute("BEGIN IMMEDIATE")
        if _is_empty(connection):  # nobody else was faster
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise GalleryError(f"{path}: another program's database, not a gallery of voices: name another file")
    if version > SCHEMA_VERSION:
        raise GalleryError(f"{path}: a gallery of the newer kind {version}: update framecls")


def _is_empty(connection: sqlite3.Connection) -> bool:
    (n_tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    return bool(n_tables == 0 and application == 0)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one line that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise GalleryError(f"{path}: another process has been writing to it for too long: try again") from error
        if "readonly" in text:
            raise GalleryError(f"{path}: this gallery cannot be written to") from error
        raise GalleryError(f"{path}: this gallery cannot be used: {text}") from error
    except (sqlite3.DatabaseError, OverflowError, TypeError) as error:
        raise GalleryError(
            f"{path}: not a gallery of voices, or a damaged one ({error}): name another file with --gallery"
        ) from error
