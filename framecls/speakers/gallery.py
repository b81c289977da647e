"""Voices enrolled by name, in one SQLite file that several processes may use at once.

No torch here: a gallery can be listed, exported and mended without a model. What is stored can tell a person by the
voice, so the file is for its owner's eyes only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import sqlite3
import unicodedata
from collections import Counter
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
from framecls.statefile import Connection, FileKind, explain, find_damage, open_state_file

_log = logging.getLogger(__name__)

GALLERY = FileKind(
    name="gallery of voices",
    application_id=0x66636C73,  # "fcls"
    version=1,
    schema=(
        "CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        """CREATE TABLE clip (
    id INTEGER PRIMARY KEY,
    person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
    model TEXT NOT NULL,
    file TEXT NOT NULL,
    heard_s REAL NOT NULL,
    added TEXT NOT NULL,
    vector BLOB NOT NULL
)""",
        "CREATE INDEX clip_person ON clip (person)",
        "CREATE INDEX clip_model ON clip (model)",
    ),
    advice="name another file with --gallery",
    error=GalleryError,
    permissions=0o600,
    most_bytes=2**20,
)
# How long one process waits for another that writes.
_PATIENCE_S = 30.0
_MAX_NAME = 200
_MAX_S = 1e9  # of speech in a clip
_MAX_NAMED = 3  # damaged clips in one message
VECTOR_TYPE = np.dtype("<f4")


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
    """Return where the gallery of this user is: in the data folder that the system gives to programs.

    Raises:
        GalleryError: the system does not say where this user's files are.
    """
    from platformdirs import user_data_path

    with contextlib.suppress(RuntimeError):  # the user has no home folder
        path = user_data_path("framecls", appauthor=False) / "speakers.sqlite"
        if path.is_absolute():
            return path
    raise GalleryError("there is no home folder to keep the enrolled voices in: name a file with --gallery")


def has_own_gallery() -> bool:
    """Return whether there is a gallery of this user, one that may not be read included."""
    try:
        return os.path.lexists(default_path())
    except GalleryError:
        return False


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

    def __init__(self, path: Path, connection: Connection) -> None:
        self.path = path
        self._connection = connection
        self.n_damaged = 0  # clips that `clips` left out

    def people(self) -> list[Person]:
        """Return who is enrolled, by name; damaged clips do not count."""
        people: dict[str, Person] = {}
        for clip in self.clips():
            known = people.get(clip.name, Person(clip.name, 0, 0.0, ""))
            heard_s, added = known.heard_s + clip.heard_s, max(known.added, clip.added)
            people[clip.name] = Person(clip.name, known.n_clips + 1, heard_s, added)
        return list(people.values())

    def clips(self, names: Sequence[str] | None = None) -> list[Clip]:
        """Return the clips of some people, or of all, by name and in the order in which they came.

        Those that are damaged, or whose vectors have another length than most, are left out; one warning names them.

        Raises:
            GalleryError: nobody is enrolled by one of the names, or the file cannot be read.
        """
        found, damaged = self.read()
        self.n_damaged = len(damaged)
        if damaged:
            shown = ", ".join(damaged[:_MAX_NAMED]) + (", …" if len(damaged) > _MAX_NAMED else "")
            _log.warning(
                "%s: %d of its clips are damaged and left out (%s): to be rid of them, import what "
                "framecls speakers export gives into a new file",
                self.path, len(damaged), shown,
            )  # fmt: skip
        if names is None:
            return found
        known = {clip.name for clip in found}
        for name in names:
            if name not in known:
                raise self._nobody(name, known)
        return [clip for clip in found if clip.name in set(names)]

    def read(self) -> tuple[list[Clip], list[str]]:
        """Return the clips of all people, as `clips` does, and what to call those that are damaged.

        Raises:
            GalleryError: the file cannot be read.
        """
        query = """SELECT clip.id, name, model, file, heard_s, added, vector FROM clip
                   LEFT JOIN person ON person.id = clip.person ORDER BY name, clip.id"""
        whole: list[tuple[int, Clip]] = []
        damaged: list[str] = []
        with self._reading():
            for number, *values in self._connection.execute(query):
                clip = _parse_clip(*values)
                if clip is not None:
                    whole.append((number, clip))
                else:
                    damaged.append(f"clip {number}")
        sizes = Counter(clip.vector.size for _, clip in whole)
        usual = sizes.most_common(1)[0][0] if sizes else 0
        damaged += [f"clip {number} of {clip.name}" for number, clip in whole if clip.vector.size != usual]
        return [clip for _, clip in whole if clip.vector.size == usual], damaged

    def find_damage(self) -> str:
        """Return what is wrong with the file as SQLite sees it; empty where all is well.

        Raises:
            GalleryError: the file cannot be read.
        """
        with self._reading():
            return find_damage(self._connection)

    def models(self) -> list[str]:
        """Return which weights made the vectors; one, or none where nobody is enrolled."""
        with self._reading():
            return [str(row[0]) for row in self._connection.execute("SELECT DISTINCT model FROM clip ORDER BY model")]

    def add(self, clips: Sequence[Clip]) -> int:
        """Enroll clips, all or none of them, and return how many were new: the same one again changes nothing.

        Raises:
            GalleryError: others are enrolled with other weights, whose vectors cannot be compared with these.
        """
        if not clips:
            return 0
        now = datetime.now(UTC).isoformat(timespec="seconds")
        first = clips[0]
        for clip in clips:
            if clip.model != first.model:
                raise self.other_model(first.model, clip.model)
            if clip.vector.size != first.vector.size:
                raise self._other_length(first.vector.size, clip.vector.size)
        with self._writing() as connection:
            self._check_new(connection, first)
            names = {clip.name for clip in clips}
            connection.executemany("INSERT OR IGNORE INTO person (name) VALUES (?)", ((name,) for name in names))
            people = {name: number for number, name in connection.execute("SELECT id, name FROM person")}
            query = "SELECT vector FROM clip WHERE person = ? AND typeof(vector) = 'blob'"
            known = {
                (people[name], _digest(vector))
                for name in names
                for (vector,) in connection.execute(query, (people[name],))
            }
            rows = []
            for clip in clips:
                vector = clip.vector.astype(VECTOR_TYPE).tobytes()
                mark = (people[clip.name], _digest(vector))
                if mark not in known:
                    known.add(mark)
                    rows.append((mark[0], clip.model, clip.file, clip.heard_s, clip.added or now, vector))
            columns = "person, model, file, heard_s, added, vector"
            connection.executemany(f"INSERT INTO clip ({columns}) VALUES (?, ?, ?, ?, ?, ?)", rows)
        return len(rows)

    def _check_new(self, connection: sqlite3.Connection, clip: Clip) -> None:
        """Refuse a clip whose vector cannot be compared with most of those that are enrolled."""
        other = connection.execute("SELECT model FROM clip WHERE model != ? LIMIT 1", (clip.model,)).fetchone()
        if other is not None:
            raise self.other_model(str(other[0]), clip.model)
        query = "SELECT length(vector) FROM clip GROUP BY length(vector) ORDER BY COUNT(*) DESC LIMIT 1"
        usual = connection.execute(query).fetchone()
        n_bytes = clip.vector.size * VECTOR_TYPE.itemsize
        if usual is not None and usual[0] != n_bytes:
            raise self._other_length(usual[0] // VECTOR_TYPE.itemsize, clip.vector.size)

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

    def _other_length(self, enrolled: int, given: int) -> GalleryError:
        return GalleryError(f"{self.path}: a vector of {given} numbers cannot be compared with those of {enrolled}")

    def _names(self) -> list[str]:
        return [str(row[0]) for row in self._connection.execute("SELECT name FROM person")]

    def _nobody(self, name: str, names: Iterable[str]) -> GalleryError:
        return GalleryError(f"{self.path}: nobody is enrolled as {name!r}{suggest(name, names, WHO_IS)}")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated(self.path, self._connection):
            yield

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction; no other process writes until it is over."""
        with translated(self.path, self._connection):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself goes back where the disk is full
                    self._connection.execute("ROLLBACK")
                raise


def _parse_clip(name: Any, model: Any, file: Any, heard_s: Any, added: Any, blob: Any) -> Clip | None:
    """Return a row as a clip, or None if it is none: SQLite itself does not care what a column holds."""
    if not all(isinstance(value, str) for value in (name, model, file, added)) or not isinstance(heard_s, float):
        return None
    try:
        if check_name(name) != name:
            return None
    except UsageError:
        return None
    if not isinstance(blob, bytes) or len(blob) % VECTOR_TYPE.itemsize or not 0 <= heard_s < _MAX_S:
        return None
    vector = np.frombuffer(blob, VECTOR_TYPE).astype(np.float32)
    return Clip(name, model, file, heard_s, vector, added) if is_unit(vector) else None


def is_unit(vector: NDArray[np.float32]) -> bool:
    """Whether a (number,) vector is one that a model gives: of unit length."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(0.9 < float(vector @ vector) < 1.1)  # false of NaN too


def _digest(vector: bytes) -> bytes:
    return hashlib.blake2b(vector, digest_size=16).digest()


@contextmanager
def open_gallery(path: Path, *, create: bool = False) -> Iterator[Gallery]:
    """Open a gallery, and close it at the end of the block.

    Args:
        path: the file.
        create: make an empty one where there is none.

    Raises:
        GalleryError: there is no such file, it is not a gallery, or it is one of a newer kind.
    """
    with contextlib.ExitStack() as stack:
        try:
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with translated(path):
                opened = open_state_file(path, GALLERY, create=create, timeout_s=_PATIENCE_S)
                connection = stack.enter_context(opened)
                connection.text_factory = _decode
        except FileNotFoundError as error:
            said = "nobody is enrolled yet, there is no such gallery: framecls enroll NAME CLIP..."
            raise GalleryError(f"{path}: {said}") from error
        except OSError as error:
            what = "made" if create else "opened"
            raise GalleryError(f"{path}: this gallery cannot be {what}: {error.strerror}") from error
        yield Gallery(path, connection)


_decode = functools.partial(str, encoding="utf-8", errors="replace")


@contextmanager
def translated(path: Path, connection: Connection | None = None) -> Iterator[None]:
    """Turn what SQLite raises into one line that says what to do."""
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):  # not the file's fault
        raise
    except sqlite3.OperationalError as error:
        raise GalleryError(f"{path}: this gallery cannot be used: {explain(connection, error)}") from error
    except sqlite3.DatabaseError as error:
        raise GalleryError(
            f"{path}: not a gallery of voices, or a damaged one ({error}): name another file with --gallery"
        ) from error
