"""Audio in: what the arguments name, every format and fault, streams that do not depend on their blocks."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import threading
import tracemalloc
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from framecls.audio import Input, InputFailure, find_inputs, open_audio
from framecls.audio.readers import ContainerReader
from framecls.audio.stream import _rechunk
from framecls.config import ReadOptions
from framecls.errors import AudioError
from framecls.results import AudioInfo, Remarks
from support.commands import start_command
from support.media import Track, write_media
from support.signals import make_noise, make_tone

Samples = NDArray[np.float32]
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def read(source: Any, block_s: float = 30.0, sample_rate: int = 16000, raw_sample_rate: int | None = None) -> Samples:
    """Return (sample,) all blocks in one."""
    with open_audio(source, sample_rate, raw_sample_rate) as stream:
        return np.concatenate(list(stream.blocks(block_s)))


def loudest_hz(samples: Samples, sample_rate: int = 16000) -> float:
    """Return the frequency of the highest peak of the spectrum."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * sample_rate / len(samples))


@pytest.fixture
def pipe() -> Iterator[Callable[..., BinaryIO]]:
    """Return a function that gives the reading end of a pipe into which a thread writes the given pieces."""
    opened: list[tuple[BinaryIO, threading.Thread]] = []

    def make(*pieces: bytes) -> BinaryIO:
        read_end, write_end = os.pipe()

        def write() -> None:
            try:
                with os.fdopen(write_end, "wb", buffering=0) as file:
                    for piece in pieces:
                        view = memoryview(piece)
                        while view:
                            view = view[file.write(view) :]
            except BrokenPipeError:
                pass  # the reader had enough

        thread = threading.Thread(target=write)
        thread.start()
        opened.append((os.fdopen(read_end, "rb"), thread))
        return opened[-1][0]

    yield make
    for handle, thread in opened:
        handle.close()
        thread.join()


# Formats


LOSSLESS = [
    ("WAV", "PCM_U8", 1 / 128),
    ("WAV", "PCM_16", 2**-15),
    ("WAV", "PCM_24", 2**-23),
    ("WAV", "PCM_32", 1e-7),
    ("WAV", "FLOAT", 0),
    ("WAV", "DOUBLE", 0),
    ("WAV", "ALAW", 0.02),
    ("WAV", "ULAW", 0.02),
    ("WAVEX", "PCM_24", 2**-23),
    ("RF64", "PCM_16", 2**-15),
    ("W64", "PCM_16", 2**-15),
    ("FLAC", "PCM_16", 2**-15),
    ("FLAC", "PCM_24", 2**-23),
    ("AIFF", "PCM_16", 2**-15),
    ("AU", "PCM_16", 2**-15),
    ("CAF", "ALAC_16", 2**-15),
    ("NIST", "PCM_16", 2**-15),
    ("VOC", "PCM_16", 2**-15),
]


@pytest.mark.parametrize(("container", "subtype", "tolerance"), LOSSLESS)
def test_lossless_round_trip(write_audio, container, subtype, tolerance):
    expected = make_noise(0.5)
    path = write_audio("a.bin", expected, format=container, subtype=subtype)
    with open_audio(path) as stream:
        assert stream.info == AudioInfo(16000, 1)
        assert stream.duration_s == 0.5
        samples = np.concatenate(list(stream.blocks()))
    assert samples.dtype == np.float32
    assert samples.shape == expected.shape
    assert np.abs(samples - expected).max() <= tolerance


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_round_trip(write_audio, container, subtype):
    path = write_audio("a.bin", make_tone(2, sample_rate=48000, noise=0), 48000, format=container, subtype=subtype)
    with open_audio(path) as stream:
        assert stream.info == AudioInfo(48000, 1)
        assert stream.duration_s == pytest.approx(2, abs=0.1)
        samples = np.concatenate(list(stream.blocks()))
    assert len(samples) == pytest.approx(32000, abs=1600)
    assert loudest_hz(samples) == pytest.approx(440, abs=2)
    assert samples.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp3", "mp3"), ("a.m4a", "aac"), ("a.webm", "libopus"), ("a.mka", "flac"), ("a.ac3", "ac3"), ("a.mp4", "aac")],
)
@pytest.mark.parametrize("by_object", [False, True])
def test_what_others_make(tmp_path, name, codec, by_object):
    sound = np.stack([make_tone(2, sample_rate=48000, noise=0)] * 2, axis=1)
    write_media(tmp_path / name, Track(sound, 48000, codec), picture_s=2 * (name == "a.mp4"))
    source = io.BytesIO((tmp_path / name).read_bytes()) if by_object else tmp_path / name
    with open_audio(source) as stream:
        assert stream.info == AudioInfo(48000, 2)
        assert stream.duration_s == pytest.approx(2, abs=0.1)
        samples = np.concatenate(list(stream.blocks()))
    assert len(samples) == pytest.approx(32000, abs=1600)
    assert loudest_hz(samples) == pytest.approx(440, abs=2)
    assert samples.std() == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


@needs_ffmpeg
def test_flac_of_unknown_length(write_audio, tmp_path, monkeypatch):
    wav = write_audio("a.wav", make_noise(1), subtype="PCM_16")
    made = subprocess.run(["ffmpeg", "-v", "error", "-i", str(wav), "-f", "flac", "-"], check=True, capture_output=True)
    (tmp_path / "a.flac").write_bytes(made.stdout)
    monkeypatch.setenv("PATH", "")  # libsndfile must do this one
    with open_audio(tmp_path / "a.flac") as stream:
        assert stream.duration_s is None
    np.testing.assert_array_equal(read(tmp_path / "a.flac"), read(wav))


def test_closing_ends_the_decoder(tmp_path):
    path = write_media(tmp_path / "a.mka", Track(make_noise(60), 16000, "flac"))
    reader = ContainerReader(path, ReadOptions(), Remarks())
    assert reader._process.poll() is None  # far from done: nobody has read what it says
    reader.close()
    assert reader._process.poll() is not None


# Channels and rates


@pytest.mark.parametrize("sample_rate", [8000, 11025, 16000, 44100, 384000])
@pytest.mark.parametrize("channels", [1, 2, 64])
@pytest.mark.parametrize("n_samples", [1, 2, 999])
def test_length_is_rounded_up(write_audio, sample_rate, channels, n_samples):
    path = write_audio("a.wav", np.atleast_1d(make_noise(n_samples / sample_rate, sample_rate, channels)), sample_rate)
    with open_audio(path) as stream:
        assert stream.info == AudioInfo(sample_rate, channels)
        assert sum(map(len, stream.blocks())) == -(-n_samples * 16000 // sample_rate)


def test_channels_are_mixed_by_their_mean(write_audio):
    samples = make_noise(1, channels=5)
    path = write_audio("a.wav", samples, subtype="FLOAT")
    np.testing.assert_allclose(read(path), samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 48000])
def test_resampling_is_that_of_one_piece(write_audio, sample_rate):
    samples = make_noise(3, sample_rate)
    path = write_audio("a.wav", samples, sample_rate, subtype="FLOAT")
    expected = soxr.resample(samples, sample_rate, 16000, quality="HQ")
    np.testing.assert_allclose(read(path, block_s=0.7), expected, atol=1e-4)


@pytest.mark.parametrize("sample_rate", [8000, 44100, 384000])
def test_a_resampled_sine_is_the_sine(write_audio, sample_rate):
    path = write_audio("a.wav", make_tone(2, sample_rate=sample_rate, noise=0), sample_rate, subtype="FLOAT")
    inner = slice(1600, -1600)  # the tone's abrupt ends ring
    np.testing.assert_allclose(
        read(path, block_s=0.3)[inner], make_tone(2, sample_rate=16000, noise=0)[inner], atol=1e-4
    )


def test_nothing_above_nyquist_comes_back(write_audio):
    path = write_audio("a.wav", make_tone(2, 13000.0, 48000, noise=0), 48000, subtype="FLOAT")
    assert np.abs(read(path)[1600:-1600]).max() < 1e-4


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_blocks_do_not_change_the_samples(write_audio, suffix, sample_rate):
    path = write_audio(f"a.{suffix}", make_noise(4, sample_rate, 2), sample_rate)
    whole = read(path)
    for block_s in (0.013, 0.5, 1.7):
        samples = read(path, block_s)
        assert len(samples) == len(whole)
        np.testing.assert_allclose(samples, whole, atol=1e-6)


@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_blocks_are_of_the_length_asked_for(write_audio, sample_rate):
    path = write_audio("a.wav", make_noise(2.25, sample_rate), sample_rate)
    with open_audio(path) as stream:
        assert [len(block) for block in stream.blocks(0.5)] == [8000, 8000, 8000, 8000, 4000]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9)), st.integers(1, 20))
def test_rechunk(lengths, block_samples):
    signal = np.arange(sum(lengths), dtype=np.float32)
    blocks = list(_rechunk(iter(np.split(signal, np.cumsum(lengths)[:-1]) if lengths else []), block_samples))
    assert all(len(block) == block_samples for block in blocks[:-1])
    assert all(0 < len(block) <= block_samples for block in blocks)
    np.testing.assert_array_equal(np.concatenate([signal[:0], *blocks]), signal)


def test_a_stream_is_read_once(write_audio):
    with open_audio(write_audio("a.wav")) as stream:
        assert sum(map(len, stream.blocks())) == 16000
        with pytest.raises(RuntimeError, match="once"):
            stream.blocks()


@pytest.mark.parametrize("block_s", [0, -1, float("nan"), float("inf")])
def test_a_block_has_a_length(write_audio, block_s):
    with open_audio(write_audio("a.wav")) as stream, pytest.raises(ValueError, match="block_s"):
        stream.blocks(block_s)


# Arrays and file objects


def test_arrays():
    samples = make_noise(1, channels=2)
    np.testing.assert_array_equal(read(samples[:, 0], raw_sample_rate=16000), samples[:, 0])
    np.testing.assert_allclose(read(samples.T, raw_sample_rate=16000), samples.mean(axis=1), atol=1e-6)
    assert len(read(samples.T, raw_sample_rate=8000)) == 32000


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float64"])
def test_arrays_of_other_types(dtype):
    expected = make_tone(0.1, noise=0)
    scale, shift = {"int16": (2**15, 0), "int32": (2**31, 0), "uint8": (128, 128), "float64": (1, 0)}[dtype]
    samples = (expected.astype(np.float64) * scale + shift).astype(dtype)
    np.testing.assert_allclose(read(samples, raw_sample_rate=16000), expected, atol=1 / 127)


def test_a_block_is_no_view_of_the_array():
    samples = make_noise(1)
    with open_audio(samples, raw_sample_rate=16000) as stream:
        for block in stream.blocks():
            block[:] = 7
    np.testing.assert_array_equal(samples, make_noise(1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(0, np.float32), "no audio"),
        (np.zeros((2, 0), np.float32), "no audio"),
        (np.zeros((1, 1, 9), np.float32), "3 axes"),
        (np.float32(1)[...], "0 axes"),
        (np.zeros(9, np.complex64), "complex64"),
        (np.zeros((16000, 64), np.float32), "transpose"),
        (np.array([0, np.nan]), "NaN or infinite"),
        (np.array([0, 1e300]), "NaN or infinite"),
    ],
)
def test_arrays_that_are_no_audio(array, message):
    with pytest.raises(AudioError, match=message):
        read(array, raw_sample_rate=16000)


def test_a_file_object_that_was_closed(write_audio):
    with open(write_audio("a.wav"), "rb") as file:
        pass
    with pytest.raises(AudioError, match="closed: open the file again"):
        open_audio(file)


def test_an_array_needs_a_rate_and_nothing_else_does(write_audio):
    with pytest.raises(ValueError, match="raw_sample_rate"):
        open_audio(make_noise(1))
    with pytest.raises(ValueError, match="raw_sample_rate"):
        open_audio(write_audio("a.wav"), raw_sample_rate=16000)
    with pytest.raises(AudioError, match="0 Hz"):
        open_audio(make_noise(1), raw_sample_rate=0)
    with pytest.raises(AudioError, match=r"44100\.5 Hz: a sample rate is a whole number"):
        open_audio(make_noise(1), raw_sample_rate=44100.5)  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        read(make_noise(1), raw_sample_rate=44100.0),  # type: ignore[arg-type]
        read(make_noise(1), raw_sample_rate=44100),
    )
    with pytest.raises(TypeError, match="dict"):
        open_audio({})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample_rate"):
        open_audio(write_audio("a.wav"), sample_rate=0)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_file_object_stays_open(write_audio, suffix):
    path = write_audio(f"a.{suffix}", make_noise(1))
    with open(path, "rb") as file:
        file.read(100)  # it is read from its start all the same
        np.testing.assert_allclose(read(file), read(path), atol=1e-6)
        assert not file.closed


# Pipes


def test_formats_through_a_pipe(pipe, write_audio):
    for container, subtype, _ in LOSSLESS:
        path = write_audio(
            "a.bin", make_noise(0.5, channels=3 if container == "WAVEX" else 1), format=container, subtype=subtype
        )
        np.testing.assert_array_equal(read(pipe(path.read_bytes())), read(path), err_msg=f"{container} {subtype}")
    path = write_audio("a.mp3", make_noise(0.5))
    np.testing.assert_allclose(read(pipe(path.read_bytes())), read(path), atol=1e-6)


def streamed_wav(path: Path, n_bytes: int) -> bytes:
    """Return the WAV file with this length in its header, as programs leave it that cannot go back."""
    data = bytearray(path.read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", n_bytes)
    data[4:8] = struct.pack("<I", min(n_bytes + 36, 2**32 - 1))
    return bytes(data)


@pytest.mark.parametrize("n_bytes", [2**32 - 1, 0x7FFFF000, 0])
def test_wav_of_open_length(pipe, write_audio, tmp_path, n_bytes):
    path = write_audio("a.wav", make_noise(1), subtype="PCM_16")
    data = streamed_wav(path, n_bytes)
    with open_audio(pipe(data)) as stream:
        assert stream.duration_s is None
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks(0.3))), read(path))
    (tmp_path / "b.wav").write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path / "b.wav"), read(path))
    np.testing.assert_array_equal(read(io.BytesIO(data)), read(path))


def test_what_follows_the_samples_is_no_audio(pipe, write_audio):
    path = write_audio("a.wav", make_noise(1))
    data = path.read_bytes() + b"LIST" + struct.pack("<I", 1000) + bytes(1000)
    with open_audio(pipe(data)) as stream:
        assert stream.duration_s == 1.0
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks(0.3))), read(path))


def test_blocks_come_before_the_pipe_ends(write_audio):
    data = streamed_wav(write_audio("a.wav", make_noise(1), subtype="PCM_16"), 2**32 - 1)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as source, os.fdopen(write_end, "wb", buffering=0) as sink:
        sink.write(data[:16044])  # 0.5 s, less than a pipe holds
        with open_audio(source) as stream:
            blocks = stream.blocks(0.25)
            assert [len(next(blocks)), len(next(blocks))] == [4000, 4000]


@needs_fifo
def test_a_named_pipe_is_read_like_a_pipe(write_audio, tmp_path):
    path = write_audio("a.wav", make_noise(1))
    os.mkfifo(tmp_path / "fifo")
    thread = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(path.read_bytes()))
    thread.start()
    np.testing.assert_array_equal(read(tmp_path / "fifo"), read(path))
    thread.join()


def open_wav_header() -> bytes:
    """Return the header of a 16 kHz mono WAV stream of open length."""
    return (
        b"RIFF\xff\xff\xff\xffWAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
        + b"data\xff\xff\xff\xff"
    )


@needs_fifo
def test_a_silent_named_pipe_can_be_left(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    ready, leave = threading.Event(), threading.Event()
    left: list[bool] = []

    def write() -> None:
        with open(tmp_path / "fifo", "wb", buffering=0) as file:
            file.write(open_wav_header() + bytes(20000))
            ready.set()
            left.append(leave.wait(10))

    thread = threading.Thread(target=write)
    thread.start()
    with open_audio(tmp_path / "fifo") as stream:
        blocks = stream.blocks(0.25)
        assert len(next(blocks)) == 4000
        assert ready.wait(5)
        blocks.close()
    leave.set()
    thread.join()
    assert left == [True]  # the pipe was silent all the while: closing did not wait for more, or for its end


LIVE = """
from framecls.audio import find_inputs, open_audio
(item,) = find_inputs(["-"])
with open_audio(item.source) as stream:
    blocks = stream.blocks(0.25)
    print(len(next(blocks)), len(next(blocks)), flush=True)
    blocks.close()
"""


def test_silent_standard_input_can_be_left():
    with start_command(code=LIVE, stdin=subprocess.PIPE) as process:
        process.stdin.write(open_wav_header() + bytes(20000))
        process.stdin.flush()
        assert process.wait(60) == 0, process.stderr.read()
        assert process.stdout.read().split() == [b"4000", b"4000"]


@pytest.mark.parametrize("data", [b"", b"R", b"RIFF\0\0\0\0WAVE", b"hello, world\n" * 1000])
def test_a_pipe_without_audio(pipe, data):
    with pytest.raises(AudioError, match="nothing came" if not data else "not audio"):
        read(pipe(data))


def test_a_header_that_claims_a_lot_costs_nothing(pipe):
    bomb = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 2**31)
    with pytest.raises(AudioError, match="not audio"):
        read(pipe(bomb))


def test_a_terminal_is_no_audio():
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(AudioError, match="is a terminal"):
        read(Terminal())


def test_text_mode_is_refused():
    with pytest.raises(AudioError, match="binary mode"):
        read(io.StringIO("RIFF"))


# Faults


def _truncated(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


def _make_text(tmp_path: Path, write: Any) -> Path:
    (tmp_path / "a.wav").write_text("This is not a recording.\n" * 100)
    return tmp_path / "a.wav"


def _make_garbage(tmp_path: Path, write: Any) -> Path:
    (tmp_path / "a.wav").write_bytes(np.random.default_rng(0).bytes(50000))
    return tmp_path / "a.wav"


def _make_zip(tmp_path: Path, write: Any) -> Path:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("hello")
    return Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "x"))


def _make_empty(tmp_path: Path, write: Any) -> Path:
    (tmp_path / "a.wav").touch()
    return tmp_path / "a.wav"


def _make_dead_link(tmp_path: Path, write: Any) -> Path:
    (tmp_path / "a.wav").symlink_to(tmp_path / "gone.wav")
    return tmp_path / "a.wav"


def _make_raw(tmp_path: Path, write: Any) -> Path:
    (tmp_path / "a.raw").write_bytes(np.random.default_rng(0).bytes(50000))
    return tmp_path / "a.raw"


def _with(value: float) -> Callable[[Path, Any], Path]:
    def make(tmp_path: Path, write: Any) -> Path:
        samples = np.zeros((32000, 2), np.float32)
        samples[20000, 1] = value
        return write("a.wav", samples, subtype="FLOAT")

    return make


FAULTS: dict[str, tuple[Callable[[Path, Any], Path], str]] = {
    "missing": (lambda tmp_path, write: tmp_path / "a.wav", "no such file"),
    "folder": (lambda tmp_path, write: tmp_path, "folder, not a file"),
    "dead link": (_make_dead_link, "symbolic link"),
    "below a file": (lambda tmp_path, write: write("a.wav") / "b.wav", "cannot be read"),
    "name with NUL": (lambda tmp_path, write: tmp_path / "a\0.wav", "not a name"),
    "name too long": (lambda tmp_path, write: tmp_path / ("a" * 5000), "cannot be read"),
    "endless device": (lambda tmp_path, write: Path("/dev/zero"), "device"),
    "0 bytes": (_make_empty, r"empty \(0 bytes\)"),
    "header only": (lambda tmp_path, write: write("a.wav", np.zeros(0, np.float32)), "there is no audio in it"),
    "header only, aiff": (lambda tmp_path, write: write("a.aiff", np.zeros(0, np.float32)), "there is no audio in it"),
    "text": (_make_text, "not audio that can be read"),
    "garbage": (_make_garbage, "not audio that can be read"),
    "zip": (_make_zip, "not audio that can be read"),
    "raw": (_make_raw, "not audio that can be read|there is no audio in it"),
    "NaN": (_with(np.nan), r"sample at 1\.250 s is NaN or infinite"),
    "infinity": (_with(-np.inf), r"sample at 1\.250 s is NaN or infinite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(tmp_path, write_audio, fault):
    make, message = FAULTS[fault]
    path = make(tmp_path, write_audio)
    if str(path).startswith("/dev/") and not path.exists():
        pytest.skip(f"there is no {path} here")
    with pytest.raises(AudioError, match=message) as caught:
        read(path, block_s=0.5)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_no_permission(write_audio, monkeypatch):
    path = write_audio("a.wav")
    path.chmod(0)
    if os.access(path, os.R_OK):  # the administrator reads everything

        def refuse(*_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(AudioError, match="no permission"):
        read(path)


def test_a_film_without_sound(tmp_path):
    film = write_media(tmp_path / "a.mp4", picture_s=1)
    with pytest.raises(AudioError, match="there is no audio in it"):
        read(film)


def test_a_playlist_reaches_no_network(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n")
        with pytest.raises(AudioError, match="a playlist, not a recording"):
            read(tmp_path / "a.m3u8")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()


@pytest.mark.parametrize("suffix", ["wav", "ogg", "flac"])
def test_a_truncated_file_gives_what_is_there(write_audio, suffix):
    path = _truncated(write_audio(f"a.{suffix}", make_noise(10)))
    assert 5 * 16000 < len(read(path)) < 7 * 16000


NAMES = [
    "new\nline.wav",
    "quote'\".wav",
    "🎵 é.wav",
    "-v.wav",
    "concat:a|b.wav",
    "%d.wav",
    " .wav",
    "a.mp3",
    "no suffix",
]


@pytest.mark.skipif(os.name != "posix", reason="needs names that Windows refuses")
@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"latin-\xe9.wav")])
def test_odd_names(write_audio, tmp_path, monkeypatch, name):
    path = write_audio("plain.wav", make_noise(1))
    expected = read(path)
    path.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read(name), expected)
    np.testing.assert_array_equal(read(tmp_path / name), expected)
    reader = ContainerReader(Path(name), ReadOptions(), Remarks())
    np.testing.assert_array_equal(reader.read(20000)[:, 0], expected)
    assert reader.duration_s == pytest.approx(1)
    reader.close()
    (tmp_path / name).write_text("not audio\n" * 100)
    with pytest.raises(AudioError, match=r"^not audio that can be read \([A-Z][a-z ]+\)$"):
        read(name)


# Memory and time


def write_long_wav(path: Path, minutes: int) -> None:
    """Write that many minutes of noise at 24 kHz, a minute at a time."""
    minute = np.random.default_rng(0).integers(-3000, 3000, 24000 * 60, np.int16).tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24000)
        for _ in range(minutes):
            file.writeframes(minute)


def peak_bytes(source: Any) -> int:
    tracemalloc.start()
    try:
        with open_audio(source) as stream:
            for _ in stream.blocks(5.0):
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_length(tmp_path, pipe):
    for minutes in (1, 10):
        write_long_wav(tmp_path / f"{minutes}.wav", minutes)
    short = peak_bytes(tmp_path / "1.wav")
    assert peak_bytes(tmp_path / "10.wav") < 1.1 * short
    data = streamed_wav(tmp_path / "1.wav", 2**32 - 1)
    assert peak_bytes(pipe(data, *[data[44:]] * 9)) < 2 * short


def test_memory_does_not_grow_with_channels_and_rate(write_audio):
    path = write_audio("a.wav", make_noise(0.25, 384000, 64), 384000, subtype="PCM_16")
    assert peak_bytes(path) < 12 * 2**20  # decoded at once it is 23 MiB of float32


# Which recordings


def names(found: Iterator[Input | InputFailure]) -> list[str]:
    return [("! " if isinstance(item, InputFailure) else "") + item.name for item in found]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, made the current one, of empty files: finding does not open them."""
    for name in (
        "b/2.WAV",
        "b/10.mp3",
        "b/notes.txt",
        "b/.hidden.wav",
        "b/.git/x.wav",
        "b.wav",
        "a/c/x.flac",
        "empty/x.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_is_searched_in_order(tree):
    found = list(find_inputs(["."]))
    assert names(iter(found)) == [str(Path("a/c/x.flac")), str(Path("b/10.mp3")), str(Path("b/2.WAV")), "b.wav"]
    assert [item.relative.as_posix() for item in found] == ["a/c/x.flac", "b/10.mp3", "b/2.WAV", "b.wav"]
    assert [item.relative.as_posix() for item in find_inputs([str(tree / "a")])] == ["c/x.flac"]


def test_files_keep_their_order_and_any_suffix(tree):
    found = list(find_inputs(["b.wav", "b/notes.txt", "-"]))
    assert [(item.path, item.name, item.relative.as_posix()) for item in found] == [
        (Path("b.wav"), "b.wav", "b.wav"),
        (Path("b/notes.txt"), "b/notes.txt", "b/notes.txt"),
        (None, "-", "stdin"),
    ]


def test_what_is_given_twice_is_kept_once(tree):
    assert names(find_inputs(["b.wav", "./b.wav", ".", "-", "b/../b.wav", "-", "gone", "gone"])) == [
        "b.wav",
        *[str(Path(name)) for name in ("a/c/x.flac", "b/10.mp3", "b/2.WAV")],
        "-",
        "! gone",
    ]


def test_failures_do_not_stop_the_others(tree):
    found = list(find_inputs(["gone.wav", "empty", "", "@gone.txt", "@", "@b", "nul\0", "b.wav"]))
    assert [item.name for item in found] == ["gone.wav", "empty", "", "@gone.txt", "@", "@b", "nul\0", "b.wav"]
    assert [str(item.error) for item in found[:-1]] == [
        "there is no such file or folder",
        "there is no audio file in this folder",
        "an empty name: give a file or a folder",
        "there is no such file or folder",
        "there is no such file or folder",
        "a list must be a text file of paths, one a line",
        "this is not a name that a file can have",
    ]
    assert isinstance(found[-1], Input)


def test_a_list(tree):
    text = "\ufeff# recordings\r\n\r\n b.wav \r\n# more\nb\ngone.wav\n"
    (tree / "list.txt").write_text(text, encoding="utf-8", newline="")
    assert names(find_inputs(["@list.txt"])) == ["b.wav", "b/10.mp3", "b/2.WAV", "! gone.wav"]


@pytest.mark.skipif(os.name != "posix", reason="needs names that are bytes")
def test_a_list_of_names_that_are_not_utf8(tree):
    name = b"latin-\xe9.wav"
    with open(name, "wb"), open("list.txt", "wb") as file:
        file.write(name + b"\n")
    assert [item.path for item in find_inputs(["@list.txt"])] == [Path(os.fsdecode(name))]


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "no paths"), (b"# only\n\n", "no paths"), (b"RIFF\0\0", "this is no text")]
)
def test_lists_that_are_none(tree, data, message):
    (tree / "list.txt").write_bytes(data)
    (failure,) = find_inputs(["@list.txt"])
    assert isinstance(failure, InputFailure)
    assert message in str(failure.error)


def test_outputs_never_collide(tree):
    for name in ("one/a.wav", "two/a.wav", "one/two/a.wav"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    found = list(find_inputs(["one", "two", str(tree / "two" / "a.wav"), str(tree / "b.wav"), "b.wav", "@list"]))
    relative = [item.relative.as_posix() for item in found if isinstance(item, Input)]
    assert relative == ["a.wav", "two/a.wav", f"{tree.name}/two/a.wav", "b.wav"]
    assert [item.relative.as_posix() for item in find_inputs(["../" + tree.name + "/b.wav"])] == ["b.wav"]


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_links(tree):
    (tree / "a" / "up").symlink_to(tree)  # a loop
    (tree / "a" / "self.wav").symlink_to(tree / "a" / "self.wav")
    (tree / "a" / "dead.wav").symlink_to(tree / "gone.wav")
    (tree / "a" / "dead.txt").symlink_to(tree / "gone.txt")
    (tree / "a" / "live.wav").symlink_to(tree / "b.wav")
    (tree / "a" / "other").symlink_to(tree / "empty")
    (tree / "empty" / "y.wav").touch()
    assert names(find_inputs(["a"])) == [
        "a/c/x.flac",
        "! a/dead.wav",
        "a/live.wav",
        "a/other/y.wav",
        "! a/self.wav",
        "a/up/b/10.mp3",
        "a/up/b/2.WAV",
        "a/up/b.wav",
    ]


@needs_fifo
def test_only_files_are_found_in_a_folder(tree):
    os.mkfifo(tree / "a" / "pipe.wav")
    (tree / "a" / "folder.wav").mkdir()
    assert names(find_inputs(["a"])) == ["a/c/x.flac"]


def test_a_folder_that_cannot_be_read(tree, monkeypatch):
    listdir = os.listdir

    def refuse(path: Any) -> list[str]:
        if Path(path).name == "c":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    found = list(find_inputs(["."]))
    assert names(iter(found)) == [f"! {Path('a/c')}", str(Path("b/10.mp3")), str(Path("b/2.WAV")), "b.wav"]
    assert str(found[0].error) == "no permission to read it"


def test_standard_input_is_what_is_opened(pipe, write_audio, monkeypatch):
    path = write_audio("a.wav", make_noise(1))

    class Stdin:
        buffer = pipe(path.read_bytes())

    monkeypatch.setattr("sys.stdin", Stdin)
    (item,) = find_inputs(["-"])
    np.testing.assert_array_equal(read(item.source), read(path))


def test_soundfile_reads_what_this_package_promises():
    formats = soundfile.available_formats()
    assert {"WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF"} <= set(formats)
    assert "OPUS" in soundfile.available_subtypes("OGG")
