"""State files that framecls did not write: what may stand in the place of a journal or a gallery, or beside it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framecls.output.journal import JOURNAL, _digest

Spoil = Callable[[Path, Path], None]  # of a state file, with a victim that must stay as it is


def _replace(make: Spoil) -> Spoil:
    def spoil(path: Path, victim: Path) -> None:
        path.unlink()
        make(path, victim)

    return spoil


def _beside(suffix: str, make: Spoil) -> Spoil:
    return lambda path, victim: make(path.with_name(path.name + suffix), victim)


def _run(*statements: str) -> Spoil:
    def spoil(path: Path, victim: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return spoil


def _bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _cut(share: float) -> Spoil:
    return lambda path, victim: os.truncate(path, int(path.stat().st_size * share))


def _patch(at: int, data: bytes) -> Spoil:
    def spoil(path: Path, victim: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    return spoil


def _name_victim(path: Path, victim: Path) -> None:
    """Write a rollback journal that has SQLite remove the file which it names."""
    name = os.fsencode(victim)
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 0, 1, 512, 4096)
    tail = struct.pack(">I", 0x40000000 // 4096 + 1) + name + struct.pack(">II", len(name), sum(name))
    path.write_bytes(header.ljust(512, b"\0") + tail + bytes.fromhex("d9d505f920a163d7"))


_NONSENSE = b"\x37\x7f\x06\x82" + b"\xab" * 9000
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"

PLACES: dict[str, Spoil] = {
    "link to a file": _replace(lambda path, victim: path.symlink_to(victim)),
    "link to nothing": _replace(lambda path, victim: path.symlink_to("nothing")),
    "link to a device": _replace(lambda path, victim: path.symlink_to("/dev/zero")),
    "link to the like": lambda path, victim: path.symlink_to(path.rename(path.with_name("moved"))),
    "pipe": _replace(lambda path, victim: os.mkfifo(path)),
    "folder": _replace(lambda path, victim: path.mkdir()),
    "socket": _replace(lambda path, victim: _bind(path)),
    "other name of a file": _replace(lambda path, victim: os.link(victim, path)),
}
CONTENTS: dict[str, Spoil] = {
    "a letter": lambda path, victim: path.write_bytes(b"a") and None,
    "text": lambda path, victim: path.write_text("no database\n" * 500) and None,
    "zeros": lambda path, victim: path.write_bytes(bytes(8192)) and None,
    "magic only": lambda path, victim: path.write_bytes(b"SQLite format 3\0") and None,
    "header only": lambda path, victim: os.truncate(path, 100),
    "lines of an earlier framecls": lambda path, victim: (
        path.write_bytes(b"0123abcd " + b"0" * 32 + b' {"n": 1}\n') and None
    ),
    "another program's": _run("PRAGMA application_id = 0"),
    "newer": _run("PRAGMA user_version = 2"),
    "version below zero": _run("PRAGMA user_version = -1"),
    "page size": _patch(16, b"\x02\x00"),
    "page size of none": _patch(16, b"\x00\x07"),
    "reserved bytes": _patch(20, b"\xff"),
    "text encoding": _run("PRAGMA writable_schema = ON") and _patch(56, b"\0\0\0\3"),
    "schema format": _patch(44, b"\0\0\0\x09"),
    "cut": _cut(0.5),
    "cut to a page": lambda path, victim: os.truncate(path, 4096),
    "another table": _run("CREATE TABLE other (x)"),
    "virtual table": _run("CREATE VIRTUAL TABLE other USING fts5(x)"),
    "tree that is a list": _patch(4096, b"\x05" + bytes(11)),
    "tree that never ends": _patch(4096, b"\x05\0\0\0\x01\0\x10\0\0\0\0\0\0\x02\x0f\xf8" + bytes(4080)),
    "page of ones": _patch(4096, b"\xff" * 4096),
}
BESIDE: dict[str, Spoil] = {
    f"{what} beside it, {suffix}": _beside(suffix, make)
    for suffix in ("-journal", "-wal", "-shm")
    for what, make in {
        "link": lambda path, victim: path.symlink_to(victim),
        "dead link": lambda path, victim: path.symlink_to(victim.with_name("new")),
        "pipe": lambda path, victim: os.mkfifo(path),
        "folder": lambda path, victim: path.mkdir(),
        "other name of a file": lambda path, victim: os.link(victim, path),
        "text": lambda path, victim: path.write_text("a user's own\n") and None,
    }.items()
} | {
    "journal that names a victim": _beside("-journal", _name_victim),
    "log of nonsense": _beside("-wal", lambda path, victim: path.write_bytes(_NONSENSE) and None),
}  # fmt: skip
OF_JOURNALS: dict[str, Spoil] = {
    "view that never ends": _run(
        "DROP TABLE record",
        f"CREATE VIEW record AS {ENDLESS} SELECT x AS key, x AS content, x AS arrays, x AS digest FROM n",
    ),
    "trigger": _run("CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM record; END"),
    "index of an expression": _run("CREATE INDEX i ON record (abs(key))"),
    "another column": _run("ALTER TABLE record ADD COLUMN more"),
    "schema of another table": _run(
        "PRAGMA writable_schema = ON", "UPDATE sqlite_master SET sql = 'CREATE TABLE record (key)' WHERE type = 'table'"
    ),
    "schema of nonsense": _run("PRAGMA writable_schema = ON", "UPDATE sqlite_master SET sql = 'CREATE TALE'"),
    "roots that are others": _run("PRAGMA writable_schema = ON", "UPDATE sqlite_master SET rootpage = 1"),
    "text for bytes": _run("UPDATE record SET content = 'text'"),
    "numbers for bytes": _run("UPDATE record SET digest = 7, arrays = 1.5"),
    "keys that are bytes": _run("UPDATE record SET key = CAST(key AS BLOB)"),
    "values that are huge": _run("UPDATE record SET arrays = zeroblob(50000000)"),
}
OF_GALLERIES: dict[str, Spoil] = {
    "view that never ends": _run(
        "DROP TABLE person",
        f"CREATE VIEW person AS {ENDLESS} SELECT x AS id, 'a' AS name FROM n",
    ),
    "trigger": _run("CREATE TRIGGER t AFTER INSERT ON clip BEGIN DELETE FROM clip; END"),
    "vectors of text": _run("UPDATE clip SET vector = 'text'"),
    "vectors of nothing": _run("UPDATE clip SET vector = x''"),
    "vectors that are huge": _run("UPDATE clip SET vector = zeroblob(5000000)"),
    "names of bytes": _run("UPDATE person SET name = CAST('a' || id AS BLOB)"),
    "names of controls": _run("UPDATE person SET name = char(27) || '[2J' || id"),
    "names that are huge": _run("UPDATE person SET name = hex(zeroblob(3000000)) || id"),
    "people who are not there": _run("PRAGMA foreign_keys = OFF", "DELETE FROM person"),
    "times of text": _run("UPDATE clip SET heard_s = 'long', added = x'ff'"),
    "times without end": _run("UPDATE clip SET heard_s = 9e999"),
    "text that is none": _run("UPDATE clip SET file = CAST(x'ff' AS TEXT), model = CAST(x'fe' AS TEXT)"),
    "clips of no model": _run("UPDATE clip SET model = ''"),
}


def edit_records(path: Path, edit: Callable[[dict[str, Any], bytes], tuple[Any, bytes]]) -> None:
    """Change every record of a journal, and make the digests right again."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for key, content, arrays in list(connection.execute("SELECT key, content, arrays FROM record")):
            values, changed = edit(json.loads(content), arrays)
            text = values if isinstance(values, bytes) else json.dumps(values).encode()
            row = (text, changed, _digest(key, text, changed), key)
            connection.execute("UPDATE record SET content = ?, arrays = ?, digest = ? WHERE key = ?", row)
        connection.commit()


def _put(**fields: Any) -> Spoil:
    return lambda path, victim: edit_records(path, lambda values, arrays: ({**values, **fields}, arrays))


def _put_segment(*segment: Any) -> Spoil:
    return _put(segments=[list(segment)])


def _put_text(text: bytes) -> Spoil:
    return lambda path, victim: edit_records(path, lambda values, arrays: (text, arrays))


# Records of results in one file, such as no run writes.
RECORDS: dict[str, Spoil] = {
    "no JSON": _put_text(b"{"),
    "no object": _put_text(b"[1]"),
    "empty object": _put_text(b"{}"),
    "deep": _put_text(b"[" * 100_000),
    "a number of a million digits": _put_text(b'{"n": ' + b"9" * 10**6 + b"}"),
    "another kind": _put(kind="Identification"),
    "no kind": _put(kind=[1]),
    "one field more": _put(more=1),
    "one field less": lambda path, victim: edit_records(path, lambda v, a: ({k: v[k] for k in list(v)[:-2]}, a)),
    "another file": _put(file="other.wav"),
    "no file": _put(file=None),
    "duration below zero": _put(duration=-1.0),
    "duration of nothing known": _put(duration=float("nan")),
    "duration without end": _put(duration=float("inf")),
    "duration of ages": _put(duration=1e300),
    "duration that is none": _put(duration="1"),
    "hop of zero": _put(hop=0.0),
    "labels twice": _put(labels=["speech", "speech"]),
    "labels that are none": _put(labels=[1, 2, 3]),
    "segments that are none": _put(segments=7),
    "segment after the end": _put_segment(0.0, 1e6, "speech", 0.5),
    "segment before the beginning": _put_segment(-1.0, 0.1, "speech", 0.5),
    "segment that ends before it begins": _put_segment(0.2, 0.1, "speech", 0.5),
    "segment of no label": _put_segment(0.0, 0.1, "nobody", 0.5),
    "segment of too high a score": _put_segment(0.0, 0.1, "speech", 2.0),
    "segment of three values": _put_segment(0.0, 0.1, "speech"),
    "segment of another type": _put_segment(False, True, "speech", 0.5),
    "audio of no channels": _put(audio=[16000, 0]),
    "frames that are too many": _put(n_frames=10**15),
    "frames below zero": _put(n_frames=-1),
    "frames that are not there": _put(n_frames=1),
    "columns that are not there": _put(n_columns=True),
    "arrays that nobody counts": lambda path, victim: edit_records(path, lambda v, a: (v, bytes(10**6))),
}
# Records of a folder's results, such as no run writes.
FOLDER_RECORDS: dict[str, Spoil] = {
    "no JSON": _put_text(b"\xff"),
    "empty object": _put_text(b"{}"),
    "output outside": _put(output="../victim"),
    "output elsewhere": _put(output="/etc/passwd"),
    "output that is none": _put(output=7),
    "output with a zero": _put(output="a\0b"),
    "input with a zero": _put(input="a\0b"),
    "written that is none": _put(written=None),
    "written of text": _put(written=["1", "2"]),
    "facts that are none": _put(facts=[]),
    "one field more": _put(more=1),
}


def make_empty_of_kind(path: Path, victim: Path) -> None:
    """Write a database with the marks of a journal and none of its tables."""
    path.unlink()
    _run(f"PRAGMA application_id = {JOURNAL.application_id}", "PRAGMA user_version = 1", "CREATE TABLE t (x)")(
        path, victim
    )


CONTENTS["marks without tables"] = make_empty_of_kind
