"""How fast a model is on this machine: stage by stage, whole, and beside other programs that are installed.

All that is compared is measured in one run, in turns, so that a machine that slows down slows everything.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from framecls import packages
from framecls.audio import Input, find_inputs, open_audio
from framecls.checkpoints.onnx import OnnxNetwork, save_onnx
from framecls.config import ModelConfig
from framecls.errors import AudioError, ConfigError, FrameclsError, UsageError
from framecls.inference.batching import BatchLimits
from framecls.inference.engine import Engine, count_decoders, cut_windows, load_engine
from framecls.inference.segments import Window, padded_length
from framecls.model import Model

RUNTIMES = ("torch", "onnx")
# What the peers can read, and what the audio of the benchmark is made at.
_PEER_RATE_HZ = 16000
_CLIP_S = 10.0  # of the start-up figures
_MAX_START_UP_REPEATS = 3  # they take seconds each
_WEBRTC_FRAME_S = 0.03
_WEBRTC_MODE = 2

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Timing:
    """Seconds that one thing took, each time that it was done."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """The time in the middle."""
        return statistics.median(self.seconds)

    @property
    def low_s(self) -> float:
        """The shortest time."""
        return min(self.seconds)

    @property
    def high_s(self) -> float:
        """The longest time."""
        return max(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to measure.

    Attributes:
        model: a shipped model's name, or a model file.
        file: a recording, or a folder of them; None: one that is made up, `length_s` long, which is nothing for a model
            of voices.
        against: names out of PEERS.
        processes: also measure the command in processes of its own: its start and its memory. Not of a model of voices.
    """

    model: str | Path = "sound"
    file: Path | None = None
    length_s: float = 300.0
    runtime: str = "torch"
    repeats: int = 5
    against: tuple[str, ...] = ()
    processes: bool = True
    device: str = "auto"
    threads: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        checks = (
            (self.runtime in RUNTIMES, f"runtime {self.runtime!r}: choose {' or '.join(RUNTIMES)}"),
            (self.repeats >= 1, f"repeats {self.repeats}: at least 1"),
            (1 <= self.length_s <= 36000, f"length {self.length_s} s: 1 to 36000 s"),
        )
        for holds, message in checks:
            if not holds:
                raise ConfigError(message)
        for name in self.against:
            if name not in PEERS:
                raise ConfigError(f"against {name!r}: there is no such peer, choose {', '.join(PEERS)}")


@dataclass
class Report:
    """What was measured.

    Attributes:
        n_files: recordings.
        n_decoders: of them decoded at once.
        stages: by name; "whole" is the recordings from files to results in a process that is running, whose stages
            overlap.
        start_up: by command, each in a process of its own.
        peers: by name.
        missing: peers that are not installed, and how to install them.
        left_out: what could not be read.
        peak_bytes: resident memory of the whole command on these recordings, at its highest; None where the system does
            not tell.
    """

    model: str
    device: str
    threads: int
    runtime: str
    versions: dict[str, str]
    file: str
    audio_s: float
    n_files: int = 1
    n_decoders: int = 1
    stages: dict[str, Timing] = field(default_factory=dict)
    start_up: dict[str, Timing] = field(default_factory=dict)
    peers: dict[str, Timing] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, AudioError] = field(default_factory=dict)
    peak_bytes: int | None = None

    def speed(self, timing: Timing) -> float:
        """Return the seconds of audio done in a second."""
        return self.audio_s / timing.median_s

    def ratio(self, peer: str) -> float:
        """Return how many times faster the whole of framecls is than a peer."""
        return self.peers[peer].median_s / self.stages["whole"].median_s

    @property
    def whole_to_decode(self) -> float:
        """How many times as long as decoding alone the whole takes: near 1 where nothing else holds it up."""
        return self.stages["whole"].median_s / self.stages["decode"].median_s

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data; additions only."""

        def plain(timing: Timing, *, of_audio: bool = True) -> dict[str, float]:
            times = {"median_s": timing.median_s, "low_s": timing.low_s, "high_s": timing.high_s}
            return times | ({"times_real_time": self.speed(timing)} if of_audio else {})

        return {
            "model": self.model,
            "device": self.device,
            "threads": self.threads,
            "runtime": self.runtime,
            "versions": self.versions,
            "file": self.file,
            "duration": self.audio_s,
            "files": self.n_files,
            "files_left_out": len(self.left_out),
            "decoders": self.n_decoders,
            "stages": {name: plain(timing) for name, timing in self.stages.items()},
            "whole_to_decode": self.whole_to_decode,
            "peak_memory_bytes": self.peak_bytes,
            "start_up": {name: plain(timing, of_audio=False) for name, timing in self.start_up.items()},
            "against": {name: plain(timing) | {"ratio": self.ratio(name)} for name, timing in self.peers.items()},
            "not_installed": self.missing,
        }


def run(job: Job, progress: Callable[[str, int, int], None] | None = None) -> Report:
    """Measure; `progress` is told what is measured, how many of the rounds are done, and of how many.

    Raises:
        UsageError: the device, or what the runtime needs, is not there.
        FrameclsError: the model or the recording cannot be used.
    """
    tell = progress or (lambda title, done, total: None)
    with tempfile.TemporaryDirectory(prefix="framecls-") as temporary:
        folder = Path(temporary)
        if job.runtime == "onnx":
            tell("exporting", 0, job.repeats)
        engine = _load(job, folder)
        place = job.file or write_audio(folder / "made-up.wav", job.length_s)
        files, left_out, audio_s = _look_through(place)
        report = Report(
            model=engine.config.name,
            device=str(engine.device),
            threads=torch.get_num_threads(),
            runtime=job.runtime,
            versions={"python": platform.python_version(), "torch": torch.__version__},
            file=str(job.file) if job.file else f"{job.length_s:g} s of made-up sound, 16 kHz wav",
            audio_s=audio_s,
            n_files=len(files),
            n_decoders=min(count_decoders(), len(files)),
            left_out=left_out,
        )
        peers = _load_peers(job, report)
        tell("warming up", 0, job.repeats)
        _round(engine, files, peers)  # what is done for the first time takes longer
        rounds = []
        for number in range(job.repeats):
            tell("measuring", number, job.repeats)
            rounds.append(_round(engine, files, peers))
        timings = {name: Timing(tuple(seconds[name] for seconds in rounds)) for name in rounds[0]}
        report.peers = {name: timings.pop(name) for name in peers}
        report.stages = timings
        # A command that names voices wants some that are enrolled.
        if job.processes and job.runtime == "torch" and not engine.config.embedding:
            tell("measuring the command", job.repeats, job.repeats)
            report.peak_bytes = measure_memory(_command(job, engine.config, files))
            command = _command(job, engine.config, [write_audio(folder / "clip.wav", _CLIP_S)])
            report.start_up = measure_start_up(command, min(job.repeats, _MAX_START_UP_REPEATS))
    return report


def _load(job: Job, folder: Path) -> Engine:
    if job.runtime == "onnx":
        packages.require("ONNX", "onnx", "onnxscript", "onnxruntime")
    device = "cpu" if job.runtime == "onnx" else job.device
    engine = load_engine(job.model, device=device, threads=job.threads, batch_size=job.batch_size)
    if engine.config.embedding and job.file is None:
        raise UsageError(f"the model {engine.config.name} wants to hear somebody talk: name a recording")
    if job.runtime == "onnx":
        path = folder / "model.onnx"
        save_onnx(engine.network, path)
        # It is called by all workers at once: with all threads for each call they would be in each other's way.
        exported = OnnxNetwork(path, engine.config, max(1, torch.get_num_threads() // engine.n_workers))
        engine.network = cast(Any, exported)
    return engine


# Audio of our own


def write_audio(path: Path, length_s: float) -> Path:
    """Write made-up sound as a 16 kHz 16-bit WAV file: bursts of tones and noise, the same every time."""
    rng = np.random.default_rng(0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_PEER_RATE_HZ)
        n_left = round(length_s * _PEER_RATE_HZ)
        while n_left > 0:  # a second at a time
            times = np.arange(min(n_left, _PEER_RATE_HZ)) / _PEER_RATE_HZ
            loudness = np.abs(np.sin(2 * np.pi * rng.uniform(1, 4) * times)) * rng.uniform(0, 0.5)
            tone = np.sin(2 * np.pi * rng.uniform(80, 1000) * times)
            samples = loudness * (tone + 0.3 * rng.standard_normal(len(times)))
            file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
            n_left -= len(times)
    return path


def _look_through(place: Path) -> tuple[list[Path], dict[str, AudioError], float]:
    """Return the recordings in a place that can be read, why others cannot, and the seconds of audio.

    Raises:
        AudioError: none can be read.
    """
    files: list[Path] = []
    failures: dict[str, AudioError] = {}
    audio_s = 0.0
    for item in find_inputs([os.fspath(place)]):
        try:
            if not isinstance(item, Input):
                raise item.error
            assert item.path is not None
            audio_s += _listen(item.path, _PEER_RATE_HZ) / _PEER_RATE_HZ
        except AudioError as error:
            failures[item.name] = error
        else:
            files.append(item.path)
    if not files:
        [first, *others] = failures.values()
        raise AudioError(f"none of {len(failures)} recordings can be read; the first: {first}") if others else first
    return files, failures, audio_s


def _listen(file: Path, sample_rate: int) -> int:
    """Decode a recording, keep nothing, and return how many samples there were."""
    with open_audio(file, sample_rate) as stream:
        return sum(len(block) for block in stream.blocks())


def _decode(file: Path, sample_rate: int) -> Samples:
    with open_audio(file, sample_rate) as stream:
        return np.concatenate(list(stream.blocks()))


# Stages


def _round(engine: Engine, files: Sequence[Path], peers: dict[str, Peer]) -> dict[str, float]:
    """Do everything once and return the seconds that each thing took."""
    seconds = {"decode": _time(lambda: _decode_all(files, engine.config.features.sample_rate))}
    if isinstance(engine.network, torch.nn.Module):
        seconds["features"], seconds["model"] = _time_network(engine, files)
    seconds["whole"] = _time(lambda: _answer(Model(engine), files))
    for name, peer in peers.items():
        seconds[name] = 0.0
        for file in files:
            samples = _decode(file, _PEER_RATE_HZ)
            seconds[name] += _time(lambda peer=peer, samples=samples: peer(samples))  # type: ignore[misc]
    return seconds


def _decode_all(files: Sequence[Path], sample_rate: int) -> None:
    """Decode as many recordings at once as the engine does."""
    if len(files) == 1:
        _listen(files[0], sample_rate)
        return
    with ThreadPoolExecutor(count_decoders()) as threads:
        list(threads.map(lambda file: _listen(file, sample_rate), files))


def _answer(model: Model, files: Sequence[Path]) -> None:
    if model.config.embedding:
        for file in files:
            model.embed(file)
        return
    is_frame_task = model.config.task == "frame"
    for result in model.tag_many(files, keep_scores=False) if is_frame_task else model.identify_many(files):
        if isinstance(result, Exception):
            raise result


def _time(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time_network(engine: Engine, files: Sequence[Path]) -> tuple[float, float]:
    """Return the seconds for the features of all windows, and for the rest of the network (and its gate's)."""
    features_s = model_s = 0.0
    for waveform, n_frames in _batches(engine, files):
        with torch.inference_mode():
            start = _now(engine.device)
            vectors = engine.network.extract(waveform, n_frames)
            middle = _now(engine.device)
            engine.network.classify(vectors, n_frames)
            if engine.gate is not None:
                engine.gate.weigh(waveform, n_frames, torch.zeros_like(n_frames))
            model_s += _now(engine.device) - middle
            features_s += middle - start
    return features_s, model_s


def _now(device: torch.device) -> float:
    """Return the time once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def _batches(engine: Engine, files: Sequence[Path]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (batch, sample) windows on the device and (batch,) their frames, as the engine makes them up."""
    config = engine.config
    load = BatchLimits(config.window_frames, engine.batch_size)
    held: dict[tuple[int, bool], list[tuple[Window, Samples]]] = {}
    for file in files:
        for window, cut in cut_windows([_decode(file, config.features.sample_rate)], config):
            padded = padded_length(window.n_frames, config.window_frames)
            kind = (padded, padded == window.n_frames)  # what is padded, or to another length, is another batch
            held.setdefault(kind, []).append((window, cut))
            if len(held[kind]) == load.capacity(padded):
                yield _stack(held.pop(kind), engine)
    for windows in held.values():
        yield _stack(windows, engine)


def _stack(windows: list[tuple[Window, Samples]], engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(padded_length(window.n_frames, engine.config.window_frames) for window, _ in windows)
    margin_samples = engine.config.features.margin_samples
    batch = np.zeros((len(windows), longest * engine.config.hop_samples + 2 * margin_samples), np.float32)
    for row, (_, samples) in zip(batch, windows, strict=True):
        row[: len(samples)] = samples[: batch.shape[1]]
    n_frames = torch.tensor([window.n_frames for window, _ in windows], device=engine.device)
    return torch.from_numpy(batch).to(engine.device), n_frames


# Peers

Peer = Callable[[Samples], Any]  # reads (sample,) at 16 kHz


def _load_peers(job: Job, report: Report) -> dict[str, Peer]:
    found: dict[str, Peer] = {}
    for name in job.against:
        module, package, load = PEERS[name]
        if not packages.is_installed(module):
            report.missing[name] = packages.install_command(package)
            continue
        threads = torch.get_num_threads()
        found[name] = load()
        torch.set_num_threads(threads)  # silero-vad sets it to 1 when it is imported
        # Whoever it was installed from: webrtcvad comes in more than one package.
        [package, *_] = importlib.metadata.packages_distributions().get(module, [package])
        report.versions[name] = importlib.metadata.version(package)
    return found


def _load_silero() -> Peer:
    vad: Any = packages.load("bench --against silero", "silero_vad", "silero-vad").load_silero_vad()

    def run_silero(samples: Samples) -> Any:
        with torch.inference_mode():
            return vad.audio_forward(torch.from_numpy(samples), sr=_PEER_RATE_HZ)

    return run_silero


def _load_webrtc() -> Peer:
    webrtcvad: Any = packages.load("bench --against webrtc", "webrtcvad", "webrtcvad-wheels")
    n_frame = round(_WEBRTC_FRAME_S * _PEER_RATE_HZ)

    def run_webrtc(samples: Samples) -> list[bool]:
        vad = webrtcvad.Vad(_WEBRTC_MODE)
        data = (samples.clip(-1, 1) * 32767).astype("<i2")
        whole = len(data) - len(data) % n_frame
        return [
            vad.is_speech(data[first : first + n_frame].tobytes(), _PEER_RATE_HZ) for first in range(0, whole, n_frame)
        ]

    return run_webrtc


# name -> the module, a package that has it, and how to make it ready. The package webrtcvad imports what setuptools
# no longer brings.
PEERS: dict[str, tuple[str, str, Callable[[], Peer]]] = {
    "silero": ("silero_vad", "silero-vad", _load_silero),
    "webrtc": ("webrtcvad", "webrtcvad-wheels", _load_webrtc),
}


# Processes of their own

_IMPORT_TORCH = ("-c", "import torch")
_MEMORY_OF = (
    "import re, sys\n"
    "from framecls.cli import boundary\n"
    "status = boundary.run(sys.argv[1:])\n"
    "peak = re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())\n"
    "sys.stderr.write(f'\\n{peak[1]}')\n"
    "sys.exit(status)\n"
)


def _command(job: Job, config: ModelConfig, files: Sequence[Path]) -> list[str]:
    """Return the arguments of the command that does to files what is measured."""
    command = ["tag" if config.task == "frame" else "identify", *map(str, files), "-m", str(job.model), "-f", "jsonl"]
    command += ["-q", "--device", job.device, "--threads", str(torch.get_num_threads())]
    return command + (["--batch-size", str(job.batch_size)] if job.batch_size else [])


def measure_start_up(command: Sequence[str], repeats: int) -> dict[str, Timing]:
    """Time processes from start to end: --help, a bare import of torch, and a whole command on a short clip."""
    processes = {
        "framecls --help": ("-m", "framecls", "--help"),
        "import torch": _IMPORT_TORCH,
        f"{command[0]}, a clip of {_CLIP_S:g} s": ("-m", "framecls", *command),
    }
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for number in range(repeats + 1):
        for name, arguments in processes.items():
            took_s = _time(lambda arguments=arguments: _call(arguments))  # type: ignore[misc]
            if number:  # the first time fills the caches of the disk
                seconds[name].append(took_s)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


def measure_memory(command: Sequence[str]) -> int | None:
    """Return the most memory in bytes that a whole command has resident at once, or None if the system keeps no count.

    The process reads it of itself: what the system says of a child counts what this process had when it started it.
    """
    if not Path("/proc/self/status").exists():
        return None
    return int(_call(("-c", _MEMORY_OF, *command)).rpartition("\n")[2]) * 1024


def _call(arguments: Sequence[str]) -> str:
    """Run this Python and return what it said on standard error."""
    package_folder = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package_folder, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise FrameclsError(f"a process of the benchmark failed: {lines[-1] if lines else done.returncode}")
    return done.stderr
