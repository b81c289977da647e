"""The file of enrolled voices: people and clips, two processes at once, and files that are something else."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framecls.errors import GalleryError, UsageError
from framecls.speakers.gallery import GALLERY, Clip, check_name, default_path, open_gallery
from support.commands import start_command

MODEL = "tiny-0123"


def clip(name: str, number: int = 0, model: str = MODEL, size: int = 8) -> Clip:
    """Return a clip whose vector is drawn from its number."""
    vector = np.random.default_rng(number).standard_normal(size).astype(np.float32)
    return Clip(name, model, f"{name}{number}.wav", 2.5, vector / np.linalg.norm(vector))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a gallery with two clips of Ada and one of Bob."""
    path = tmp_path / "voices.sqlite"
    with open_gallery(path, create=True) as gallery:
        assert gallery.add([clip("Ada", 1), clip("Ada", 2), clip("Bob", 3)]) == 3
    return path


def names(path: Path) -> list[str]:
    with open_gallery(path) as gallery:
        return [person.name for person in gallery.people()]


def test_what_is_added_is_there(path: Path) -> None:
    with open_gallery(path) as gallery:
        ada, bob = gallery.people()
        clips = gallery.clips()
        assert gallery.models() == [MODEL]
    assert (ada.name, ada.n_clips, ada.heard_s) == ("Ada", 2, 5.0)
    assert (bob.name, bob.n_clips) == ("Bob", 1)
    assert [c.file for c in clips] == ["Ada1.wav", "Ada2.wav", "Bob3.wav"]
    np.testing.assert_array_equal(clips[2].vector, clip("Bob", 3).vector)
    assert clips[0].added.endswith("+00:00")


def test_the_same_clip_again_changes_nothing(path: Path) -> None:
    with open_gallery(path) as gallery:
        assert gallery.add([clip("Ada", 1), clip("Ada", 4)]) == 1
        assert gallery.people()[0].n_clips == 3


def test_another_model_is_refused_and_nothing_is_added(path: Path) -> None:
    with open_gallery(path) as gallery:
        with pytest.raises(GalleryError, match=r"enrolled with the model tiny-0123.*-m.*--gallery"):
            gallery.add([clip("Cleo", 5, "other-9876")])
        assert [person.name for person in gallery.people()] == ["Ada", "Bob"]
    fresh = path.with_name("fresh.sqlite")
    with open_gallery(fresh, create=True) as gallery:
        with pytest.raises(GalleryError):
            gallery.add([clip("Ada", 1), clip("Bob", 2, "other-9876")])
        assert not gallery.people()


def test_remove_and_rename(path: Path) -> None:
    with open_gallery(path) as gallery:
        with pytest.raises(GalleryError, match=r"'Adda'.*did you mean Ada"):
            gallery.remove(["Bob", "Adda"])
        assert len(gallery.people()) == 2  # all or none
        with pytest.raises(GalleryError, match="somebody is enrolled as 'Bob' already"):
            gallery.rename("Ada", "Bob")
        with pytest.raises(GalleryError, match="nobody is enrolled as 'Zoe'"):
            gallery.rename("Zoe", "Ann")
        with pytest.raises(GalleryError, match="nobody is enrolled as 'Zoe'"):
            gallery.rename("Zoe", "Bob")
        gallery.rename("Ada", "Ada Lovelace")
        gallery.remove(["Bob"])
        assert [c.name for c in gallery.clips()] == ["Ada Lovelace"] * 2
        with pytest.raises(GalleryError, match="nobody is enrolled as 'Bob'"):
            gallery.clips(["Bob"])


def test_removing_leaves_no_clips_behind(path: Path) -> None:
    with open_gallery(path) as gallery:
        gallery.remove(["Ada", "Bob"])
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT COUNT(*) FROM clip").fetchone() == (0,)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201, "unknown", " unknown "])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


def test_a_name_is_composed_and_trimmed() -> None:
    assert check_name("  Zoe\u0308 ") == "Zo\u00eb"


def test_the_file_is_for_its_owner(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_where_it_is_by_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home in default_path().parents
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
        assert default_path() == home / "data" / "framecls" / "speakers.sqlite"
        monkeypatch.setenv("XDG_DATA_HOME", "relative")
        assert default_path() == home / ".local" / "share" / "framecls" / "speakers.sqlite"


@pytest.mark.skipif(sys.platform == "win32", reason="without a password file there is no such user")
def test_without_a_home_it_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(GalleryError, match=r"no home folder.*--gallery"):
        default_path()


def write_text(path: Path) -> None:
    path.write_text("Ada, Bob\n" * 200)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def make_other_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE song (title TEXT)")


def make_newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {GALLERY.version + 1}")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def drop_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE clip")


def change(column: str, value: object) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(f"UPDATE clip SET {column} = ? WHERE id = 2", (value,))

    return spoil


NAN = np.full(8, np.nan, np.float32).tobytes()
LONG = np.eye(1, 16, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (write_text, "not a gallery"),
        (cut_short, "gallery"),
        (make_other_database, "another program's database"),
        (make_newer, "update framecls"),
        (make_folder, "a folder, not a gallery"),
        (drop_table, "its tables are others"),
    ],
)
def test_files_that_are_no_gallery(path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(path)
    with pytest.raises(GalleryError, match=said) as caught, open_gallery(path) as gallery:
        gallery.clips()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "left"),
    [
        ("vector", b"abc", 2),
        ("vector", "text", 2),
        ("vector", NAN, 2),
        ("vector", LONG, 2),
        ("heard_s", b"soon", 2),
        ("heard_s", 1e300, 2),
        ("person", 77, 2),
        ("file", 7.5, 3),  # SQLite makes a text of it: nothing is lost
        ("file", b"\xff", 2),
    ],
)
def test_damaged_clips_are_named_and_left_out(
    column: str, value: object, left: int, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(column, value)(path)
    with open_gallery(path) as gallery:
        assert len(gallery.clips()) == left
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (left < 3)
    if left < 3:
        assert "1 of its clips are damaged and left out (clip 2" in caplog.text
        assert "framecls speakers export" in caplog.text


def test_vectors_of_another_length_are_refused(path: Path) -> None:
    with open_gallery(path) as gallery:
        with pytest.raises(GalleryError, match="a vector of 16 numbers cannot be compared with those of 8"):
            gallery.add([clip("Cleo", 5, size=16)])
        with pytest.raises(GalleryError, match="a vector of 16 numbers"):
            gallery.add([clip("Cleo", 5), clip("Cleo", 6, size=16)])
        assert len(gallery.clips()) == 3


def test_errors_of_our_own_are_not_blamed_on_the_file(path: Path) -> None:
    with open_gallery(path) as gallery, pytest.raises(AttributeError):
        gallery.add([object()])  # type: ignore[list-item]
    with open_gallery(path) as gallery, pytest.raises((sqlite3.ProgrammingError, sqlite3.InterfaceError)):
        gallery.remove([object()])  # type: ignore[list-item]
    assert names(path) == ["Ada", "Bob"]


def test_a_full_disk_leaves_all_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    with open_gallery(path) as gallery:
        gallery._connection.execute("PRAGMA max_page_count = 20")
        with pytest.raises(GalleryError, match="cannot be used: No space left on device"):
            gallery.add([clip("Cleo", number) for number in range(10_000)])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupt_leaves_all_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(3))

    def stop(vector: bytes) -> bytes:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return vector

    monkeypatch.setattr("framecls.speakers.gallery._digest", stop)
    with open_gallery(path) as gallery, pytest.raises(KeyboardInterrupt):
        gallery.add([clip("Cleo", number) for number in range(10)])
    assert names(path) == ["Ada", "Bob"]


def test_many_clips_are_added_in_linear_time(tmp_path: Path) -> None:
    """One person, so that each clip compared with all before it would take minutes."""
    vectors = np.random.default_rng(0).standard_normal((40_000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    clips = [Clip("Ada", MODEL, "a.wav", 1.0, vector) for vector in vectors]
    began = time.process_time()
    with open_gallery(tmp_path / "many.sqlite", create=True) as gallery:
        assert gallery.add(clips) == len(clips)
        assert gallery.add(clips) == 0
    assert time.process_time() - began < 10


def test_a_gallery_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="framecls enroll"), open_gallery(tmp_path / "none.sqlite"):
        pass
    assert not (tmp_path / "none.sqlite").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GalleryError, match="cannot be made"), open_gallery(tmp_path / "file" / "g", create=True):
        pass


def test_names_that_mean_something_in_a_uri(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c %41.sqlite"
    with open_gallery(path, create=True) as gallery:
        gallery.add([clip("Ada")])
    assert path.exists()
    assert names(path) == ["Ada"]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from framecls.speakers.gallery import Clip, open_gallery
who, first = sys.argv[2], int(sys.argv[3])
def clip(name, number):
    vector = np.random.default_rng(number).random(8, np.float32)
    return Clip(name, "m", f"{number}.wav", 2.5, vector / np.linalg.norm(vector))
sys.stdin.readline()
for number in range(25):
    with open_gallery(Path(sys.argv[1]), create=True) as gallery:
        gallery.add([clip("Both", first + number), clip(f"{who}{number}", first + number)])
"""


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "voices.sqlite"
    writers = [
        start_command(path, who, first, code=WRITER, stdin=subprocess.PIPE, text=True)
        for who, first in (("left", "0"), ("right", "1000"))
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=300)
        assert writer.returncode == 0, errors
    with open_gallery(path) as gallery:
        people = {person.name: person.n_clips for person in gallery.people()}
    assert people.pop("Both") == 50
    assert people == {f"{who}{number}": 1 for who in ("left", "right") for number in range(25)}


def test_a_writer_that_takes_too_long_is_said_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecls.speakers.gallery._PATIENCE_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(GalleryError, match="another process"), open_gallery(path) as gallery:
            gallery.add([clip("Cleo", 9)])
    finally:
        other.close()
