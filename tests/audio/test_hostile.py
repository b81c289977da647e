"""Whatever is given to the command ends in a result or in one clear line, in bounded time and memory."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecls.audio import AUDIO_SUFFIXES, InputFailure, find_inputs, open_audio
from framecls.audio import find as inputs
from framecls.audio.readers import opening
from framecls.cli.operations import TagOperation
from framecls.errors import AudioError
from support.commands import HANG_S, Cli, environment, run_command
from support.hostile import chunk, encoded, floats, fmt, pcm, riff, save, wav
from support.limits import bounded
from support.media import Track, write_media
from support.signals import RATE, make_tone, write_wav

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the file system and the limits of Linux")


@dataclass(frozen=True)
class Hostile:
    """One input, and what may come of it.

    Attributes:
        make: puts it into a folder and returns the argument that names it.
        said: what the one line on stderr must hold; None: it must be a result.
        duration_s: what the result must say of its length; None: there is no result.
        warning: what the one line on stderr must hold beside a result.
    """

    make: Callable[[Path], str | Path]
    said: str | None = None
    duration_s: float | None = None
    warning: str | None = None


def data(content: bytes, name: str = "a.wav") -> Callable[[Path], Path]:
    """Return a function that writes these bytes."""
    return lambda folder: save(folder / name, content)


def result(make: Callable[[Path], str | Path] | bytes, duration_s: float) -> Hostile:
    """Return an input that is odd, but heard."""
    return Hostile(data(make) if isinstance(make, bytes) else make, None, duration_s)


def warned(make: Callable[[Path], str | Path] | bytes, duration_s: float, said: str = "it was cut off") -> Hostile:
    """Return an input that is heard as far as it goes, with a warning."""
    return Hostile(data(make) if isinstance(make, bytes) else make, None, duration_s, said)


def line(make: Callable[[Path], str | Path] | bytes, said: str) -> Hostile:
    """Return an input of which a line on stderr says what is wrong."""
    return Hostile(data(make) if isinstance(make, bytes) else make, said)


def named(name: str) -> Hostile:
    """Return a good recording with a bad name."""
    return result(lambda folder: write_wav(folder / "good.wav").rename(folder / name), 1.0)


def at_rate(rate: int, n_samples: int) -> bytes:
    return wav(pcm(n_samples / RATE), rate=rate)


def loop_of_two(folder: Path) -> Path:
    (folder / "a.wav").symlink_to(folder / "b.wav")
    (folder / "b.wav").symlink_to(folder / "a.wav")
    return folder / "a.wav"


def linked(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "a.wav").symlink_to(target)
        return folder / "a.wav"

    return make


def folder_of_loops(folder: Path) -> Path:
    inner = folder / "deep" / "deeper"
    inner.mkdir(parents=True)
    write_wav(inner / "a.wav")
    for number in range(20):
        (inner / f"up{number}").symlink_to(folder)
        (folder / f"down{number}").symlink_to(inner)
    return folder


def folder_called_wav(folder: Path) -> Path:
    write_wav(folder / "a.wav" / "b.wav")
    return folder / "a.wav"


def deep_folder(folder: Path) -> Path:
    """Make folders inside each other until no system call takes the path any more, with a recording in the first."""
    write_wav(folder / "a.wav")
    here = os.open(folder, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=here)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    return folder


def unix_socket(folder: Path) -> Path:
    path = folder / "a.wav"
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
        server.bind(path.name)
    return path


def listed(text: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        write_wav(folder / "a.wav")
        return f"@{save(folder / 'list.txt', text)}"

    return make


def zipped(folder: Path) -> Path:
    write_wav(folder / "b.wav")
    with zipfile.ZipFile(folder / "a.wav", "w") as archive:
        archive.write(folder / "b.wav", "b.wav")
    return folder / "a.wav"


def tarred(folder: Path) -> Path:
    write_wav(folder / "b.wav")
    with tarfile.open(folder / "a.wav", "w") as archive:
        archive.add(folder / "b.wav", "b.wav")
    return folder / "a.wav"


def sparse(n_bytes: int, head: bytes, name: str) -> Callable[[Path], Path]:
    """Return a function that makes a file of zeros which takes no room on the disk."""

    def make(folder: Path) -> Path:
        path = save(folder / name, head)
        os.truncate(path, n_bytes)
        return path

    return make


def tagged_mp3(tag_bytes: int) -> bytes:
    """Return an mp3 that begins with an ID3 tag which says that it is so long."""
    size = bytes((tag_bytes >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + size + encoded("MP3")


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def written_by_others(name: str, codec: str, keep: float) -> Callable[[Path], Path]:
    """Return a function that makes a file of a format which libsndfile does not know and keeps this share of it."""

    def make(folder: Path) -> Path:
        content = write_media(folder / name, Track(make_tone(2.0), RATE, codec)).read_bytes()
        return save(folder / name, content[: int(len(content) * keep)])

    return make


SQUARE = np.where(np.arange(RATE) // 40 % 2, 32767, -32768).astype("<i2").tobytes()
TONE_24 = b"".join(struct.pack("<i", int(x * 2**23))[:3] for x in make_tone(0.5).tolist())
NOT_AUDIO = "not audio that can be read"
NO_AUDIO = "there is no audio in it"
PLAYLIST = "a playlist, not a recording"
FLAC, MP3, OGG = encoded("FLAC"), encoded("MP3"), encoded("OGG", "VORBIS")
OPUS, AIFF, AU = encoded("OGG", "OPUS"), encoded("AIFF"), encoded("AU")

TABLE: dict[str, Hostile] = {
    # nothing, or next to nothing
    "0 bytes": line(b"", "empty"),
    "1 byte": line(b"R", NOT_AUDIO),
    "only RIFF": line(b"RIFF", NOT_AUDIO),
    "only RIFF and WAVE": line(riff(), NOT_AUDIO),
    "a header and no samples": line(wav(b""), "no audio in it"),
    "a header cut in the middle": line(wav()[:25], NOT_AUDIO),
    "one sample": result(wav(pcm()[:2]), 1 / RATE),
    "two samples": result(wav(pcm()[:4]), 2 / RATE),
    "half a sample": line(wav(b"\x01"), "no audio in it"),
    "one sample at 384 kHz": result(wav(pcm()[:2], rate=384000), 1 / RATE),
    # headers that lie
    "says 4 GB of samples": result(wav(data_bytes=2**32 - 1), 0.5),
    "says 2 GB of samples": result(wav(data_bytes=2**31 - 8), 0.5),
    "says twice its samples": warned(wav(data_bytes=32000), 0.5),
    "says no samples": result(wav(data_bytes=0), 0.5),
    "says an odd number of bytes": result(wav(data_bytes=15999), 0.4999375),
    "says that the file is empty": result(riff(fmt(), chunk(b"data", pcm()), n_bytes=0), 0.5),
    "says that the file is 4 GB": result(riff(fmt(), chunk(b"data", pcm()), n_bytes=2**32 - 1), 0.5),
    "0 channels": line(wav(channels=0), "nothing in it can be decoded"),
    "65,535 channels": line(wav(channels=65535, block=2), "nothing in it can be decoded"),
    "1,024 channels": result(wav(pcm(0.1, 1024), channels=1024), 0.1),
    "64 channels": result(wav(pcm(0.5, 64), channels=64), 0.5),
    "64 channels at 384 kHz": result(wav(pcm(0.5, 64), channels=64, rate=384000), 0.020875),
    "0 Hz": line(wav(rate=0), NOT_AUDIO),
    "1 Hz": line(at_rate(1, 8000), "sample rate"),
    "a million samples at 1 Hz": line(wav(bytes(2_000_000), rate=1), "sample rate"),
    "384 kHz": result(at_rate(384000, 8000), 0.020875),
    "2 GHz": line(at_rate(2**31 - 1, 8000), "sample rate"),
    "4 GHz": line(at_rate(2**32 - 1, 8000), NOT_AUDIO),
    "an odd rate": result(at_rate(44099, 8000), 0.1814375),
    "0 bits": line(wav(bits=0), NO_AUDIO),
    "255 bits": line(wav(bits=255, block=32), NO_AUDIO),
    "a block of 0 bytes": result(wav(block=0), 0.5),
    "a block of 65,535 bytes": line(wav(block=65535), "can be read in two ways"),
    "an unknown format": line(wav(code=0x1234), NO_AUDIO),
    "no format": line(riff(chunk(b"data", pcm())), NOT_AUDIO),
    "two formats": result(riff(fmt(), fmt(channels=2, rate=8000), chunk(b"data", pcm())), 0.5),
    "samples before the format": result(riff(chunk(b"data", pcm()), fmt()), 0.5),
    "a format chunk of 4 GB": line(riff(b"fmt " + struct.pack("<I", 2**32 - 1) + fmt()[8:]), NOT_AUDIO),
    "a thousand empty chunks": result(riff(fmt(), chunk(b"junk", b"") * 1000, chunk(b"data", pcm())), 0.5),
    "an odd chunk before the samples": result(riff(fmt(), chunk(b"LIST", b"abc"), chunk(b"data", pcm())), 0.5),
    "24-bit, an odd number of bytes": result(wav(TONE_24 + b"\x01", bits=24), 0.5),
    "24-bit in three channels": result(wav(TONE_24, bits=24, channels=3), 0.166625),
    "24-bit, cut in a sample": result(wav(TONE_24, bits=24)[:-1], 0.4999375),
    "stereo, cut in a frame": result(wav(pcm(0.5, 2), channels=2)[:-3], 0.4999375),
    "an aiff that lies of its length": result(patched(AIFF, 22, b"\xff\xff\xff\xff"), 1.0),
    "an au of unknown length": result(patched(AU, 8, b"\xff\xff\xff\xff"), 1.0),
    "an au with its samples past the end": line(patched(AU, 4, b"\x7f\xff\xff\xff"), NO_AUDIO),
    "a flac of 2^36 samples": warned(patched(FLAC, 21, b"\xff\xff\xff\xff\xff"), 1.0),
    "a flac at 0 Hz": result(patched(FLAC, 18, b"\0\0\x02"), 1.0),  # each frame says it again
    "a flac of a header": line(FLAC[:42], NO_AUDIO),
    "an rf64 that lies": line(encoded("RF64").replace(b"ds64", b"dsXX"), NOT_AUDIO),
    "a w64 that lies": result(patched(encoded("W64"), 16, b"\xff" * 8), 1.0),
    "a caf that lies": line(patched(encoded("CAF"), 12, b"\x7f" + b"\xff" * 7), NOT_AUDIO),
    # samples that no microphone gives
    "NaN": line(floats(math.nan), r"0\.250 s is NaN or infinite"),
    "infinity": line(floats(math.inf, -math.inf), r"0\.250 s is NaN or infinite"),
    "infinity less infinity": line(wav(np.array([np.inf, -np.inf] * 99, "<f4").tobytes(), code=3, bits=32, channels=2),
                                   "NaN or infinite"),
    "doubles too large for a float": line(wav(np.full(99, 1e300, "<f8").tobytes(), code=3, bits=64), "NaN or infinite"),
    "the largest floats": line(floats(3e38, -3e38), r"0\.250 s is 3e\+38, where"),
    "floats that were never scaled": result(floats(32767.0, -32768.0), 0.5),
    "denormal floats": result(floats(*[1e-42] * 1000), 0.5),
    "a constant": result(wav(np.full(8000, 12345, "<i2").tobytes()), 0.5),
    "silence": result(wav(bytes(16000)), 0.5),
    "a full-scale square wave": result(wav(SQUARE), 1.0),
    "a click": result(floats(1.0), 0.5),
    # what follows, and what is damaged
    "a megabyte more than it says": result(wav() + np.random.default_rng(0).bytes(2**20), 0.5 + 2**20 / 32000),
    "text after it": result(wav() + b"\nend of file\n", 0.5),
    "a flac with garbage after it": result(FLAC + bytes(range(256)) * 40, 1.0),
    "an mp3 with garbage after it": result(MP3 + b"\xff\xfb\x90\x00" * 4000, 1.0),
    "an mp3 with garbage in it": warned(MP3[:2000] + b"\0" * 5000 + MP3[2000:], 0.9749375, "a damaged packet at 0.3 s"),
    "an mp3 cut short": warned(MP3[:1501], 0.1829375),
    "an mp3 with a tag of 256 MB": line(tagged_mp3(2**28 - 1), NOT_AUDIO),
    "nothing but mp3 sync words": line(b"\xff\xfb\x90\x00" * 5000, NOT_AUDIO),
    "nothing but 0xff": line(b"\xff" * 20000, NOT_AUDIO),
    "an ogg cut in a page": line(OGG[: len(OGG) // 2 + 7], NO_AUDIO),  # its one page of sound is cut
    "an ogg of a header": line(OGG[:58], NOT_AUDIO),
    "an ogg twice": result(OGG + OGG, 2.0),
    "an opus with damage": line(patched(OPUS, len(OPUS) // 2, b"\0" * 50), NOT_AUDIO),  # its one page of sound
    "a flac with damage": warned(patched(FLAC, len(FLAC) // 2, b"\0" * 50), 1.0, "a damaged packet at 0.3 s"),
    "an m4a without its index": line(written_by_others("a.m4a", "aac", 0.6), "cut off before its index"),
    "a webm cut short": warned(written_by_others("a.webm", "libopus", 0.6), 1.1535),
    # no audio
    "text": line(b"This is not a recording.\n" * 500, NOT_AUDIO),
    "a web page": line(b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n" * 20, NOT_AUDIO),
    "a zip": line(zipped, NOT_AUDIO),
    "a tar": line(tarred, NOT_AUDIO),
    "a gzip": line(gzip.compress(wav(), mtime=0), NOT_AUDIO),
    "a program": line(b"\x7fELF\x02\x01\x01" + bytes(5000), NOT_AUDIO),
    "a picture": line(b"\x89PNG\r\n\x1a\n" + bytes(5000), NOT_AUDIO),
    "zeros": line(bytes(100000), NOT_AUDIO),
    "noise": line(np.random.default_rng(1).bytes(100000), NOT_AUDIO),
    "a playlist of itself": line(data(b"#EXTM3U\n#EXTINF:9,\na.m3u8\n#EXT-X-ENDLIST\n", "a.m3u8"), PLAYLIST),
    "a script that names other files": line(data(b"ffconcat version 1.0\nfile /etc/fstab\n", "a.txt"), PLAYLIST),
    "a terabyte of nothing": line(sparse(2**40, b"", "a.wav"), NOT_AUDIO),
    "an mp3 in a terabyte of nothing": result(sparse(2**40, MP3, "a.mp3"), 1.0),
    "a terabyte of nothing, called mp3": line(sparse(2**40, b"", "a.mp3"), NOT_AUDIO),
    # not files
    "a folder called a.wav": result(folder_called_wav, 1.0),
    "an empty folder called a.wav": line(lambda folder: os.fspath(Path(folder, "a.wav").mkdir() or folder / "a.wav"),
                                         "no audio file in this folder"),
    "a link to nothing": line(linked("gone.wav"), "symbolic link to a file that does not exist"),
    "a link to itself": line(linked("a.wav"), "cannot be read"),
    "a loop of two links": line(loop_of_two, "cannot be read"),
    "a folder of links to itself": result(folder_of_loops, 1.0),
    "a folder deeper than a path is long": Hostile(deep_folder, "File name too long", 1.0),
    "a link to a device": line(linked("/dev/zero"), "device"),
    "zeros without end": line(lambda folder: "/dev/zero", "device"),
    "noise without end": line(lambda folder: "/dev/urandom", "device"),
    "a device of nothing": line(lambda folder: "/dev/null", "device"),
    "a file of the kernel's": line(lambda folder: "/proc/self/environ", "empty"),
    "a socket": line(unix_socket, "device"),
    "below a file": line(lambda folder: write_wav(folder / "a.wav") / "b.wav", "cannot be read"),
    "no name": line(lambda folder: "", "empty name"),
    "a name with NUL": line(lambda folder: "a\0.wav", "not a name"),
    "a name of 5,000 letters": line(lambda folder: "a" * 5000, "too long"),
    # lists
    "a list of NULs": line(listed(bytes(100)), "this is no text"),
    "a list of blank lines": line(listed(b"\n \n\t\n# a.wav\n"), "no paths"),
    "a list that names itself": line(listed(b"@list.txt\n"), "no such file"),
    "a list of a name of bytes": line(listed(bytes(range(14, 256))), "no such file"),
    "a list that is a device": line(lambda folder: "@/dev/zero", "text file of paths"),
    "a list that is a folder": line(lambda folder: f"@{folder}", "text file of paths"),
    "a list of one name of a megabyte": line(listed(b"a" * 2**20), "too long"),
    # names
    "a name of two lines": named("two\nlines.wav"),
    "a name with spaces": named("  a  b .wav"),
    "a name with quotes": named("it's \"a\" `b` $(c) \\d.wav"),
    "a name with emoji": named("🎵👩‍👩‍👧 é.wav"),
    "a name that is no UTF-8": named(os.fsdecode(b"latin-\xe9-\xff.wav")),
    "a name like an option": result(lambda folder: str(write_wav(folder / "./--help.wav")), 1.0),
    "a name with escapes": named("\x1b[2J\x1b[31mred\a.wav"),
    "a name with markup": named("[bold red]a[bold] {0} %s %d.wav"),
    "a name from right to left": named("\u202egpj.wav"),
    "a name like a protocol": named("concat:a|b.wav"),
    "a hidden name": named(".wav"),
    "no suffix": named("a"),
    "a wrong suffix": result(data(FLAC, "a.mp3"), 1.0),
}  # fmt: skip


def check_line(text: str, said: str, kind: str = "error") -> None:
    """One line, that says what is wrong, in words for a user."""
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1, text
    assert text.startswith(f"framecls: {kind}: ")
    assert re.search(said, text), text
    assert text[:-1].isprintable()
    for word in ("Traceback", "unexpected", "memory"):
        assert word not in text


def check_record(text: str, duration_s: float) -> None:
    """One result, of finite numbers."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {text[:500]}")

    (record,) = (json.loads(row, parse_constant=refuse) for row in text.splitlines())
    assert record["duration"] == pytest.approx(duration_s, abs=1e-6)
    assert all(0 <= s["start"] < s["end"] <= record["duration"] for s in record["segments"])
    assert all(0 <= s["score"] <= 1 for s in record["segments"])


# What libmpg123, inside libsndfile, writes to the terminal by itself.
OF_THE_DECODER = re.compile(r"^(Warning: Xing stream|\[src/libmpg123).*\n", re.MULTILINE)


@pytest.mark.parametrize("case", TABLE)
def test_a_result_or_one_line(case: str, tag: Cli, here: Path) -> None:
    hostile = TABLE[case]
    (here / "in").mkdir()
    argument = hostile.make(here / "in")
    with bounded():
        answer = tag("-f", "jsonl", "-q", argument)
    err = OF_THE_DECODER.sub("", answer.err)
    if hostile.said is not None:
        assert answer.status == 1
        check_line(err, hostile.said)
    elif hostile.warning is not None:
        assert answer.status == 3
        check_line(err, hostile.warning, "warning")
    else:
        assert (answer.status, err) == (0, "")
    if hostile.duration_s is None:
        assert answer.out == ""
    else:
        check_record(answer.out, hostile.duration_s)


def test_all_at_once(tag: Cli, here: Path) -> None:
    """Every bad file of the table in one folder: each is one line, and the good one at the end is done."""
    bad = [name for name, hostile in TABLE.items() if hostile.said]
    for number, name in enumerate(bad):
        folder = here / f"{number:03d}"
        folder.mkdir()
        made = TABLE[name].make(folder)
        if not isinstance(made, Path) or not made.is_file() or made.stat().st_size > 2**30 or made.is_symlink():
            shutil.rmtree(folder)
        elif made.suffix not in AUDIO_SUFFIXES:
            made.rename(made.with_suffix(".wav"))
    count = len(list(here.iterdir()))
    assert count > 25
    write_wav(here / "zzz.wav")
    with bounded():
        answer = tag("-f", "jsonl", "-q", ".")
    assert answer.status == 1
    files = [record["file"] for record in answer.records]
    assert files[-1] == "zzz.wav"
    lines = OF_THE_DECODER.sub("", answer.err).splitlines()
    assert all(text.startswith("framecls: error: ") and "unexpected" not in text for text in lines)
    assert len({text.split(": ")[2] for text in lines} - set(files)) == len(lines) >= count


# Files that change, files that may not be read


@pytest.mark.skipif(os.geteuid() != 0, reason="only the administrator can become somebody else")
def test_no_permission_by_somebody_else(tmp_path: Path) -> None:
    """A file and a folder that the user may not read, run as a user who may not."""
    with contextlib.ExitStack() as stack:
        for folder in (tmp_path, *tmp_path.parents):  # the way there must be open
            mode = folder.stat().st_mode
            if not mode & 1:
                folder.chmod(mode | 0o11)
                stack.callback(folder.chmod, mode)
        write_wav(tmp_path / "secret.wav").chmod(0)
        write_wav(tmp_path / "closed" / "a.wav")
        (tmp_path / "closed").chmod(0)
        script = (
            "import os, sys\n"
            "from framecls.audio import open_audio, find_inputs\n"
            "os.setgid(65534)\n"
            "os.setuid(65534)\n"
            "print([str(item.error) for item in find_inputs([sys.argv[2]])])\n"
            "open_audio(sys.argv[1])\n"
        )
        done = run_command(tmp_path / "secret.wav", tmp_path / "closed", code=script)
        (tmp_path / "closed").chmod(0o755)
    assert "['no permission to read it'" in done.out
    assert done.err.strip().endswith("AudioError: no permission to read it")


def grow(path: Path, stop: threading.Event) -> threading.Thread:
    """Append to a file in a thread until told to stop."""

    def work() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(pcm(0.1))
                time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("data_bytes", [0, 2**32 - 1, None])
def test_a_file_that_grows_while_it_is_read(data_bytes: int | None, tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", wav(pcm(5.0), data_bytes))
    stop = threading.Event()
    thread = grow(path, stop)
    try:
        with bounded(), open_audio(path) as opened:
            n_samples = 0
            for block in opened.blocks(0.1):
                n_samples += len(block)
                if n_samples > 100 * RATE:  # the reader keeps up: it is done when the writer is
                    stop.set()
    finally:
        stop.set()
        thread.join()
    assert n_samples >= 5 * RATE


def test_a_file_that_is_deleted_while_it_is_read(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", 20.0)
    with open_audio(path) as opened:
        blocks = opened.blocks(1.0)
        n_samples = len(next(blocks))
        path.unlink()
        assert n_samples + sum(map(len, blocks)) == 20 * RATE


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg"])
def test_a_file_that_is_cut_while_it_is_read(name: str, tmp_path: Path) -> None:
    formats = {".mp3": "MP3", ".ogg": "OGG", ".flac": "FLAC", ".wav": "WAV"}
    path = save(tmp_path / name, encoded(formats[Path(name).suffix], samples=make_tone(30.0)))
    with bounded(), open_audio(path) as opened:
        blocks = opened.blocks(1.0)
        n_samples = len(next(blocks))
        os.truncate(path, path.stat().st_size // 4)
        with contextlib.suppress(AudioError):
            n_samples += sum(map(len, blocks))
    assert RATE <= n_samples < 30 * RATE


def test_a_file_that_is_gone_when_its_turn_comes(tag: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, gone, last = (write_wav(tmp_path / name) for name in ("1.wav", "2.wav", "3.wav"))
    really_run = TagOperation.run

    def run_and_delete(self: TagOperation, *arguments: Any) -> Any:
        gone.unlink(missing_ok=True)
        return really_run(self, *arguments)

    monkeypatch.setattr(TagOperation, "run", run_and_delete)
    answer = tag("-f", "jsonl", "-q", tmp_path)
    assert answer.status == 1
    check_line(answer.err, "2.wav: there is no such file")
    assert [record["file"] for record in answer.records] == [str(first), str(last)]


# Pipes


@contextlib.contextmanager
def fifo(path: Path, content: bytes, repeat: int = 1) -> Iterator[Path]:
    """Give a named pipe into which a thread writes."""
    os.mkfifo(path)

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
            for _ in range(repeat):
                file.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    yield path
    thread.join()


@pytest.mark.parametrize(
    ("content", "said"),
    [(wav(), None), (FLAC, None), (b"", "nothing came"), (b"text\n" * 999, NOT_AUDIO), (wav(b""), "no audio")],
    ids=["wav", "flac", "nothing", "text", "header"],
)
def test_a_named_pipe(content: bytes, said: str | None, tag: Cli, tmp_path: Path) -> None:
    with bounded(), fifo(tmp_path / "a.wav", content) as path:
        answer = tag("-f", "jsonl", "-q", path)
    if said is None:
        assert answer.status == 0
        check_record(answer.out, 1.0 if content == FLAC else 0.5)
    else:
        assert answer.status == 1
        check_line(answer.err, said)


def test_a_pipe_of_zeros_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_MAX_PIPE_BYTES", 3 << 20)
    with (
        bounded(),
        fifo(tmp_path / "a.wav", bytes(1 << 20), repeat=10**6) as path,
        pytest.raises(AudioError, match="came through the pipe and no end"),
    ):
        open_audio(path)


def test_a_list_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_MAX_LIST_BYTES", 3 << 20)
    with bounded(), fifo(tmp_path / "list", b"a.wav\n" * 2**17, repeat=10**6) as path:
        (failure,) = find_inputs([f"@{path}"])
    assert isinstance(failure, InputFailure)
    assert str(failure.error) == "a list of more than 3 MB: split it"


READ_STDIN = """
import re
from pathlib import Path
from framecls.audio import find_inputs, open_audio
(item,) = find_inputs(["-"])
try:
    open_audio(item.source)
finally:
    print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize(
    ("redirect", "said"),
    [("< /dev/zero", "empty"), ("< /dev/null", "empty"), ("<&-", "closed"), ("< in.txt", NOT_AUDIO)],
)
def test_standard_input_that_is_no_pipe(redirect: str, said: str, tmp_path: Path) -> None:
    """In a process of its own, without torch, so that its memory can be measured."""
    save(tmp_path / "in.txt", b"text\n" * 1000)
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join([sys.executable, '-c', READ_STDIN])} {redirect}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
        cwd=tmp_path,
        env=environment(),
    )
    assert re.search(f"AudioError: .*{said}", done.stderr.splitlines()[-1])
    assert int(done.stdout) < 200 * 1024  # kB
