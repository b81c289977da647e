"""Recordings are read whole and at the right time, or the command says what is missing."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

import framecls
from framecls.audio import decoder_program, find_inputs, open_audio
from framecls.audio.header import MAX_DAMAGED, FileLength
from framecls.audio.length.packets import measure_ogg
from framecls.audio.readers import decoder
from framecls.checkpoints.network import save_model
from framecls.config import ReadKeywords, ReadOptions
from framecls.errors import AudioError
from framecls.nn.network import Network
from framecls.results import Remarks
from support.commands import Cli, run_command
from support.limits import bounded, ends_in_time
from support.media import Track, write_media
from support.models import save_tiny_voice_model, tiny_config
from support.signals import make_noise, make_tone

Samples = NDArray[np.float32]


@pytest.fixture
def tag(tag: Cli) -> Cli:
    """Run `framecls tag` with the tiny model, for lines of JSON."""
    return lambda *arguments: tag("-f", "jsonl", *arguments)


def read(path: Any, **options: Any) -> Samples:
    with open_audio(path, options=ReadOptions(**options)) as stream:
        return np.concatenate(list(stream.blocks()))


def sounds(samples: Samples) -> list[tuple[float, float]]:
    """Return start and end in seconds of each stretch of sound, pauses of up to 0.2 s included."""
    loud = np.flatnonzero(np.abs(samples) > 0.05) / 16000
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) > 0.2)
    return list(zip(loud[[0, *breaks + 1]].tolist(), loud[[*breaks, -1]].tolist(), strict=True))


def encode(path: Path, samples: Samples, rate: int = 44100, codec: str = "mp3", **options: str) -> bytes:
    return write_media(path, Track(samples, rate, codec), **options).read_bytes()


def wav(samples: Samples, said: int | None = None, tail: bytes = b"", fmt: bytes = b"") -> bytes:
    """Return a WAV file at 16 kHz whose header says so many bytes of samples."""
    data = (samples * 32767).astype("<i2").tobytes()
    fmt = fmt or struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    n_bytes = len(data) if said is None else said
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", n_bytes) + data + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


# The decoder's end is not the file's


def joined_mp3(folder: Path) -> list[bytes]:
    return [
        encode(folder / "a.mp3", make_tone(3, sample_rate=44100)),
        encode(folder / "b.mp3", make_tone(4, sample_rate=44100)),
    ]


def mp3_of_two_rates(folder: Path) -> list[bytes]:
    return [
        encode(folder / "a.mp3", make_tone(3, sample_rate=44100)),
        encode(folder / "b.mp3", make_tone(4, sample_rate=48000), 48000),
    ]


def mp3_that_becomes_stereo(folder: Path) -> list[bytes]:
    stereo = np.stack([make_tone(4, sample_rate=44100)] * 2, axis=1)
    return [encode(folder / "a.mp3", make_tone(3, sample_rate=44100)), encode(folder / "b.mp3", stereo)]


def chain(container: str, codec: str, rates: tuple[int, int]) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        parts = []
        for seconds, rate in zip((3, 4), rates, strict=True):
            path = folder / f"{seconds}.{container.lower()}"
            soundfile.write(path, make_tone(seconds, sample_rate=rate), rate, format=container, subtype=codec)
            parts.append(path.read_bytes())
        return parts

    return make


JOINED: dict[str, Callable[[Path], list[bytes]]] = {
    "mp3": joined_mp3,
    "mp3 of two rates": mp3_of_two_rates,
    "mp3 that becomes stereo": mp3_that_becomes_stereo,
    "vorbis": chain("OGG", "VORBIS", (44100, 44100)),
    "vorbis of two rates": chain("OGG", "VORBIS", (44100, 48000)),
    "opus": chain("OGG", "OPUS", (48000, 48000)),
    "flac": chain("FLAC", "PCM_16", (44100, 44100)),
    "flac of two rates": chain("FLAC", "PCM_16", (48000, 16000)),
}


@pytest.mark.parametrize("kind", JOINED)
def test_joined_files_are_read_to_the_end(tmp_path: Path, tag: Cli, kind: str) -> None:
    path = tmp_path / "joined"
    path.write_bytes(b"".join(JOINED[kind](tmp_path)))
    answer = tag(path, "-q")
    assert answer.records[0]["duration"] == pytest.approx(7, abs=0.15)
    assert all(line.startswith("framecls: warning: ") for line in answer.err.splitlines())  # none without a name
    assert sounds(read(path)) == [(pytest.approx(0, abs=0.1), pytest.approx(7, abs=0.15))]


def test_a_chain_needs_no_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.ogg").write_bytes(b"".join(JOINED["vorbis of two rates"](tmp_path)))
    without_pyav(tmp_path, monkeypatch)
    assert len(read(tmp_path / "a.ogg")) == 7 * 16000


def test_a_variable_bit_rate_without_a_count(tmp_path: Path) -> None:
    # Silence takes few bits and noise takes many: the first frames say nothing of the length.
    sound = np.concatenate([np.zeros(44100 * 2, np.float32), make_noise(8, 44100), np.zeros(44100, np.float32)])
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound, 44100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.3)
    data = path.read_bytes()
    at = max(data.find(b"Xing"), data.find(b"Info"))
    path.write_bytes(data[:at] + b"\0\0\0\0" + data[at + 4 :] if at > 0 else data)
    assert len(read(path)) == pytest.approx(11 * 16000, abs=1600)


STALE = {
    "wav": lambda x: wav(x, 32000),
    "wav of 0 bytes": lambda x: wav(x, 0),
    "au": lambda x: b".snd" + struct.pack(">5I", 24, 32000, 3, 16000, 1) + (x * 32767).astype(">i2").tobytes(),
    "caf": lambda x: (
        b"caff\0\1\0\0desc"
        + struct.pack(">qd4sIIIII", 32, 16000.0, b"lpcm", 0, 2, 1, 1, 16)
        + b"data"
        + struct.pack(">qI", 32004, 0)
        + (x * 32767).astype(">i2").tobytes()
    ),
    "aiff": lambda x: (
        b"FORM"
        + struct.pack(">I4s4sIhIhHQ", 32054, b"AIFF", b"COMM", 18, 1, 16000, 16, 16383 + 13, 16000 << 50)
        + b"SSND"
        + struct.pack(">III", 32008, 0, 0)
        + (x * 32767).astype(">i2").tobytes()
    ),
}


@pytest.mark.parametrize("kind", STALE)
@pytest.mark.parametrize("by_pipe", [False, True])
def test_samples_beyond_those_that_the_header_counts(tmp_path: Path, kind: str, by_pipe: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(STALE[kind](make_tone(6)))
    if by_pipe:
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            samples = read(cat.stdout)
    else:
        samples = read(path)
    assert len(samples) == 6 * 16000


TAILS = {
    "a list": b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0",
    "an id3 tag": b"ID3\x03\0\0\0\0\0\x20" + bytes(32),
    "padding": bytes(4096),
    "a chunk at an odd place": b"\0LIST" + struct.pack("<I", 4) + b"INFO",
}


@pytest.mark.parametrize("kind", TAILS)
@pytest.mark.parametrize("by_pipe", [False, True])
def test_what_is_no_sound_stays_unheard(tmp_path: Path, kind: str, by_pipe: bool) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(make_tone(2), tail=TAILS[kind]))
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        samples = read(cat.stdout if by_pipe else path)
        assert cat.stdout is not None
        cat.stdout.read()
    assert len(samples) == 2 * 16000


@pytest.mark.skipif(sys.platform != "linux", reason="needs a sparse file")
def test_more_than_4_gb(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    fmt = struct.pack("<HHIIHH", 3, 1, 16000, 128000, 8, 64)  # doubles: no more samples than need be
    path.write_bytes(wav(make_tone(0), 2**32 - 1, fmt=fmt))
    n_bytes = 2**32 + 64000
    with path.open("r+b") as file:
        file.seek(44 + n_bytes - 128000)
        file.write(make_tone(1).astype("<f8").tobytes())
    with open_audio(path) as stream:
        n_samples = sum(len(block) for block in stream.blocks())
    assert n_samples == n_bytes // 8


def test_no_samples_and_something_behind(tmp_path: Path, tag: Cli) -> None:
    (tmp_path / "a.wav").write_bytes(wav(make_tone(0), tail=b"LIST" + struct.pack("<I", 5000) + bytes(5000)))
    answer = tag(tmp_path / "a.wav")
    assert (answer.status, answer.records) == (1, [])
    assert "a.wav: there is no audio in it" in answer.err


def test_24_bits_in_4_bytes_are_refused(tmp_path: Path) -> None:
    extension = struct.pack("<HHI", 22, 24, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
    fmt = struct.pack("<HHIIHH", 0xFFFE, 1, 16000, 64000, 4, 24) + extension
    (tmp_path / "a.wav").write_bytes(wav(make_tone(1), fmt=fmt))
    with pytest.raises(AudioError, match="24 bits in 4 bytes"):
        read(tmp_path / "a.wav")


# Time and tracks of containers

LATE = [
    ("a.mp4", "aac", "mpeg4"),
    ("a.mov", "aac", "mpeg4"),
    ("a.mkv", "flac", "mpeg4"),
    ("a.webm", "libopus", "libvpx"),
    ("a.ts", "mp2", "mpeg2video"),
    ("a.mpg", "mp2", "mpeg2video"),
    ("a.flv", "mp3", "flv"),
]


@pytest.mark.parametrize(("name", "codec", "picture"), LATE)
def test_sound_that_begins_late_is_heard_late(tmp_path: Path, name: str, codec: str, picture: str) -> None:
    rate = 48000 if codec == "libopus" else 44100
    track = Track(make_tone(2, sample_rate=rate), rate, codec, start_s=3.0)
    write_media(tmp_path / name, track, picture_s=5.0, picture=picture)
    assert sounds(read(tmp_path / name)) == [(pytest.approx(3, abs=0.1), pytest.approx(5, abs=0.1))]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mka", "flac"), ("a.webm", "libopus"), ("a.mp4", "aac"), ("a.ts", "mp2"), ("a.nut", "mp3")]
)
def test_what_is_missing_is_silence(tmp_path: Path, name: str, codec: str) -> None:
    write_media(tmp_path / name, Track(make_tone(6, sample_rate=48000), 48000, codec, gap_s=(2.0, 4.0)))
    first, second = sounds(read(tmp_path / name))
    assert first == (pytest.approx(0, abs=0.1), pytest.approx(2, abs=0.1))
    assert second == (pytest.approx(4, abs=0.1), pytest.approx(6, abs=0.1))


def test_a_jump_of_days_is_damage(tmp_path: Path, tag: Cli) -> None:
    path = write_media(tmp_path / "a.nut", Track(make_tone(2, sample_rate=48000), 48000, "flac"))
    late = Track(make_tone(2, sample_rate=48000), 48000, "flac", start_s=40 * 3600.0)
    parts = [path.read_bytes(), write_media(tmp_path / "b.nut", late).read_bytes()]
    path.write_bytes(b"".join(parts))
    answer = tag(path, "-q")
    assert answer.status == 3
    assert answer.records[0]["duration"] == pytest.approx(4, abs=0.1)
    assert answer.errors[-1].endswith("a.nut: its times jump at 2.0 s: what follows may be heard at another time")
    assert sounds(read(path)) == [(pytest.approx(0, abs=0.1), pytest.approx(4, abs=0.1))]


@pytest.fixture
def film(tmp_path: Path) -> Path:
    silent, sound = np.zeros(96000, np.float32), make_tone(2, sample_rate=48000)
    return write_media(tmp_path / "film.mka", Track(silent, 48000, "flac"), Track(sound, 48000, "aac"))


def test_the_track_that_is_not_silent(film: Path, tag: Cli) -> None:
    assert len(sounds(read(film))) == 1
    answer = tag(film)
    assert answer.status == 0
    assert "it has 2 audio tracks: 1 (flac), 2 (aac); track 1 is silent, track 2 is read; --track N" in answer.err


@pytest.mark.parametrize(("codec", "channels"), [("libopus", 1), ("aac", 2), ("mp3", 1), ("ac3", 2), ("pcm_s24le", 8)])
def test_what_pads_a_silent_frame_is_not_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, channels: int
) -> None:
    silent, sound = np.zeros((48000, channels), np.float32), make_tone(2, sample_rate=48000)
    path = write_media(tmp_path / "film.mka", Track(silent, 48000, codec), Track(sound, 48000, "flac"))
    decoder.pool.clear()
    monkeypatch.setenv("MALLOC_PERTURB_", "184")  # glibc fills what it allocates with bytes that make large floats
    assert len(sounds(read(path))) == 1
    decoder.pool.clear()


def test_a_track_by_its_number(film: Path, tag: Cli, tag_model: str) -> None:
    assert sounds(read(film, track=1)) == []
    assert len(sounds(read(film, track=2))) == 1
    answer = tag(film, "--track", "3")
    assert answer.status == 1
    assert "there is no audio track 3: it has 2 audio tracks: 1 (flac), 2 (aac)" in answer.err
    assert tag(film, "--track", "0").status == 2
    assert framecls.load(tag_model, device="cpu").tag(film, track=2).notes == ()


def test_what_has_one_track_has_no_other(tmp_path: Path) -> None:
    """Whatever reads it: an mp3 with a tag behind it, ogg files that were joined, WAV in a pipe, and samples."""
    tone = make_tone(1, sample_rate=16000)
    mp3, ogg, wav = tmp_path / "a.mp3", tmp_path / "a.ogg", tmp_path / "a.wav"
    mp3.write_bytes(encode(mp3, tone, 16000) + MP3_TAILS["an APE tag"])
    soundfile.write(ogg, tone, 16000)
    ogg.write_bytes(ogg.read_bytes() * 2)
    soundfile.write(wav, tone, 16000)
    piped, into = os.pipe()
    os.write(into, wav.read_bytes()[:32000])
    os.close(into)
    with open(piped, "rb") as pipe:
        for source, rate in ((mp3, None), (ogg, None), (wav, None), (pipe, None), (tone, 16000)):
            with pytest.raises(AudioError, match="there is no audio track 2: it has 1"):
                open_audio(source, 16000, rate, ReadOptions(track=2))


# What was cut off

CUT = {
    "wav": lambda x, p: soundfile.write(p, x, 48000, format="WAV"),
    "flac": lambda x, p: soundfile.write(p, x, 48000, format="FLAC"),
    "ogg": lambda x, p: soundfile.write(p, x, 48000, format="OGG", subtype="VORBIS"),
    "opus": lambda x, p: soundfile.write(p, x, 48000, format="OGG", subtype="OPUS"),
    "aiff": lambda x, p: soundfile.write(p, x, 48000, format="AIFF"),
    "au": lambda x, p: soundfile.write(p, x, 48000, format="AU"),
    "caf": lambda x, p: soundfile.write(p, x, 48000, format="CAF"),
    "w64": lambda x, p: soundfile.write(p, x, 48000, format="W64"),
    "mp3": lambda x, p: soundfile.write(p, x, 48000, format="MP3"),
    "m4a": lambda x, p: encode(p, x, 48000, "aac", movflags="faststart"),
    "mp4": lambda x, p: write_media(p, Track(x, 48000, "aac"), picture_s=10.0, movflags="faststart"),
    "mkv": lambda x, p: write_media(p, Track(x, 48000, "aac"), picture_s=10.0),
    "webm": lambda x, p: encode(p, x, 48000, "libopus"),
    "wma": lambda x, p: encode(p, np.stack([x, x], axis=1), 48000, "wmav2"),
    "avi": lambda x, p: write_media(p, Track(x, 48000, "mp3"), picture_s=10.0),
    "flv": lambda x, p: encode(p, x[::2].copy(), 44100, "aac"),
    "mpg": lambda x, p: write_media(p, Track(x, 48000, "mp2"), picture_s=10.0, picture="mpeg2video"),
    "aac": lambda x, p: encode(p, x, 48000, "aac"),
    "mp2": lambda x, p: encode(p, x, 48000, "mp2"),
    "ac3": lambda x, p: encode(p, x, 48000, "ac3"),
    "eac3": lambda x, p: encode(p, x, 48000, "eac3"),
    "voc": lambda x, p: soundfile.write(p, x, 48000, format="VOC"),
}


@pytest.mark.parametrize("kind", CUT)
def test_what_was_cut_off_is_said(tmp_path: Path, tag: Cli, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    CUT[kind](make_noise(10, 48000), path)
    whole = tag(path)
    assert (whole.status, whole.err) == (0, "")
    assert "truncated" not in whole.records[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.4) | 1])
    cut = tag(path, "-q")
    assert cut.status == 3
    (line,) = cut.err.splitlines()
    assert f"a.{kind}: it ends after" in line
    assert line.endswith("it was cut off")
    assert cut.records[0]["truncated"] is True
    assert cut.records[0]["warnings"] == [line.split(f"a.{kind}: ")[1]]
    strict = tag(path, "--strict", "-q")
    assert (strict.status, strict.records) == (1, [])
    assert "it was cut off" in strict.err


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """Return a recording of 2.4 s whose header says 6 s."""
    path = tmp_path / "cut.wav"
    path.write_bytes(wav(make_tone(2.4), 6 * 32000))
    return path


CUT_OFF = "cut.wav: it ends after 2.4 s, but its header says 6.0 s: it was cut off"


def test_a_stream_of_a_file_that_was_cut_off(cut_off: Path, tag: Cli) -> None:
    answer = tag("--stream", "-q", cut_off)
    assert answer.status == 3
    assert [(record["label"], record["start"], record["end"]) for record in answer.records] == [("speech", 0, 2.4)]
    assert answer.errors == [f"framecls: warning: {cut_off.parent}/{CUT_OFF}"]
    strict = tag("--stream", "-q", "--strict", cut_off)
    assert (strict.status, strict.out) == (1, "")
    assert strict.errors == [f"framecls: error: {cut_off.parent}/{CUT_OFF}"]


def test_a_clip_that_was_cut_off_is_enrolled_with_a_warning(cut_off: Path, cli: Cli, tmp_path: Path) -> None:
    options = ("-m", save_tiny_voice_model(tmp_path), "--device", "cpu", "--gallery", tmp_path / "voices.sqlite")
    answer = cli("enroll", "Ada", cut_off, *options, "-q")
    assert (answer.status, answer.out) == (3, "")
    assert answer.errors == [f"framecls: warning: {cut_off.parent}/{CUT_OFF}"]
    assert "Ada" in cli("speakers", "list", *options[-2:]).out
    refused = cli("enroll", "Bob", cut_off, *options, "-q", "--strict")
    assert refused.status == 1
    assert "Bob" not in cli("speakers", "list", *options[-2:]).out


def test_an_mp4_that_lost_its_index(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.m4a", make_noise(10, 48000), 48000, "aac")
    (tmp_path / "a.m4a").write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError, match="cut off before its index"):
        read(tmp_path / "a.m4a")


def test_a_pipe_that_dies(tag_model: str, tag: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    data = wav(make_tone(1), 33 * 32000)
    threading.Thread(target=lambda: (os.write(write_end, data), os.close(write_end))).start()
    with os.fdopen(read_end, "rb") as pipe:
        result = framecls.load(tag_model, device="cpu").tag(pipe)
    assert result.truncated
    assert result.warnings == ("it ends after 1.0 s, but its header says 33.0 s: it was cut off",)


def test_a_damaged_packet_is_skipped(tmp_path: Path, tag: Cli) -> None:
    data = bytearray(encode(tmp_path / "a.mka", make_noise(10, 48000), 48000, "aac"))
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    (tmp_path / "a.mka").write_bytes(data)
    answer = tag(tmp_path / "a.mka", "-q")
    assert (answer.status, answer.errors) == (
        3,
        [f"framecls: warning: {tmp_path / 'a.mka'}: a damaged packet at 4.9 s, was skipped"],
    )
    assert answer.records[0]["warnings"] == ["a damaged packet at 4.9 s, was skipped"]
    assert answer.records[0]["duration"] == pytest.approx(10, abs=0.05)  # what follows stays at its time


MP3_TAILS = {
    "zeros": bytes(20_000),
    "zeros to the next sector": bytes(900),
    "noise": np.random.default_rng(5).bytes(3000),
    "an APE tag": b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 0),
    "text": b"end of file\n" * 30,
    "a list of chunks": b"LIST" + struct.pack("<I", 2000) + b"INFO" + bytes(1996),
    "an ID3v1 tag": b"TAG" + b"x" * 125,
}


@pytest.mark.parametrize("write_xing", ["0", "1"])
@pytest.mark.parametrize("tail", MP3_TAILS)
def test_an_mp3_is_read_whatever_is_behind_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], tail: str, write_xing: str
) -> None:
    path, stereo = tmp_path / "a.mp3", np.stack([make_tone(3, sample_rate=22050)] * 2, axis=1)
    path.write_bytes(encode(path, stereo, 22050, write_xing=write_xing) + MP3_TAILS[tail])
    assert sounds(read(path)) == [(pytest.approx(0, abs=0.1), pytest.approx(3, abs=0.1))]
    assert capfd.readouterr() == ("", "")  # the C library has said nothing of its own


def place_tones(rate: int) -> Samples:
    """Return two tones, at 0 to 3 s and at 6 to 9 s, with noise that does not compress between them."""
    quiet = make_noise(3, rate) * 1e-3
    return np.concatenate([make_tone(3, sample_rate=rate), quiet, make_tone(3, sample_rate=rate), quiet])


@pytest.mark.parametrize(("at", "lost"), [(0.4, b"\0" * 3000), (0.45, b"\xff\xf8"), (0.4, b"")])
def test_a_flac_is_read_on_behind_damage(tmp_path: Path, tag: Cli, at: float, lost: bytes) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, place_tones(22050), 22050, subtype="PCM_24")
    data = path.read_bytes()
    first = int(len(data) * at)
    path.write_bytes(data[:first] + lost + data[first + (len(lost) or 5000) :])
    answer = tag(path, "-q")
    assert answer.status == 3
    (line,) = answer.err.splitlines()
    assert "damaged" in line
    assert "cut off" not in line
    assert answer.records[0]["duration"] == pytest.approx(12, abs=0.1)
    assert sounds(read(path))[-1] == (pytest.approx(6, abs=0.1), pytest.approx(9, abs=0.1))


@pytest.mark.parametrize("frame", [2, 3, 5])
def test_what_follows_damage_to_the_first_frames_of_a_flac_stays_at_its_time(tmp_path: Path, frame: int) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, place_tones(22050), 22050, subtype="PCM_24")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data) - 5) if data[at : at + 2] == b"\xff\xf8" and data[at + 4] < 10]
    data[starts[frame] - 100] ^= 255
    path.write_bytes(data)
    samples = read(path)
    assert len(samples) / 16000 == pytest.approx(12, abs=0.01)
    assert sounds(samples)[-1] == (pytest.approx(6, abs=0.1), pytest.approx(9, abs=0.1))


def write_damaged_ogg(path: Path, codec: str, lost: bytes | None) -> None:
    """Write place_tones with a bit turned over at 5 s, or with bytes lost there or written over."""
    if codec == "FLAC":  # which libsndfile does not write into Ogg
        encode(path, np.stack([place_tones(48000)] * 2, axis=1), 48000, "flac")
    else:
        soundfile.write(path, place_tones(48000), 48000, format="OGG", subtype=codec)
    data = bytearray(path.read_bytes())
    at = len(data) * 5 // 12
    if lost is None:
        data[at] ^= 4
    else:
        data[at : at + (len(lost) or 5000)] = lost
    path.write_bytes(data)


@pytest.mark.parametrize("lost", [None, b"", bytes(3000)], ids=["a bit", "missing", "zeros"])
@pytest.mark.parametrize("codec", ["VORBIS", "OPUS", "FLAC"])
def test_damage_to_an_ogg_is_said_and_what_follows_stays_at_its_time(
    tmp_path: Path, tag: Cli, codec: str, lost: bytes | None
) -> None:
    path = tmp_path / "a.ogg"
    write_damaged_ogg(path, codec, lost)
    answer = tag(path, "-q")
    assert answer.status == 3
    [line] = answer.errors
    assert re.search(r"pages? of it (is|are) damaged: what is heard there may be wrong, or missing", line)
    assert "truncated" not in answer.records[0]
    assert sounds(read(path))[-1] == (pytest.approx(6, abs=0.1), pytest.approx(9, abs=0.1))


def test_what_is_lost_in_a_chain_of_oggs_is_said(tmp_path: Path, tag: Cli) -> None:
    path = tmp_path / "a.ogg"
    write_damaged_ogg(path, "VORBIS", None)
    whole = tmp_path / "b.ogg"
    soundfile.write(whole, make_noise(3, 48000), 48000, format="OGG", subtype="VORBIS")
    path.write_bytes(whole.read_bytes() + path.read_bytes())
    answer = tag(path, "-q")
    assert answer.status == 3
    assert "s in it are damaged and left out: what follows is heard too early" in answer.err


def test_an_ogg_that_was_cut_off_before_another_hides_nothing_of_that(tmp_path: Path, tag: Cli) -> None:
    path = tmp_path / "a.ogg"
    soundfile.write(path, make_noise(20, 48000), 48000, format="OGG", subtype="VORBIS")
    first = path.read_bytes()
    soundfile.write(path, make_noise(3, 48000), 48000, format="OGG", subtype="OPUS")
    # Cut within a page, whose header promises more than is left of it: the next file begins there.
    path.write_bytes(first[: first.rindex(b"OggS", 0, len(first) // 2) + 1000] + path.read_bytes())
    answer = tag(path, "-q")
    assert answer.status == 3
    assert answer.records[0]["duration"] == pytest.approx(3 + 20 / 2, abs=1.5)


def test_a_damaged_page_begins_no_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    write_damaged_ogg(path, "VORBIS", None)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"OggS", 0, len(data) * 5 // 12) + 5] |= 2  # marked as the first of one
    assert measure_ogg(io.BytesIO(data), len(data)) == FileLength(beyond_libsndfile=True, n_damaged=1)


def test_marks_of_pages_that_are_none_take_no_more_time_than_a_thousand() -> None:
    # A page of 65,307 bytes begins at each mark, so that every checksum is of all the bytes that follow.
    mark = b"OggS\0" + bytes(21) + b"\xff" + b"\xff" * 255
    data = mark * 20_000 + bytes(70_000)
    began_s = time.process_time()
    assert measure_ogg(io.BytesIO(data), len(data)).n_damaged == MAX_DAMAGED
    assert time.process_time() - began_s < 5  # 20 times as much before the limit


def test_an_mp3_with_a_count_and_a_hole_is_read_on(tmp_path: Path, tag: Cli) -> None:
    soundfile.write(tmp_path / "a.mp3", make_noise(10, 48000), 48000, format="MP3")
    data = bytearray((tmp_path / "a.mp3").read_bytes())
    assert b"Info" in data[:200] or b"Xing" in data[:200]
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "a.mp3").write_bytes(data)
    answer = tag(tmp_path / "a.mp3", "-q")
    assert answer.status == 3
    [line] = answer.errors
    assert line.startswith(f"framecls: warning: {tmp_path / 'a.mp3'}: a damaged packet at ")
    assert 9.0 < answer.records[0]["duration"] < 10.1


# Limits


def without_pyav(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the decoding process find an `av` that does not load."""
    (folder / "broken").mkdir()
    (folder / "broken" / "av.py").write_text("raise ImportError('libavformat.so: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(folder / "broken"))
    decoder.pool.clear()


def test_without_pyav(tmp_path: Path, tag: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "a.m4a", make_tone(1, sample_rate=48000), 48000, "aac")
    (tmp_path / "b.mp3").write_bytes(b"".join(joined_mp3(tmp_path / "..")))
    soundfile.write(tmp_path / "c.flac", make_tone(1), 16000)
    write_damaged_ogg(tmp_path / "d.ogg", "VORBIS", None)
    without_pyav(tmp_path, monkeypatch)
    answer = tag(*(tmp_path / name for name in ("a.m4a", "b.mp3", "c.flac", "d.ogg")), "-q")
    assert answer.status == 1
    assert [Path(record["file"]).name for record in answer.records] == ["b.mp3", "c.flac", "d.ogg"]
    errors = [line for line in answer.err.splitlines() if line.startswith("framecls: ")]
    assert "a.m4a: not audio that libsndfile can read" in errors[0]
    assert "pip install av" in errors[0]
    assert "b.mp3: only its first part is read" in errors[1]
    assert "d.ogg: what is whole in it is read: the rest needs PyAV" in errors[2]


def replace_decoder(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Let the decoding process run this in place of PyAV."""
    (folder / "broken").mkdir()
    (folder / "broken" / "av.py").write_text(textwrap.dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(folder / "broken"))
    decoder.pool.clear()


def test_a_decoder_that_hangs(tmp_path: Path, tag: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "a.m4a", make_tone(1, sample_rate=48000), 48000, "aac")
    soundfile.write(tmp_path / "b.wav", make_tone(1), 16000)
    replace_decoder(tmp_path, monkeypatch, "import time\ntime.sleep(1000)")
    with ends_in_time():
        answer = tag(tmp_path / "a.m4a", tmp_path / "b.wav", "--timeout", "1.5", "-q")
    assert answer.status == 1
    assert len(answer.records) == 1
    assert "a.m4a: its decoder gave nothing for 1.5 s and was stopped (--timeout)" in answer.err


def test_a_decoder_that_crashes(tmp_path: Path, tag: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "a.m4a", make_tone(1, sample_rate=48000), 48000, "aac")
    soundfile.write(tmp_path / "b.wav", make_tone(1), 16000)
    replace_decoder(tmp_path, monkeypatch, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    answer = tag(tmp_path / "a.m4a", tmp_path / "b.wav", "-q")
    assert answer.status == 1
    assert len(answer.records) == 1
    assert "a.m4a: its decoder died" in answer.err


def test_a_decoder_serves_one_recording_after_another(tmp_path: Path) -> None:
    noise = make_noise(3, 48000)
    data = bytearray(encode(tmp_path / "a.mka", noise, 48000, "aac"))
    expected = read(tmp_path / "a.mka")
    decoder.pool.clear()
    used = []
    for _ in range(3):
        with open_audio(tmp_path / "a.mka") as stream:
            used.append(stream._reader._process.popen.pid)  # type: ignore[attr-defined]
            np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), expected)
    assert len(set(used)) == 1
    os.kill(used[0], 9)  # it ends while nobody looks
    np.testing.assert_array_equal(read(tmp_path / "a.mka"), expected)
    (process,) = decoder.pool._idle
    assert process.popen.pid != used[0]
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    (tmp_path / "damaged.mka").write_bytes(data)
    read(tmp_path / "damaged.mka")
    assert decoder.pool._idle == []  # what damage does to a decoder is not known
    assert process.popen.poll() is not None


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 12])
def test_channels_arrive_in_their_places(tmp_path: Path, channels: int) -> None:
    """PyAV gives a plane a channel, or one for all where there are many; integers are converted on the way."""
    samples = np.round(make_noise(3, 16000, channels=channels) * 2**15).astype(np.int16).reshape(-1, channels)
    soundfile.write(tmp_path / "a.caf", samples, 16000, subtype="PCM_16")
    reader = decoder.DecoderReader(tmp_path / "a.caf", ReadOptions(), Remarks())
    chunks = []
    while len(chunk := reader.read(7000)):
        chunks.append(chunk)
    reader.close()
    np.testing.assert_array_equal(np.concatenate(chunks), samples / np.float32(2**15))


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc")
def test_the_decoder_does_not_outlive_us(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mka", Track(make_noise(60), 16000, "flac"))
    program = f"""
        import os, signal
        from framecls.audio import open_audio
        stream = open_audio({str(path)!r})
        print(stream._reader._process.popen.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_command(code=textwrap.dedent(program))
    child = Path("/proc") / done.out.strip()
    deadline = time.monotonic() + 10
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or (child / "stat").read_text().split()[2] == "Z"


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.wav\n",
    "concat": "ffconcat version 1.0\nfile secret.wav\n",
    "dash": '<?xml version="1.0"?><MPD type="static"><Period><AdaptationSet><Representation id="1"><BaseURL>secret.wav'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5004 RTP/AVP 0\r\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.mpd", "a.wav"])
def test_a_playlist_is_no_recording(tmp_path: Path, tag: Cli, kind: str, name: str) -> None:
    soundfile.write(tmp_path / "secret.wav", make_tone(1), 16000)
    (tmp_path / name).write_text(PLAYLISTS[kind])
    with ends_in_time(cpu_s=5):
        answer = tag(tmp_path / name)
    assert (answer.status, answer.records) == (1, [])
    assert "a playlist, not a recording" in answer.err


def test_longer_than_wanted(tmp_path: Path, tag: Cli) -> None:
    for name, seconds in (("short.flac", 2), ("long.flac", 40)):
        soundfile.write(tmp_path / name, np.zeros(seconds * 16000, np.float32), 16000)
    answer = tag(tmp_path / "short.flac", tmp_path / "long.flac", "--max-duration", "2", "-q")
    assert answer.status == 1
    assert [Path(record["file"]).name for record in answer.records] == ["short.flac"]
    assert "long.flac: it is longer than --max-duration 2 s" in answer.err


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 43 kB that holds 2.8 hours of silence, half a million frames."""
    path = tmp_path_factory.mktemp("bomb") / "long.flac"
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 65535), np.int16), format="s16", layout="mono")
    frame.sample_rate = 16000
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("flac", rate=16000, layout="mono", options={"frame_size": "65535"})
        for number in range(2450):
            frame.pts = number * 65535
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert path.stat().st_size < 50_000
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("options", [(), ("--stream",)])
def test_hours_in_a_small_file_take_little_memory(
    bomb: Path, cli: Cli, tmp_path: Path, options: tuple[str, ...]
) -> None:
    config = tiny_config("frame")
    coarse = replace(config.features, window_samples=1600, hop_samples=1600, n_fft=1600)  # so that it takes seconds
    save_model(Network(replace(config, features=coarse)), tmp_path / "coarse.safetensors")
    with bounded(memory_bytes=512 << 20, cpu_s=60):  # decoded, it is 642 MB
        answer = cli(
            "tag", bomb, "-q", "-f", "jsonl", "-m", tmp_path / "coarse.safetensors", "--device", "cpu", *options
        )
    assert (answer.status, answer.err) == (0, "")
    last = answer.records[-1] if options else answer.records[0]["segments"][-1]
    assert last["end"] == pytest.approx(2450 * 65535 / 16000)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("options", [(), ("--stream",)])
def test_hours_in_a_small_file_are_refused_at_once(bomb: Path, tag: Cli, options: tuple[str, ...]) -> None:
    with bounded(memory_bytes=256 << 20, cpu_s=2):
        answer = tag(bomb, "-q", "--max-duration", "60", *options)
    assert (answer.status, answer.out) == (1, "")
    assert answer.errors == [f"framecls: error: {bomb}: it is longer than --max-duration 60 s"]


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that do not block")
def test_a_slow_pipe_has_not_ended(tag_model: str) -> None:
    data = wav(make_tone(6), 2**32 - 1)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)

    def write() -> None:
        for first in range(0, len(data), 64000):
            os.write(write_end, data[first : first + 64000])
            time.sleep(0.2)
        os.close(write_end)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        samples = read(pipe)
    writer.join()
    assert len(samples) == 6 * 16000


@pytest.mark.skipif(sys.platform != "linux", reason="files without a name")
def test_a_copy_of_a_pipe_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path / "a.m4a", make_tone(2, sample_rate=48000), 48000, "aac")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with subprocess.Popen(["cat", tmp_path / "a.m4a"], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        with open_audio(cat.stdout) as stream:
            assert os.listdir(tmp_path / "temporary") == []
            assert sum(map(len, stream.blocks())) == pytest.approx(32000, abs=800)


def test_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", make_tone(1), 16000)
    encode(tmp_path / "a.m4a", make_tone(1, sample_rate=48000), 48000, "aac")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert len(read(tmp_path / "a.flac")) == 16000
    assert len(read(tmp_path / "a.m4a")) == pytest.approx(16000, abs=800)
    with subprocess.Popen(["cat", tmp_path / "a.flac"], stdout=subprocess.PIPE) as cat:
        with pytest.raises(AudioError, match="cannot be copied to a temporary file"):
            read(cat.stdout)
        assert cat.stdout is not None
        cat.stdout.read()


def test_a_list_names_a_file_that_begins_with_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "#1.wav", make_tone(1), 16000)
    (tmp_path / "list.txt").write_text("# a comment\n#1.wav\n")
    monkeypatch.chdir(tmp_path)
    assert [found.name for found in find_inputs(["@list.txt"])] == ["#1.wav"]


def test_keywords_are_the_fields() -> None:
    assert list(ReadKeywords.__annotations__) == list(ReadOptions.__dataclass_fields__)


def test_the_decoding_program_imports_nothing_of_ours() -> None:
    assert "framecls" not in Path(decoder_program.__file__).read_text().replace("framecls-", "")
