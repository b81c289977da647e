"""Streams: segments while a recording goes on, and samples without a header."""

from __future__ import annotations

import csv
import io
import json
import operator
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framecls
from framecls.audio import open_audio
from framecls.config import RAW_ENCODINGS, ConfigError, RawAudio, ReadOptions
from framecls.errors import AudioError, UsageError
from framecls.inference.engine import Engine
from framecls.model import Model
from framecls.nn.network import Network
from support.commands import HANG_S, Cli, start_command
from support.models import tiny_config
from support.signals import RATE, make_swell, write_wav

SAMPLES = Path(__file__).parents[2] / "samples"
ROOT = Path(framecls.__file__).parent.parent


@pytest.fixture(scope="module")
def sound() -> Model:
    return framecls.load("sound", device="cpu")


@pytest.fixture(scope="module")
def radio() -> np.ndarray:
    """Return (sample,) a sample at 16 kHz."""
    with open_audio(SAMPLES / "radio.ogg") as stream:
        return np.concatenate(list(stream.blocks()))


# --- from Python


def test_segments_come_no_later_than_promised(sound: Model, radio: np.ndarray) -> None:
    """More audio comes only when all segments that must be known by then are there."""
    whole = sound.tag(radio, sample_rate=RATE).segments
    delay_s = sound.config.window.length_s + sound.config.decision.min_gap_s + 0.5
    got: list[framecls.Segment] = []
    late: list[float] = []

    def live() -> Iterator[np.ndarray]:
        for first in range(0, len(radio), RATE // 2):
            yield radio[first : first + RATE // 2]
            heard_s = first / RATE + 0.5
            n_wanted = sum(s.end <= heard_s - delay_s for s in whole)
            deadline = time.monotonic() + HANG_S
            while len(got) < n_wanted:
                if time.monotonic() > deadline:
                    late.append(heard_s)
                    return
                time.sleep(0.01)

    for segment in sound.stream(live(), sample_rate=RATE):
        got.append(segment)
    assert not late
    assert len(got) == len(whole) > 5
    key = operator.attrgetter("start", "label")
    assert sorted(got, key=key) == sorted(whole, key=key)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 40000), min_size=1, max_size=6), st.sampled_from([1, 2, 8]), st.booleans())
def test_a_stream_gives_the_segments_of_the_whole(sizes: list[int], batch_size: int, tiles: bool) -> None:
    torch.manual_seed(3)
    config = replace(tiny_config("frame"), overlapping=not tiles)
    config = replace(config, decision=replace(config.decision, thresholds={}, min_duration_s=0.1, min_gap_s=0.06))
    model = Model(Engine(Network(config).eval(), torch.device("cpu"), batch_size))
    samples = make_swell(9.7)
    cuts = np.cumsum([sizes[k % len(sizes)] for k in range(len(samples) // min(sizes) + 1)])
    blocks = np.split(samples, cuts[cuts < len(samples)])
    streamed = list(model.stream(iter(blocks), sample_rate=RATE))
    assert sorted(streamed, key=repr) == sorted(model.tag(samples, sample_rate=RATE).segments, key=repr)


def test_the_same_recording_at_another_rate(sound: Model, radio: np.ndarray, tmp_path: Path) -> None:
    soxr = pytest.importorskip("soxr")
    high = soxr.resample(radio, RATE, 44100)
    soundfile.write(tmp_path / "high.wav", np.stack([high, high], 1), 44100, subtype="FLOAT")
    soundfile.write(tmp_path / "low.wav", radio, RATE, subtype="FLOAT")
    low, high = (sound.tag(tmp_path / name).segments for name in ("low.wav", "high.wav"))
    assert [s.label for s in low] == [s.label for s in high]
    for a, b in zip(low, high, strict=True):
        assert max(abs(a.start - b.start), abs(a.end - b.end)) <= 2 * sound.config.hop_s + 1e-6


def test_segments_of_a_pooled_model_are_refused() -> None:
    model = Model(Engine(Network(tiny_config("pooled")).eval(), torch.device("cpu")))
    with pytest.raises(UsageError, match="use tag or identify"):
        model.stream(make_swell(1.0), sample_rate=RATE)


def test_blocks_that_do_not_fit_each_other() -> None:
    model = Model(Engine(Network(tiny_config("frame")).eval(), torch.device("cpu")))
    with pytest.raises(AudioError, match="a block has 1 channels, the first 2"):
        list(model.stream(iter([np.zeros((2, 100), np.float32), np.zeros(100, np.float32)]), sample_rate=RATE))
    with pytest.raises(AudioError, match="no audio in it"):
        list(model.stream(iter([]), sample_rate=RATE))


# --- samples without a header


@pytest.mark.parametrize("encoding", RAW_ENCODINGS)
def test_raw_encodings(encoding: str, tmp_path: Path) -> None:
    subtype, endian, sample_bytes = RAW_ENCODINGS[encoding]
    samples = np.stack([make_swell(0.5), -0.5 * make_swell(0.5)], 1)
    path = tmp_path / "a.pcm"
    soundfile.write(path, samples, RATE, format="RAW", subtype=subtype, endian=endian)
    assert path.stat().st_size == samples.size * sample_bytes
    with open_audio(path, RATE, options=ReadOptions(raw=RawAudio(RATE, 2, encoding))) as stream:
        got = np.concatenate(list(stream.blocks(0.13)))
        assert stream.info == framecls.AudioInfo(RATE, 2)
    np.testing.assert_allclose(got, samples.mean(axis=1), atol=0.02)
    with (
        path.open("rb") as file,
        open_audio(file, RATE, options=ReadOptions(raw=RawAudio(RATE, 2, encoding))) as stream,
    ):
        np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), got)


def test_raw_is_for_files() -> None:
    with pytest.raises(ValueError, match="raw is for files"):
        open_audio(make_swell(1.0), RATE, RATE, ReadOptions(raw=RawAudio(RATE)))
    with pytest.raises(ConfigError, match="choose s16le"):
        RawAudio(RATE, 1, "s17le")


# --- the command


@pytest.mark.parametrize("format", ["jsonl", "csv", "tsv", "rttm", "audacity"])
def test_streamed_formats(format: str, tag: Cli, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", 9.0)
    rules = ("--threshold", "music=0.5", "--min-gap", "0.1")
    status, out, err = tag(path, "-f", format, "--stream", *rules)
    assert (status, err) == (0, "")
    _, whole, _ = tag(path, "-f", format, *rules)
    if format == "jsonl":
        record = json.loads(whole)
        lines = [{"file": record["file"], "model": record["model"], **segment} for segment in record["segments"]]
        got = [json.loads(line) for line in out.splitlines()]
        assert sorted(map(repr, got)) == sorted(map(repr, lines))
    else:
        assert sorted(out.splitlines()) == sorted(whole.splitlines())
        if format == "csv":
            assert next(csv.reader(io.StringIO(out))) == ["file", "start", "end", "label", "score"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stream"], "--stream needs -f: choose jsonl, csv, tsv, rttm, audacity, raven"),
        (
            ["--stream", "-f", "table"],
            "--stream does not go with -f table: choose jsonl, csv, tsv, rttm, audacity, raven",
        ),
        (["--stream", "-o", "a.json"], "leave -o out"),
        (["--stream", "-f", "json"], "choose jsonl"),
        (["--stream", "-f", "vtt"], "choose jsonl"),
        (["--stream", "-f", "csv", "--frames"], "leave --frames out"),
        (["--stream", "-f", "csv", "-o", "a.csv"], "leave -o out"),
        (["--raw", "x"], "--raw x: RATE[,CHANNELS[,ENCODING]] is expected"),
        (["--raw", "16000,1,s16le,9"], "is expected"),
        (["--raw", "16000,0"], "channels"),
        (["--raw", "10"], "sample rate 10"),
        (["--raw", "16000,1,flac"], "choose s16le"),
    ],
)
def test_wrong_usage_of_streams(arguments: list[str], said: str, tag: Cli, tmp_path: Path) -> None:
    status, out, err = tag(write_wav(tmp_path / "a.wav"), *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


def test_one_bad_stream_stops_no_other(tag: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("This is a text.\n" * 100)
    good = [write_wav(tmp_path / name) for name in ("a.wav", "c.wav")]
    status, out, err = tag(good[0], bad, good[1], "-f", "jsonl", "--stream")
    assert status == 1
    assert {json.loads(line)["file"] for line in out.splitlines()} == {str(path) for path in good}
    assert err.startswith(f"framecls: error: {bad}: ")
    assert len(err.splitlines()) == 1


def test_raw_files_and_wav_files_agree(tag: Cli, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", 3.0)
    samples, _ = soundfile.read(path, dtype="int16")
    (tmp_path / "a.pcm").write_bytes(samples.tobytes())
    stereo = np.stack([samples, samples], 1).astype(">i2")
    (tmp_path / "b.pcm").write_bytes(stereo.tobytes())
    _, wanted, _ = tag(path, "-f", "csv")
    for name, raw in (("a.pcm", "16000"), ("b.pcm", "16000,2,s16be")):
        status, out, _ = tag(tmp_path / name, "--raw", raw, "-f", "csv")
        assert status == 0
        assert out.replace(name, "a.wav") == wanted


def start(model: str, *arguments: str) -> subprocess.Popen[bytes]:
    return start_command("tag", "-m", model, "--device", "cpu", "-", *arguments, bufsize=0, stdin=subprocess.PIPE)


def as_pcm(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def test_a_pipe_that_does_not_end(radio: np.ndarray) -> None:
    """Segments come while the pipe stays open, and a reader that goes away ends it quietly."""
    with start("sound", "--raw", "16000", "-f", "jsonl", "--stream") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(as_pcm(radio))
        first = json.loads(process.stdout.readline())
        assert set(first) == {"file", "model", "start", "end", "label", "score"}
        assert first["file"] == "-"
        process.stdout.close()
        try:
            for _ in range(20):
                process.stdin.write(as_pcm(radio))
            process.stdin.close()
        except BrokenPipeError:
            pass
        assert process.stderr.read() == b""
        assert process.wait(timeout=HANG_S) == 141


def test_a_stream_that_ends(tag_model: str) -> None:
    with start(tag_model, "--raw", "16000", "-f", "csv", "--stream") as process:
        out, err = process.communicate(as_pcm(make_swell(5.0)), timeout=HANG_S)
    assert (process.returncode, err) == (0, b"")
    assert b"-,0,5,speech," in out
