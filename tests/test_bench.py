"""`framecls bench` measures what it says, of any model, and says which peers are not there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import threading
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framecls import bench
from framecls.cli.options import PEERS
from framecls.errors import FrameclsError
from framecls.inference.engine import count_decoders, load_engine
from framecls.model import Model
from support.commands import HANG_S, Cli
from support.models import save_tiny_voice_model
from support.signals import write_wav

STAGES = ["decode", "features", "model", "whole"]


@pytest.fixture(scope="module")
def voice_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose command is not measured: the stages are those of any other."""
    return save_tiny_voice_model(tmp_path_factory.mktemp("models"))


def measure(told: list[str] | None = None, **settings: Any) -> bench.Report:
    """Measure a benchmark on the CPU that takes no time; `told` gets the titles and the notes."""
    told = [] if told is None else told
    benchmark = bench.Benchmark(**{"repeats": 2, "device": "cpu", **settings})
    return bench.run(benchmark, lambda title, done, total: told.append(title), told.append)


def test_the_made_up_audio_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (bench.write_audio(tmp_path / name, 2.5) for name in ("a.wav", "b.wav"))
    assert first.read_bytes() == second.read_bytes()
    with wave.open(str(first)) as file:
        assert (file.getnframes(), file.getframerate(), file.getsampwidth()) == (40000, 16000, 2)
        samples = np.frombuffer(file.readframes(40000), "<i2")
    assert 1000 < samples.std() < 20000


def test_every_stage_is_measured(voice_model: Path, tmp_path: Path) -> None:
    told: list[str] = []
    report = measure(told, model=voice_model, file=write_wav(tmp_path / "a.wav", 3.0))
    assert list(report.stages) == STAGES
    for speed in report.stages.values():
        assert 0 < speed.low_s <= speed.median_s <= speed.high_s
        assert speed.times_real_time == 3.0 / speed.median_s
    assert report.whole_to_decode == report.stages["whole"].median_s / report.stages["decode"].median_s
    assert (report.duration, report.files, report.file) == (3.0, 1, str(tmp_path / "a.wav"))
    assert told == ["warming up", "measuring", "measuring"]


def test_the_command_as_json(cli: Cli, tag_model: str, tmp_path: Path) -> None:
    """Of a folder: its recordings are decoded at once, and answered together; then the command is run on them."""
    for number in range(5):
        write_wav(tmp_path / "in" / f"{number % 2}" / f"{number}.wav", 1.0 + 0.5 * number, 200 + 90 * number)
    (tmp_path / "in" / "text.wav").write_text("no audio\n" * 100)
    answer = cli("bench", tmp_path / "in", "-m", tag_model, "--device", "cpu", "--repeats", "1", "-f", "json")
    [said] = answer.records
    assert (answer.status, said["runtime"], said["device"]) == (0, "torch", "cpu")
    assert (said["duration"], said["files"], said["files_left_out"]) == (10.0, 5, 1)
    assert said["decoders"] == min(count_decoders(), 5)
    assert list(said["stages"]) == STAGES
    assert set(said["stages"]["whole"]) == {"median_s", "low_s", "high_s", "times_real_time"}
    assert 50e6 < (said["peak_memory_bytes"] or 1e9) < 5e9
    assert list(said["start_up"]) == ["framecls --help", "import torch", "tag, a clip of 10 s"]
    assert all(set(timing) == {"median_s", "low_s", "high_s"} for timing in said["start_up"].values())
    assert (said["against"], said["not_installed"]) == ({}, {})
    [line] = answer.errors
    assert line.startswith(f"framecls: {tmp_path / 'in' / 'text.wav'} is left out: not audio")


def test_the_command_as_a_table(cli: Cli, identify_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of made-up sound, and a model that identifies; processes are started by the test above."""
    run: list[list[str]] = []
    monkeypatch.setattr(bench, "run_python", lambda arguments: run.append(list(arguments)) or "\n51200")
    answer = cli("bench", "-m", identify_model, "--device", "cpu", "--length", "2", "--repeats", "1", "-q")
    assert (answer.status, answer.err) == (0, "")
    assert "tiny-language on 2 s of made-up sound, 16 kHz wav (torch, cpu" in answer.out
    for words in (*STAGES, "× real time", "times as long as decoding alone", "identify, a clip of 10 s"):
        assert words in answer.out
    assert "peak memory of the whole command: 52 MB" in answer.out or not Path("/proc").exists()
    assert [arguments[-1][-4:] for arguments in run][-3:] == ["help", "orch", ".wav"]


def test_a_folder_is_decoded_as_the_engine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_decoders = count_decoders()
    files = [write_wav(tmp_path / f"{number}.wav", 1.0) for number in range(2 * n_decoders)]
    together = threading.Barrier(n_decoders)
    decode = bench._decode
    lengths: list[int] = []

    def decode_together(file: Path, rate: int) -> None:
        together.wait(HANG_S)  # broken, were there fewer threads
        lengths.append(decode(file, rate))

    monkeypatch.setattr(bench, "_decode", decode_together)
    bench._decode_all(files, 16000)
    assert lengths == [16000] * len(files)


def test_a_folder_of_nothing(cli: Cli, tag_model: str, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_text("no audio\n" * 100)
    answer = cli("bench", tmp_path, "-m", tag_model, "--device", "cpu")
    [line] = answer.errors
    assert answer.status == 1
    assert line.startswith(f"framecls: error: {tmp_path}: none of 2 recordings can be read; the first: not audio")


def test_stages_do_all_the_work(tag_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows that are timed stage by stage are those that the engine reads."""
    engine = load_engine(tag_model, device="cpu", batch_size=2)
    seen: list[torch.Tensor] = []
    really = engine.network.features.forward
    monkeypatch.setattr(engine.network.features, "forward", lambda w, n: (seen.append(w.clone()), really(w, n))[1])
    file = write_wav(tmp_path / "a.wav", 7.3)
    timed = bench.TimedEngine(engine)
    for recording in timed.run([file]):
        list(recording)
    assert min(timed.features_s, timed.model_s) > 0
    by_stage, seen[:] = list(seen), []
    Model(engine).tag(file)
    # Which windows share a batch depends on which is decoded first.
    one, other = (sorted(row.numpy().tobytes() for batch in batches for row in batch) for batches in (by_stage, seen))
    assert len(by_stage) > 1
    assert one == other


def test_peers_run_on_the_same_audio(voice_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    peers = {
        "present": bench.Peer("numpy", "numpy", lambda module: lambda samples: heard.append(len(samples))),
        "absent": bench.Peer("no_such_module", "no-such-package", lambda module: len),
    }
    monkeypatch.setattr(bench, "PEERS", peers)
    report = measure(model=voice_model, file=write_wav(tmp_path / "a.wav", 3.0), against=("present", "absent"))
    assert heard == [48000] * 3  # one to warm up
    assert list(report.stages) == STAGES
    assert list(report.against) == ["present"]
    assert report.not_installed == {"absent": "pip install no-such-package"}
    assert report.against["present"].ratio == report.against["present"].median_s / report.stages["whole"].median_s
    assert report.versions["present"] == np.__version__


@pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="needs the package silero-vad")
def test_silero_leaves_the_threads_of_torch_alone() -> None:
    before = torch.get_num_threads()
    read = bench.PEERS["silero"].load()
    assert torch.get_num_threads() == before
    assert read(np.zeros(16000, np.float32)).numel() == 32  # of 512 samples each


@pytest.mark.skipif(importlib.util.find_spec("webrtcvad") is None, reason="needs the package webrtcvad")
def test_webrtc_judges_every_frame() -> None:
    assert bench.PEERS["webrtc"].load()(np.zeros(16000, np.float32)) == [False] * 33


def test_the_peers_are_those_that_help_names() -> None:
    assert tuple(bench.PEERS) == PEERS


def test_a_peer_is_told_by_its_module() -> None:
    """The module soundfile, say, is of the package soundfile, whatever we would have told people to install."""
    assert bench.Peer("soundfile", "soundfile-wheels", len).version == importlib.metadata.version("soundfile")


def test_a_model_of_voices_hears_a_recording(cli: Cli, voice_model: Path, tmp_path: Path) -> None:
    command = ("bench", "-m", voice_model, "--device", "cpu", "--repeats", "1", "-q")
    answer = cli(*command)
    assert (answer.status, answer.errors) == (
        2,
        ["framecls: error: the model tiny-speaker wants to hear somebody talk: name a recording"],
    )
    answer = cli(*command, write_wav(tmp_path / "a.wav", 5.0), "-f", "json")
    assert answer.status == 0
    said = json.loads(answer.out)
    assert list(said["stages"]) == STAGES
    assert (said["start_up"], said["peak_memory_bytes"]) == ({}, None)


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(FrameclsError, match="no such file"):
        bench.run_python(("-m", "framecls", "tag", "missing.wav"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-f", "csv"], "choose table or json"),
        (["--against", "marblenet"], "--against 'marblenet': there is no such peer, choose silero, webrtc"),
        (["--repeats", "0"], "--repeats 0: at least 1"),
        (["--length", "0"], "--length 0.0 s: 1 to 36000 s"),
        (["--threads", "0"], "--threads"),
        (["-m", "nope"], "'nope'"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, cli: Cli) -> None:
    answer = cli("bench", *arguments)
    assert (answer.status, len(answer.errors)) == (2, 1)
    assert said in answer.err


def test_missing_recording_is_one_line(cli: Cli, tag_model: str) -> None:
    answer = cli("bench", "missing.wav", "-m", tag_model, "--device", "cpu")
    assert (answer.status, answer.err) == (1, "framecls: error: missing.wav: there is no such file or folder\n")
