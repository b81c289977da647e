"""What every test gets: no network, a home of its own, and small seeded recordings."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from framecls.cli.boundary import run
from support.commands import ROOT, Answer, Cli
from support.models import save_tiny_model
from support.signals import make_tone

WriteAudio = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **_: Any) -> Any:
        raise AssertionError(f"a test reached for the network: {arguments[1:]}")

    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        # Processes of one machine talk through such sockets: a data loader's workers do.
        if self.family != getattr(socket, "AF_UNIX", None):
            refuse(self, address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home folder, which HOME and the like name during the test."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(folder))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("COLUMNS", "LINES"):  # pytest-xdist sets them
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin in the folder that has samples/, wherever the test before went."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded source of random numbers."""
    return np.random.default_rng(0)


@pytest.fixture
def write_audio(tmp_path: Path) -> WriteAudio:
    """Return a function that writes (sample,) or (sample, channel) to a file under tmp_path and returns its path."""

    def write(name: str, samples: NDArray[Any] | None = None, sample_rate: int = 16000, **settings: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if samples is None:
            samples = make_tone(sample_rate=sample_rate)
        soundfile.write(path, samples, sample_rate, **settings)
        return path

    return write


@pytest.fixture(scope="session", autouse=True)
def _one_thread_where_each_core_runs_tests() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """Shells make their background jobs deaf to Ctrl-C, and so would be the programs that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs a command line in this process; what its own processes write counts as well."""

    def call(*arguments: str | Path) -> Answer:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        return Answer(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def tag_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of a tiny tagger."""
    return str(save_tiny_model(tmp_path_factory.mktemp("models"), "frame"))


@pytest.fixture(scope="session")
def identify_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the file of a tiny language identifier."""
    return str(save_tiny_model(tmp_path_factory.mktemp("models"), "pooled"))


@pytest.fixture
def tag(cli: Cli, tag_model: str) -> Cli:
    """Return a function that runs `framecls tag` with the tiny model."""
    return lambda *arguments: cli("tag", "-m", tag_model, "--device", "cpu", *arguments)


@pytest.fixture
def identify(cli: Cli, identify_model: str) -> Cli:
    """Return a function that runs `framecls identify` with the tiny model."""
    return lambda *arguments: cli("identify", "-m", identify_model, "--device", "cpu", *arguments)
