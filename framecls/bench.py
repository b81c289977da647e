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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from framecls import packages
from framecls.audio import Input, find_inputs, open_audio
from framecls.config import ReadOptions
from framecls.errors import AudioError, FrameclsError, UsageError
from framecls.inference.engine import Engine, count_decoders, load_engine
from framecls.inference.windows import Item, WindowOutput
from framecls.model import Model

# What the peers can read, and the sample rate of the made-up sound.
_PEER_RATE_HZ = 16000
_CLIP_S = 10.0  # of the start-up figures
_MAX_START_UP_REPEATS = 3  # they take seconds each
_WEBRTC_FRAME_S = 0.03
_WEBRTC_MODE = 2

Samples = NDArray[np.float32]  # (sample,)


@dataclass(frozen=True)
class Timing:
    """Seconds that one thing took, over all rounds."""

    median_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True)
class Speed(Timing):
    """The same of something that reads the recordings."""

    times_real_time: float


@dataclass(frozen=True)
class PeerSpeed(Speed):
    """The same of another program."""

    ratio: float  # how many times faster framecls is


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to measure."""

    model: str | Path = "sound"
    file: Path | None = None  # a recording, or a folder of them; None: one that is made up, `length_s` long
    length_s: float = 300.0
    repeats: int = 5
    against: tuple[str, ...] = ()  # names out of PEERS
    device: str = "auto"
    threads: int | None = None
    batch_size: int | None = None
    precision: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured, as -f json prints it: additions only."""

    model: str
    device: str
    precision: str  # fp32 or bf16
    threads: int
    runtime: str = "torch"
    versions: dict[str, str]
    file: str
    duration: float  # seconds of audio in all recordings
    files: int
    files_left_out: int  # that cannot be read
    decoders: int  # recordings decoded at once
    stages: dict[str, Speed]  # "whole": from files to results in a process that is running, whose stages overlap
    whole_to_decode: float  # times as long as decoding alone: near 1 where nothing else holds the whole up
    peak_memory_bytes: int | None  # resident memory of the command on these recordings, where the system tells it
    start_up: dict[str, Timing]  # of commands, each in a process of its own
    against: dict[str, PeerSpeed]
    not_installed: dict[str, str]  # peers, and how to install them


def run(benchmark: Benchmark, progress: Callable[[str, int, int], None], note: Callable[[str], None]) -> Report:
    """Measure.

    Args:
        benchmark: what.
        progress: told what is measured, how many of the rounds are done, and of how many.
        note: told in a line what is left out.

    Raises:
        UsageError: the device is not there.
        FrameclsError: the model or the recording cannot be used.
    """
    engine = load_engine(
        benchmark.model,
        device=benchmark.device,
        threads=benchmark.threads,
        batch_size=benchmark.batch_size,
        precision=benchmark.precision,
    )
    if engine.config.embedding and benchmark.file is None:
        raise UsageError(f"the model {engine.config.name} wants to hear somebody talk: name a recording")
    with tempfile.TemporaryDirectory(prefix="framecls-") as temporary:
        made_up = Path(temporary) / "made-up.wav"
        files, n_left_out, audio_s = _find_readable(benchmark.file or write_audio(made_up, benchmark.length_s), note)
        missing = {name: PEERS[name] for name in benchmark.against if not packages.is_installed(PEERS[name].module)}
        peers = {name: PEERS[name].load() for name in benchmark.against if name not in missing}
        rounds: list[dict[str, float]] = []
        for number in range(benchmark.repeats + 1):  # what is done for the first time takes longer
            progress("measuring" if number else "warming up", max(0, number - 1), benchmark.repeats)
            rounds.append(_measure_round(engine, files, peers))
        seconds = {name: [each[name] for each in rounds[1:]] for name in rounds[0]}
        speeds = {name: Speed(*_spread(took), audio_s / statistics.median(took)) for name, took in seconds.items()}
        whole_s = speeds["whole"].median_s
        start_up, peak_bytes = {}, None
        if not engine.config.embedding:  # a command that names voices needs some that are enrolled
            progress("measuring the command", benchmark.repeats, benchmark.repeats)
            command = _command(benchmark, engine)
            peak_bytes = measure_memory([*command, *map(str, files)])
            clip = write_audio(Path(temporary) / "clip.wav", _CLIP_S)
            start_up = measure_start_up([*command, str(clip)], min(benchmark.repeats, _MAX_START_UP_REPEATS))
    return Report(
        model=engine.config.name,
        device=str(engine.device),
        precision=engine.precision,
        threads=torch.get_num_threads(),
        versions={"python": platform.python_version(), "torch": torch.__version__}
        | {name: PEERS[name].version for name in peers},
        file=str(benchmark.file) if benchmark.file else f"{benchmark.length_s:g} s of made-up sound, 16 kHz wav",
        duration=audio_s,
        files=len(files),
        files_left_out=n_left_out,
        decoders=min(count_decoders(), len(files)),
        stages={name: speed for name, speed in speeds.items() if name not in peers},
        whole_to_decode=whole_s / speeds["decode"].median_s,
        peak_memory_bytes=peak_bytes,
        start_up=start_up,
        against={name: PeerSpeed(**vars(speeds[name]), ratio=speeds[name].median_s / whole_s) for name in peers},
        not_installed={name: packages.install_command(peer.package) for name, peer in missing.items()},
    )


def _spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(seconds), min(seconds), max(seconds)


def _command(benchmark: Benchmark, engine: Engine) -> list[str]:
    """Return the arguments of the command that does what is measured, but for the recordings."""
    command = ["tag" if engine.config.task == "frame" else "identify", "-m", str(benchmark.model), "-f", "jsonl", "-q"]
    command += ["--device", benchmark.device, "--threads", str(torch.get_num_threads())]
    command += ["--precision", benchmark.precision]
    return command + (["--batch-size", str(benchmark.batch_size)] if benchmark.batch_size else [])


def write_audio(path: Path, length_s: float) -> Path:
    """Write made-up sound as a 16 kHz 16-bit WAV file: bursts of tones and noise, the same every time."""
    rng = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", _PEER_RATE_HZ, 1, "PCM_16") as file:
        for first in range(0, round(length_s * _PEER_RATE_HZ), _PEER_RATE_HZ):  # a second at a time
            times = np.arange(min(_PEER_RATE_HZ, round(length_s * _PEER_RATE_HZ) - first)) / _PEER_RATE_HZ
            loudness = np.abs(np.sin(2 * np.pi * rng.uniform(1, 4) * times)) * rng.uniform(0, 0.5)
            tone = np.sin(2 * np.pi * rng.uniform(80, 1000) * times)
            file.write((loudness * (tone + 0.3 * rng.standard_normal(len(times)))).clip(-1, 1))
    return path


def _find_readable(place: Path, note: Callable[[str], None]) -> tuple[list[Path], int, float]:
    """Return the recordings in a place that can be read, how many others there are, and the seconds of audio.

    Raises:
        AudioError: none can be read.
    """
    files: list[Path] = []
    failures: dict[str, AudioError] = {}
    n_samples = 0
    for item in find_inputs([os.fspath(place)]):
        try:
            if not isinstance(item, Input):
                raise item.error
            assert item.path is not None
            n_samples += _decode(item.path, _PEER_RATE_HZ)
        except AudioError as error:
            failures[item.name] = error
        else:
            files.append(item.path)
    if not files:
        [first, *others] = failures.values()
        raise AudioError(f"none of {len(failures)} recordings can be read; the first: {first}") if others else first
    for name, fault in failures.items():
        note(f"{name} is left out: {fault}")
    return files, len(failures), n_samples / _PEER_RATE_HZ


def _decode(file: Path, sample_rate: int) -> int:
    """Decode a recording, keep nothing, and return how many samples there were."""
    with open_audio(file, sample_rate) as stream:
        return sum(len(block) for block in stream.blocks())


def _read(file: Path, sample_rate: int) -> Samples:
    with open_audio(file, sample_rate) as stream:
        return np.concatenate(list(stream.blocks()))


def _measure_round(engine: Engine, files: Sequence[Path], peers: dict[str, Run]) -> dict[str, float]:
    """Do everything once and return the seconds that each thing took."""
    rate = engine.config.features.sample_rate
    seconds = {"decode": _time(_decode_all, files, rate)}
    timed = TimedEngine(engine)
    for recording in timed.run((_read(file, rate) for file in files), ReadOptions(sample_rate=rate)):
        list(recording)
    seconds |= {"features": timed.features_s, "model": timed.model_s, "whole": _time(_classify, Model(engine), files)}
    for name, peer in peers.items():
        seconds[name] = sum(_time(peer, _read(file, _PEER_RATE_HZ)) for file in files)
    return seconds


def _decode_all(files: Sequence[Path], sample_rate: int) -> None:
    """Decode as many recordings at once as the engine does."""
    with ThreadPoolExecutor(count_decoders()) as threads:
        list(threads.map(_decode, files, [sample_rate] * len(files)))


def _classify(model: Model, files: Iterable[Path]) -> None:
    if model.config.embedding:
        for file in files:
            model.embed(file)
        return
    is_frame_task = model.config.task == "frame"
    for result in model.tag_many(files, keep_scores=False) if is_frame_task else model.identify_many(files):
        if isinstance(result, Exception):
            raise result


def _time(call: Callable[..., Any], *arguments: Any) -> float:
    start_s = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start_s


class TimedEngine(Engine):
    """An engine that runs a batch at a time, and times the features apart from the rest of the network and its gate."""

    n_workers = 1

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.network, engine.device, engine.batch_size)
        self._untimed = engine
        self.features_s = self.model_s = 0.0

    def forward(self, items: list[Item]) -> list[WindowOutput]:
        """Run the network on a batch of windows."""
        with torch.inference_mode():
            waveform, n_frames = self.pad(items)
            start_s = self._now()
            vectors = self.network.extract(waveform, n_frames)
            middle_s = self._now()
            self.network.classify(vectors, n_frames)
            if self._untimed.gate is not None:
                self._untimed.gate.hear(waveform, n_frames)
            self.features_s += middle_s - start_s
            self.model_s += self._now() - middle_s
        return [WindowOutput(window, np.zeros(0, np.float32), 0.0) for window, _ in items]

    def _now(self) -> float:
        """Return the time once the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()


Run = Callable[[Samples], Any]  # reads (sample,) at 16 kHz


@dataclass(frozen=True)
class Peer:
    """Another program."""

    module: str
    package: str  # one that has the module
    make: Callable[[Any], Run]  # of the imported module

    def load(self) -> Run:
        """Import it and make it ready."""
        threads = torch.get_num_threads()
        run_peer = self.make(packages.load(f"bench --against {self.module}", self.module, self.package))
        torch.set_num_threads(threads)  # silero-vad sets it to 1 when it is imported
        return run_peer

    @property
    def version(self) -> str:
        """Version of the package that the module was installed from, whichever of several it is."""
        [package, *_] = importlib.metadata.packages_distributions().get(self.module, [self.package])
        return importlib.metadata.version(package)


def _make_silero(silero_vad: Any) -> Run:
    vad = silero_vad.load_silero_vad()

    def run_silero(samples: Samples) -> Any:
        with torch.inference_mode():
            return vad.audio_forward(torch.from_numpy(samples), sr=_PEER_RATE_HZ)

    return run_silero


def _make_webrtc(webrtcvad: Any) -> Run:
    n_frame = round(_WEBRTC_FRAME_S * _PEER_RATE_HZ)

    def run_webrtc(samples: Samples) -> list[bool]:
        vad = webrtcvad.Vad(_WEBRTC_MODE)
        data = (samples.clip(-1, 1) * 32767).astype("<i2")
        firsts = range(0, len(data) - n_frame + 1, n_frame)
        return [vad.is_speech(data[first : first + n_frame].tobytes(), _PEER_RATE_HZ) for first in firsts]

    return run_webrtc


PEERS = {  # by the names of --against
    "silero": Peer("silero_vad", "silero-vad", _make_silero),
    # The package webrtcvad imports what setuptools no longer brings.
    "webrtc": Peer("webrtcvad", "webrtcvad-wheels", _make_webrtc),
}


_MEASURE_MEMORY = """
import re, sys
from framecls.cli import boundary
status = boundary.run(sys.argv[1:])
peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
sys.stderr.write("\\n" + peak[1])
sys.exit(status)
"""


def measure_start_up(command: Sequence[str], repeats: int) -> dict[str, Timing]:
    """Time processes from start to end: --help, a bare import of torch, and a whole command on a short clip."""
    processes = {
        "framecls --help": ("-m", "framecls", "--help"),
        "import torch": ("-c", "import torch"),
        f"{command[0]}, a clip of {_CLIP_S:g} s": ("-m", "framecls", *command),
    }
    rounds = [[_time(run_python, arguments) for arguments in processes.values()] for _ in range(repeats)]
    return {name: Timing(*_spread(took)) for name, took in zip(processes, zip(*rounds, strict=True), strict=True)}


def measure_memory(command: Sequence[str]) -> int | None:
    """Return the most memory in bytes that a whole command has resident at once, or None if the system keeps no count.

    The process reads it of itself: what the system says of a child counts what this process had when it started it.
    """
    if not Path("/proc/self/status").exists():
        return None
    return int(run_python(("-c", _MEASURE_MEMORY, *command)).rpartition("\n")[2]) * 1024


def run_python(arguments: Sequence[str]) -> str:
    """Run this Python and return what it wrote to standard error.

    Raises:
        FrameclsError: the process failed.
    """
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
