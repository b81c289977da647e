"""Music and noises from packages: a tiny package tree, with sounds in archives and in packed data."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from framecls.errors import FrameclsError
from framecls.recipes import gather_sounds
from framecls.recipes.gather_sounds import carve, gather, plan_pieces, read_packages, read_wad, sort_out, unpack_package
from framecls.recipes.prepare_language import read_rows

RATE = 16000


def sound(seconds: float, seed: int, level: float = 0.1) -> bytes:
    """Return a WAV file of noise."""
    samples = level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV")
    return file.getvalue()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return the folder of an unpacked package of Debian."""
    root = tmp_path / "files"
    games = root / "usr/share/games/fake"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("sounds/bang.wav", sound(0.5, 3))
        file.writestr("readme.txt", "nothing to hear")
        file.writestr("../../out.wav", sound(0.5, 4))
    files = {
        "music/march.wav": sound(20.0, 1),
        "music/short.wav": sound(3.0, 2),  # a jingle
        "sounds/door.wav": sound(1.0, 5),
        "sounds/door_again.wav": sound(1.0, 5),  # the same once more
        "sounds/whisper.wav": sound(1.0, 6, 1e-4),  # hardly there
        "sounds/click.wav": sound(0.05, 7),
        "voices/hello.wav": sound(1.0, 8),
        "sounds/broken.wav": b"RIFF and no more",
        "data.pk3": archive.getvalue(),
        "data.pak": b"junk" + sound(0.4, 9) + b"more junk" + sound(0.3, 10),
    }
    for name, data in files.items():
        (games / name).parent.mkdir(parents=True, exist_ok=True)
        (games / name).write_bytes(data)
    notes = root / "usr/share/doc/fake/copyright"
    notes.parent.mkdir(parents=True)
    notes.write_text("Files: *\nLicense: GPL-2+\n\nFiles: music/*\nLicense: CC-BY-SA-3.0\n\nLicense: GPL-2+\n text\n")
    return root


def test_a_package_becomes_clips_and_rows(package: Path, tmp_path: Path) -> None:
    rows = gather("fake", package, tmp_path / "out", ("music", "noise"), set())
    assert {(row["kind"], Path(str(row["orig"])).name, row["seconds"]) for row in rows} - {
        ("noise", "door.wav", 1.0),
        ("noise", "door_again.wav", 1.0),
    } == {
        ("music", "march.wav", 20.0),
        ("noise", "bang.wav", 0.5),
        ("noise", "out.wav", 0.5),
        ("noise", "0000.wav", 0.4),
        ("noise", "0001.wav", 0.3),
    }
    assert len(rows) == 6  # one of the two doors
    assert not (package / "out.wav").exists()  # a name that leads out of its archive does not
    assert {(row["source"], row["licence"]) for row in rows} == {("fake", "GPL-2+, CC-BY-SA-3.0")}
    for row in rows:
        samples, rate = soundfile.read(tmp_path / "out" / str(row["file"]))
        assert (rate, len(samples)) == (RATE, round(float(row["seconds"]) * RATE))
        assert str(row["file"]).startswith(f"{row['kind']}/fake/")
    (tmp_path / "out" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert all(Path(row["path"]).is_file() for row in read_rows(tmp_path / "out" / "manifest.jsonl"))


def test_only_what_is_wanted_and_not_twice(package: Path, tmp_path: Path) -> None:
    seen: set[str] = set()
    assert [row["kind"] for row in gather("fake", package, tmp_path / "out", ("music",), seen)] == ["music"]
    assert gather("fake", package, tmp_path / "out", ("music",), seen) == []


def test_there_is_an_end(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gather_sounds.MOST_S, "noise", 1.0)
    rows = gather("fake", package, tmp_path / "out", ("noise",), set())
    assert 1.0 <= sum(float(row["seconds"]) for row in rows) < 2.0


@pytest.mark.parametrize(
    ("name", "seconds", "kind"),
    [
        ("usr/share/games/a/door.wav", 1.0, "noise"),
        ("usr/share/games/a/unnamed.ogg", 90.0, "music"),
        ("usr/share/games/a/rain.ogg", 90.0, "noise"),
        ("usr/share/games/a/theme.ogg", 40.0, "music"),
        ("usr/share/games/a/theme.ogg", 4.0, "jingle"),
        ("usr/share/games/a/fx/theme.ogg", 4.0, "noise"),
        ("usr/share/games/a/fx/music/theme.ogg", 40.0, "music"),
        ("usr/share/games/a/voices/hello.ogg", 1.0, "speech"),
        ("usr/share/games/a/voices/wolf.ogg", 1.0, "noise"),
        ("usr/share/games/a/fanfare.ogg", 2.0, "jingle"),
        ("usr/share/games/a/level.xm", 100.0, "music"),
    ],
)
def test_names_and_lengths_decide(name: str, seconds: float, kind: str) -> None:
    assert sort_out(name, seconds) == kind


def test_music_is_taken_in_pieces_within_it() -> None:
    assert plan_pieces("music", 20.0, 1) == [(0.0, 20.0)]
    assert plan_pieces("music", 130.0, 20) == [(40.0, 30.0)]
    pieces = plan_pieces("music", 130.0, 2)
    assert len(pieces) == 3
    assert all(start >= 0 and start + length <= 130 for start, length in pieces)
    assert plan_pieces("noise", 100.0, 1) == [(0.0, 60.0)]


def test_sounds_are_carved_out_of_data() -> None:
    one, other = sound(0.2, 1), sound(0.3, 2)
    ogg = b"OggS\x00\x02 first" + b"OggS\x00\x00 more"
    assert list(carve(b"x" + one + b"RIFF" + other + ogg + b"OggS\x00\x02 second")) == [
        ("0000.wav", one),
        ("0001.wav", other),
        ("0000.ogg", ogg),
        ("0001.ogg", b"OggS\x00\x02 second"),
    ]
    assert list(carve(b"")) == []


def test_sounds_of_doom() -> None:
    samples = bytes(range(200))
    lump = struct.pack("<HHI", 3, 11025, len(samples) + 32) + bytes(16) + samples + bytes(16)
    head = struct.pack("<4sII", b"PWAD", 2, 12 + len(lump))
    directory = struct.pack("<II8s", 12, len(lump), b"DSBANG") + struct.pack("<II8s", 12, len(lump), b"D_MUSIC")
    [(name, data)] = read_wad(head + lump + directory)
    got, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert (name, rate) == ("DSBANG.wav", 11025)
    np.testing.assert_array_equal(got >> 8, np.frombuffer(samples, np.uint8).astype(np.int16) - 128)
    assert list(read_wad(b"PWAD")) == []


def test_packages_are_unpacked(package: Path, tmp_path: Path) -> None:
    wheel = Path(shutil.make_archive(str(tmp_path / "fake"), "zip", package))
    source = Path(shutil.make_archive(str(tmp_path / "fake"), "gztar", package))
    packed = [wheel, source]
    if shutil.which("dpkg-deb"):
        control = package / "DEBIAN" / "control"
        control.parent.mkdir()
        control.write_text("Package: fake\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: none\n")
        subprocess.run(["dpkg-deb", "--build", package, tmp_path / "fake.deb"], check=True, capture_output=True)
        packed.append(tmp_path / "fake.deb")
    for number, file in enumerate(packed):
        unpack_package(file, tmp_path / f"{number}")
        assert (tmp_path / f"{number}/usr/share/games/fake/sounds/door.wav").is_file()
    (tmp_path / "no.deb").write_bytes(b"nothing")
    for name in ("no.deb", "no.tar.gz"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(FrameclsError, match=f"{name} cannot be unpacked"):
            unpack_package(tmp_path / name, tmp_path / "nowhere")


def test_one_package_that_fails_does_not_stop_the_others(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(name: str, folder: Path) -> Path:
        if name == "gone":
            raise FrameclsError("cannot be downloaded: there is no such package")
        return Path(shutil.make_archive(str(folder), "zip", package))

    monkeypatch.setattr(gather_sounds, "download", download)
    monkeypatch.setattr("sys.argv", ["gather_sounds", "gone", "fake", "--out", str(tmp_path / "out")])
    gather_sounds.main()
    assert capsys.readouterr().err.splitlines() == [
        "gone: cannot be downloaded: there is no such package",
        "fake: 0.3 min of music, 0.0 of noise",
    ]
    rows = read_rows(tmp_path / "out" / "manifest.jsonl")
    assert len(rows) == 6
    assert all(Path(row["path"]).is_file() for row in rows)


def test_the_list_of_sources_is_read() -> None:
    listed = read_packages()
    assert listed["widelands-data"] == {"music", "noise"}
    assert listed["pypi-onsen"] == {"noise"}
    assert "package" not in listed
