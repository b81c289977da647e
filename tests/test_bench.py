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
from models import save_tiny_model, save_tiny_voice_model, tiny_config, write_wav

from framecls import bench
from framecls.cli.boundary import run
from framecls.errors import ConfigError, FrameclsError
from framecls.inference.engine import count_decoders


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"frame": save_tiny_model(folder, "frame"), "pooled": save_tiny_model(folder, "pooled")}


def quick(**settings: Any) -> bench.Job:
    return bench.Job(**{"length_s": 3.0, "repeats": 2, "processes": False, "device": "cpu", **settings})


def test_the_made_up_audio_is_the_same_every_time(tmp_path: Path) -> None:
    first, second = (bench.write_audio(tmp_path / name, 2.5) for name in ("a.wav", "b.wav"))
    assert first.read_bytes() == second.read_bytes()
    with wave.open(str(first)) as file:
        assert (file.getnframes(), file.getframerate()) == (40000, 16000)
        samples = np.frombuffer(file.readframes(40000), "<i2")
    assert 1000 < samples.std() < 20000


@pytest.mark.parametrize("task", ["frame", "pooled"])
def test_every_stage_is_measured(task: str, models: dict[str, Path]) -> None:
    told: list[str] = []
    report = bench.run(quick(model=models[task]), lambda title, done, total: told.append(title))
    assert list(report.stages) == ["decode", "features", "model", "whole"]
    assert all(len(timing.seconds) == 2 for timing in report.stages.values())
    assert all(0 < timing.low_s <= timing.median_s <= timing.high_s for timing in report.stages.values())
    assert report.audio_s == 3.0
    assert report.speed(report.stages["whole"]) == 3.0 / report.stages["whole"].median_s
    assert told.count("measuring") == 2


def test_a_recording_of_the_users(models: dict[str, Path], tmp_path: Path) -> None:
    report = bench.run(quick(model=models["frame"], file=write_wav(tmp_path / "a.wav", 2.0)))
    assert (report.audio_s, report.file) == (2.0, str(tmp_path / "a.wav"))


def test_a_folder(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its recordings are decoded at once, as many as there are decoders, and answered together."""
    for number in range(5):
        write_wav(tmp_path / "in" / f"{number % 2}" / f"{number}.wav", 1.0 + 0.5 * number, 200 + 90 * number)
    (tmp_path / "in" / "text.wav").write_text("no audio\n" * 100)
    command = ["bench", str(tmp_path / "in"), "-m", str(models["frame"]), "--device", "cpu", "--repeats", "2"]
    assert run([*command, "-f", "json"]) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert (said["duration"], said["files"], said["files_left_out"]) == (10.0, 5, 1)
    assert said["decoders"] == min(count_decoders(), 5)
    assert set(said["stages"]) == {"decode", "features", "model", "whole"}
    medians = {name: stage["median_s"] for name, stage in said["stages"].items()}
    assert said["whole_to_decode"] == medians["whole"] / medians["decode"]
    [line] = captured.err.splitlines()
    assert line.startswith(f"framecls: {tmp_path / 'in' / 'text.wav'} is left out: not audio")
    assert run([*command, "-q"]) == 0
    table = capsys.readouterr().out
    assert ", 5 recordings, 0:00:10 (torch, cpu" in table.replace("\n", "")
    assert f"decode, {said['decoders']} at once" in table
    assert "times as long as decoding alone" in table


def test_a_folder_is_decoded_as_the_engine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_decoders = count_decoders()
    files = [write_wav(tmp_path / f"{number}.wav", 1.0) for number in range(2 * n_decoders)]
    together = threading.Barrier(n_decoders)
    heard: list[Path] = []
    monkeypatch.setattr(bench, "_listen", lambda file, rate: (together.wait(10), heard.append(file)))
    bench._decode_all(files, 16000)
    assert sorted(heard) == files


def test_a_folder_of_nothing(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_text("no audio\n" * 100)
    assert run(["bench", str(tmp_path), "-m", str(models["frame"]), "--device", "cpu"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"framecls: error: {tmp_path}: none of 2 recordings can be read; the first: not audio")


def test_stages_do_all_the_work(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows that are timed stage by stage are those that the engine reads."""
    engine = bench.load_engine(models["frame"], device="cpu", batch_size=2)
    seen: list[torch.Tensor] = []
    really = engine.network.features.forward
    monkeypatch.setattr(engine.network.features, "forward", lambda w, n: (seen.append(w.clone()), really(w, n))[1])
    file = write_wav(tmp_path / "a.wav", 7.3)
    bench._time_network(engine, [file])
    by_stage, seen[:] = list(seen), []
    bench.Model(engine).tag(file)
    # Which windows share a batch depends on which is decoded first.
    one, other = (sorted(row.numpy().tobytes() for batch in batches for row in batch) for batches in (by_stage, seen))
    assert len(by_stage) > 1
    assert one == other


def test_peers_run_on_the_same_audio(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    peers = {
        "present": ("numpy", "numpy", lambda: lambda samples: heard.append(len(samples))),
        "absent": ("no_such_module", "no-such-package", lambda: None),
    }
    monkeypatch.setattr(bench, "PEERS", peers)
    report = bench.run(quick(model=models["frame"], against=("present", "absent")))
    assert heard == [48000] * 3  # one to warm up
    assert list(report.peers) == ["present"]
    assert report.missing == {"absent": "pip install no-such-package"}
    assert report.ratio("present") == report.peers["present"].median_s / report.stages["whole"].median_s


@pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason="needs the package silero-vad")
def test_silero_keeps_its_hands_off_the_threads(models: dict[str, Path]) -> None:
    before = torch.get_num_threads()
    report = bench.run(quick(model=models["frame"], against=("silero",), repeats=1))
    assert torch.get_num_threads() == before
    assert report.peers["silero"].low_s > 0


@pytest.mark.skipif(importlib.util.find_spec("webrtcvad") is None, reason="needs the package webrtcvad")
def test_webrtc_judges_every_frame() -> None:
    found = bench._load_webrtc()(np.zeros(16000, np.float32))
    assert found == [False] * 33


def test_a_peer_is_told_by_its_module(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The module soundfile, say, is of the package soundfile, whatever we would have told people to install."""
    monkeypatch.setattr(bench, "PEERS", {"other": ("soundfile", "soundfile-wheels", lambda: len)})
    report = bench.run(quick(model=models["frame"], against=("other",), repeats=1))
    assert report.versions["other"] == importlib.metadata.version("soundfile")


def test_a_model_of_voices_hears_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny_voice_model(tmp_path)
    command = ["bench", "-m", str(model), "--device", "cpu", "--repeats", "1", "-q"]
    assert run(command) == 2
    assert capsys.readouterr().err == (
        "framecls: error: the model tiny-speaker wants to hear somebody talk: name a recording\n"
    )
    assert run([*command, str(write_wav(tmp_path / "a.wav", 5.0)), "-f", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["stages"]) == {"decode", "features", "model", "whole"}
    assert (said["start_up"], said["peak_memory_bytes"]) == ({}, None)


def test_the_start_is_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(bench, "_call", lambda arguments: called.append(tuple(arguments)))
    times = bench.measure_start_up(["tag", "a.wav"], 2)
    assert list(times) == ["framecls --help", "import torch", "tag, a clip of 10 s"]
    assert all(len(timing.seconds) == 2 for timing in times.values())
    one_round = [("-m", "framecls", "--help"), ("-c", "import torch"), ("-m", "framecls", "tag", "a.wav")]
    assert called == one_round * 3  # one to fill the caches


def test_memory_is_that_of_the_command(models: dict[str, Path], tmp_path: Path) -> None:
    command = bench._command(quick(model=models["frame"]), tiny_config("frame"), [write_wav(tmp_path / "a.wav")])
    peak_bytes = bench.measure_memory(command)
    assert peak_bytes is None or 50e6 < peak_bytes < 5e9


def test_a_process_that_fails_is_an_error() -> None:
    with pytest.raises(FrameclsError, match="no such file"):
        bench._call(("-m", "framecls", "tag", "missing.wav"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"runtime": "tensorrt"}, "choose torch or onnx"),
        ({"repeats": 0}, "at least 1"),
        ({"length_s": 0.0}, "1 to 36000"),
        ({"against": ("marblenet",)}, "choose silero, webrtc"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        quick(**settings)


def test_the_command_prints_json_or_a_table(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    common = ["bench", "-m", str(models["frame"]), "--device", "cpu", "--length", "2", "--repeats", "1"]
    assert run([*common, "-f", "json", "-q"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["duration"] == 2.0
    assert set(said["stages"]) == {"decode", "features", "model", "whole"}
    assert said["stages"]["whole"]["times_real_time"] > 0
    assert run([*common, "-q"]) == 0
    table = capsys.readouterr().out
    for word in ("decode", "features", "model", "whole", "× real time"):
        assert word in table


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
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_missing_recording_is_one_line(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "missing.wav", "-m", str(models["frame"]), "--device", "cpu"]) == 1
    assert capsys.readouterr().err == "framecls: error: missing.wav: there is no such file or folder\n"


def test_the_exported_network_gets_its_share_of_threads(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[int | None] = []
    monkeypatch.setattr(bench.packages, "require", lambda *_: None)
    monkeypatch.setattr(bench, "save_onnx", lambda *_: None)
    monkeypatch.setattr(bench, "OnnxNetwork", lambda path, config, threads: shares.append(threads))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            bench._load(quick(model=models["frame"], runtime="onnx"), tmp_path)
    finally:
        torch.set_num_threads(before)
    assert shares == [1, 1, 1]  # there is a worker for each
