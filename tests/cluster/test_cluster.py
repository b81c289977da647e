"""The same job in processes of Ray, here two on this machine: the bytes of a run in this process."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import framecls
from framecls.cli import boundary
from framecls.cluster import ClusterModel, connect, pool, session
from framecls.cluster import model as cluster_model
from framecls.cluster.plan import Machine, WorkerPlan, plan_workers
from framecls.cluster.worker import Answer, Failure, Setup, Started, Work, Worker
from framecls.errors import AudioError, ClusterError, ConfigError, UsageError
from framecls.output.destination import FolderDestination, JournalDestination
from framecls.results import TagResult
from support.commands import Answer as Said
from support.commands import Cli, run_command
from support.models import save_tiny_model, save_tiny_voice_model
from support.signals import write_wav

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is an optional extra")

N_GOOD = 9
BAD = "in/1/text.wav"
ON_RAY = ("--engine", "ray", "--workers", "2")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with models and recordings, one of which is none."""
    folder = tmp_path_factory.mktemp("cluster")
    save_tiny_model(folder, "frame")
    save_tiny_voice_model(folder)
    for number in range(N_GOOD):
        write_wav(folder / "in" / f"{number % 3}" / f"{number:02d}.wav", 0.4 + 0.7 * (number % 4), 200 + 90 * number)
    (folder / BAD).write_text("no audio\n" * 100)
    return folder


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start a Ray that all tests share: commands in this process use it."""
    import ray

    # Workers import this file, for the classes below, and framecls from where it was imported here.
    places = [Path(__file__).parents[1], Path(framecls.__file__).parent.parent]
    settings = {"num_cpus": 4, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 128 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray keeps a token there
        ray.init(address="local", log_to_driver=False, logging_level="ERROR", **settings)
    with pytest.MonkeyPatch.context() as patch:
        # A command that ends its own Ray hears nothing of it afterwards; this one tells late of workers that died.
        patch.setattr(ray._private.worker, "_worker_logs_enabled", False)
        patch.setattr(pool, "_QUIET_S", pool._START_S)  # on a busy machine it would say that it still waits
        yield
    ray.shutdown()


@pytest.fixture
def here(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a fresh folder that shows what is in `work`."""
    for path in work.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(cli: Cli, here: Path) -> Cli:
    """Run a command line in `here`, on one thread."""

    def call(command: str, *arguments: str, model: str = "tiny-sound.safetensors") -> Said:
        return cli(command, "-m", model, "--device", "cpu", "--threads", "1", *arguments)

    return call


def shown(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder that are not hidden, with their content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("[!.]*") if p.is_file()}


def told(answer: Said) -> tuple[int, str, list[str]]:
    """Return the status, and what was printed save how long it took."""
    return answer.status, answer.out, [line.partition(" in ")[0] for line in answer.err.splitlines()]


@pytest.fixture(scope="module")
def model(work: Path, ray_here: None) -> Iterator[ClusterModel]:
    """Connect to a model with two workers of little room."""
    with connect(work / "tiny-sound.safetensors", workers=2, device="cpu", threads=1, batch_size=1) as connected:
        yield connected


def share(model: ClusterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command use workers that are there, as long as it asks for two."""

    def connect_again(*_: Any, workers: int, **__: Any) -> contextlib.nullcontext[ClusterModel]:
        assert workers == 2
        return contextlib.nullcontext(model)

    monkeypatch.setattr("framecls.cluster.connect", connect_again)


# --- the same as here

KINDS = {
    "lines": ("in", "-f", "jsonl", "-o", "OUT/all.jsonl"),
    "a table": ("in", "no/such.wav", "-f", "csv"),
    "a mirrored tree": ("in", "-f", "textgrid", "-o", "OUT/"),
}


@needs_ray
@pytest.mark.parametrize("kind", KINDS)
def test_byte_for_byte(kind: str, cli: Cli, here: Path, model: ClusterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind != "a mirrored tree":  # which starts workers of its own, as each command does
        share(model, monkeypatch)
    found = {}
    for engine, options in (("local", ()), ("ray", ON_RAY)):
        folder = here / engine
        folder.mkdir()
        arguments = [word.replace("OUT", engine) for word in KINDS[kind]]
        answer = cli("tag", *arguments, "--errors", f"{engine}/errors.jsonl", *options)
        found[engine] = (told(answer), shown(folder))
    assert found["ray"] == found["local"]
    status, out, lines = found["ray"][0]
    assert status == 1
    assert sum("error: in/1/text.wav: not audio that" in line for line in lines) == 1
    assert lines[-1].startswith(f"framecls: {N_GOOD} done, ")
    assert bool(out) == (kind == "a table")
    assert len(found["ray"][1]) == {"lines": 2, "a table": 1, "a mirrored tree": N_GOOD + 1}[kind]


@needs_ray
@pytest.mark.parametrize("output", ["OUT/", "OUT/all.jsonl"])
def test_interrupted_and_resumed(
    output: str, cli: Cli, here: Path, model: ClusterModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(model, monkeypatch)
    cli("tag", "in", "-f", "jsonl", "-o", output.replace("OUT", "local"), "-q")
    arguments = ("in", "-f", "jsonl", "-o", output)
    writes = itertools.count(1)
    for kind in (FolderDestination, JournalDestination):

        def write(self: Any, *rest: Any, really: Any = kind.write) -> None:
            if next(writes) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            really(self, *rest)

        monkeypatch.setattr(kind, "write", write)
    stopped = cli("tag", *arguments, *ON_RAY)
    assert stopped.status == 130
    lines = stopped.err.splitlines()
    assert "framecls: finishing the recording under way; Ctrl-C again stops at once" in lines
    assert lines[-1].startswith(
        f"framecls: error: interrupted: 4 of {N_GOOD + 1} inputs done, 6 left, from in/1/04.wav"
    )
    assert lines[-1].endswith("--resume goes on from there")
    resumed = cli("tag", *arguments, *ON_RAY, "--resume")
    assert resumed.status == 1
    assert resumed.err.splitlines()[-1].startswith("framecls: 5 done, 4 skipped, 1 failed")
    assert shown(here / "OUT") == shown(here / "local")
    # It is the same run wherever it computes.
    assert f"0 done, {N_GOOD} skipped, 1 failed" in cli("tag", *arguments, "--resume").err


@needs_ray
def test_nothing_to_do_needs_no_workers(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("tag", "in/0", "-o", "all.jsonl", "-q")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("framecls.cluster.connect", refuse)
    assert cli("tag", "in/0", "-o", "all.jsonl", "--resume", *ON_RAY).status == 0


# --- from Python


@needs_ray
def test_many_sources(model: ClusterModel, here: Path) -> None:
    here_model = framecls.load("tiny-sound.safetensors", device="cpu")
    rules: dict[str, Any] = {"thresholds": {"music": 0.0}, "min_gap_s": 0.5}
    sources: list[Any] = ["in/0/00.wav", Path("in/1/01.wav"), "gone.wav", 5, BAD]
    there = list(model.with_decision(**rules).tag_many(sources, keep_scores=True))
    expected = list(here_model.with_decision(**rules).tag_many([*sources[:3], BAD], keep_scores=True))
    assert isinstance(there[3], UsageError)
    for got, wanted in zip([*there[:3], there[4]], expected, strict=True):
        if isinstance(wanted, Exception):
            assert (type(got), str(got)) == (type(wanted), str(wanted))
            continue
        assert isinstance(got, TagResult)
        assert isinstance(wanted, TagResult)
        assert (got.file, got.segments, got.labels) == (wanted.file, wanted.segments, wanted.labels)
        np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-6)
    assert (model.name, model.labels, model.card) == (here_model.name, here_model.labels, here_model.card)


@needs_ray
def test_what_cannot_be_asked_of_it(model: ClusterModel, here: Path) -> None:
    with pytest.raises(UsageError, match="gives one label a frame: use tag"):
        next(model.identify_many(["in/0/00.wav"]))
    with pytest.raises(ConfigError, match="no label of this model"):
        model.with_decision(thresholds={"cat": 0.5})
    assert isinstance(next(model.tag_many(["in/0/00.wav"])), TagResult)  # it goes on


@needs_ray
def test_inputs_go_out_in_bounded_numbers(model: ClusterModel, here: Path) -> None:
    taken = itertools.count()

    def sources() -> Iterator[str]:
        for number in taken:  # it never ends
            yield f"in/{number % 3}/{number % N_GOOD:02d}.wav"

    results = model.tag_many(sources(), keep_scores=False)
    files = [result.file for result in itertools.islice(results, 30) if isinstance(result, TagResult)]
    assert files == [f"in/{number % 3}/{number % N_GOOD:02d}.wav" for number in range(30)]
    results.close()
    room = 8  # of one window a batch
    assert next(taken) <= 30 + pool._AHEAD * 2 * room
    assert isinstance(next(model.tag_many(["in/0/00.wav"])), TagResult)  # what was cut short is forgotten


@needs_ray
def test_progress_within_a_recording(model: ClusterModel, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_POLL_S", 0.02)
    write_wav(here / "long.wav", 240.0)
    seconds: list[float] = []
    [result] = model.tag_many(["long.wav"], keep_scores=False, progress=seconds.append)
    assert isinstance(result, TagResult)
    assert any(0 < second <= 240.1 for second in seconds)


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_voices(cli: Cli, here: Path) -> None:
    path = "tiny-speaker7.safetensors"
    for name, number in (("Ada", 3), ("Bob", 7)):
        framecls.enroll(name, [f"in/{number % 3}/{number:02d}.wav"], path, device="cpu", gallery="them.sqlite")
    arguments = ("in", "--gallery", "them.sqlite", "--top-k", "2", "-f", "csv")
    there = cli("identify", *arguments, "--engine", "ray", "--workers", "1", model=path)
    assert told(there) == told(cli("identify", *arguments, model=path))
    assert "Ada" in there.out


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_the_ray_of_a_program_stays_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of a connection that is asked for meanwhile."""
    import ray

    monkeypatch.setattr("framecls.cluster.session._knock", lambda address: None)  # somebody answers there
    with pytest.raises(UsageError, match="connected to a Ray already"), connect("sound", address="10.0.0.1:6379"):
        pass
    assert ray.is_initialized()


def test_workers_end_with_their_ray() -> None:
    """To be killed, say, Ray would have to start again, and does so if it is asked."""
    asked: list[object] = []
    ray = SimpleNamespace(is_initialized=lambda: False, kill=asked.append)
    gone = pool.WorkerPool.__new__(pool.WorkerPool)
    gone._ray, gone.workers = ray, [pool._Handle(None, None), pool._Handle(None, None)]
    gone.stop(gone.workers)
    assert (gone.workers, asked) == ([], [])


# --- when something goes wrong there


class Fragile(Worker):
    """Dies of some recordings: of one once, of others each time."""

    def answer(self, work: Work, recordings: Sequence[tuple[str, str]]) -> Iterator[Failure | Answer]:
        for path, name in recordings:
            once = Path(os.path.realpath(path)).with_name("died-once")
            if "poison" in name or ("once" in name and not once.exists()):
                once.touch()
                os._exit(1)
            yield from super().answer(work, [(path, name)])


class Elsewhere(Worker):
    """Sees none of the files."""

    def answer(self, work: Work, recordings: Sequence[tuple[str, str]]) -> Iterator[Failure | Answer]:
        yield from super().answer(work, [(f"/nowhere{path}", name) for path, name in recordings])


class Stillborn(Worker):
    """Dies while it loads its model."""

    def start(self, setup: Setup) -> Started | Failure:
        os._exit(1)


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_a_dead_worker_costs_the_recording_that_killed_it(
    cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("a", "b", "c-once", "d", "e", "f-poison", "g", "h")):
        write_wav(here / "mine" / f"{name}.wav", 0.5, 200 + 100 * number)
    assert cli("tag", "mine", "-o", "local.jsonl").status == 0
    monkeypatch.setattr(pool, "Worker", Fragile)
    answer = cli("tag", "mine", "-o", "ray.jsonl", "--engine", "ray", "--workers", "1")
    assert answer.status == 1
    assert answer.out == ""
    errors = [line for line in answer.err.splitlines() if "error" in line]
    assert len(errors) == 1, answer.err
    assert errors[0].startswith("framecls: error: mine/f-poison.wav: its worker died, and so did another")
    assert answer.err.splitlines()[-1].startswith("framecls: 7 done, 1 failed")
    expected = [line for line in (here / "local.jsonl").read_text().splitlines() if "poison" not in line]
    assert (here / "ray.jsonl").read_text().splitlines() == expected


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_workers_that_all_die_end_the_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "Worker", Stillborn)
    monkeypatch.setattr(pool, "_MAX_DEATHS", 2)
    answer = cli("tag", "in", "-o", "all.jsonl", "--engine", "ray", "--workers", "1", "--no-progress")
    assert (answer.status, answer.out) == (1, "")
    [line] = answer.err.splitlines()
    assert line.startswith("framecls: error: the workers die, 2 in a row now")


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_a_machine_that_does_not_see_the_files_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "Worker", Elsewhere)
    answer = cli("tag", "in/0/00.wav", "-f", "jsonl", "-q", "--engine", "ray", "--workers", "1")
    assert (answer.status, answer.out) == (1, "")
    [line] = answer.err.splitlines()
    assert line.startswith("framecls: error: in/0/00.wav: the machine ")
    assert line.endswith("does not see it: it must be where all machines find it by this path")


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_another_version_there_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_model, "__version__", "0.0.0")
    answer = cli("tag", "in", "-f", "jsonl", "-q", "--engine", "ray", "--workers", "1")
    assert (answer.status, answer.out, len(answer.err.splitlines())) == (1, "", 1)
    assert "cannot start: framecls is" in answer.err


@needs_ray
@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("127.0.0.1:1", 1, "no Ray cluster answers at 127.0.0.1:1 (Connection refused)"),
        ("somewhere", 2, "'somewhere' is no address of a Ray cluster"),
    ],
)
def test_no_cluster_there(address: str, status: int, message: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("socket.create_connection", refuse)
    answer = cli("tag", "in/0", "-o", "x.jsonl", "-q", "--engine", "ray", "--address", address)
    assert (answer.status, answer.out, len(answer.err.splitlines())) == (status, "", 1)
    assert answer.err.startswith(f"framecls: error: {message}")


@contextlib.contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Yield the address of a server that says one thing to whoever connects, and nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    kept.append(connection)
                    connection.sendall(answer)

        kept: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


@needs_ray
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "no Ray cluster answers at {} (silent for 0.5 s): ray start --head starts one and says its address"),
        (b"HT", "no Ray cluster answers at {} (silent for 0.5 s): ray start --head starts one and says its address"),
        (
            b"SSH-2.0-OpenSSH_9.6\r\n",
            "what answers at {} is no Ray cluster: ray start --head says the address of one",
        ),
    ],
)
def test_a_port_that_is_silent_or_something_else(
    answer: bytes, message: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, where the network is not shut."""
    with listening(answer) as address:
        code = (
            "import sys\n"
            "from framecls.cli.boundary import run\n"
            "from framecls.cluster import session\n"
            "assert session._KNOCK_S == 20\n"
            "session._KNOCK_S = 0.5\n"
            "sys.exit(run(sys.argv[1:]))"
        )
        command = ["tag", "in/0", "-m", "tiny-sound.safetensors", "--engine", "ray", "--address", address]
        told = run_command(*command, code=code)
    assert told == (1, "", f"framecls: error: {message.format(address)}\n")


# --- what needs no Ray


@pytest.mark.parametrize(
    ("version", "starts_here", "mode", "message"),
    [
        ("2.40.0", False, "token", "Ray 2.40.0 lets everybody on the network run programs here: install ray 2.52"),
        ("2.9.3", True, None, "Ray 2.9.3 lets everybody"),
        ("1.13.0", False, None, "Ray 1.13.0 lets everybody"),
        ("2.52.0", True, None, "set RAY_AUTH_MODE=token before ray is imported"),
        ("2.52.0", True, "token", None),
        ("2.52.0", False, None, None),
        ("2.59.0", True, None, None),
        ("3.0.0.dev0", True, None, None),
    ],
)
def test_rays_that_are_open_to_everybody(
    version: str, starts_here: bool, mode: str | None, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if message is None:
        session._require_tokens(version, starts_here=starts_here)
        return
    with pytest.raises(UsageError, match=message):
        session._require_tokens(version, starts_here=starts_here)


@needs_ray
def test_a_ray_that_is_started_here_asks_for_a_token(home: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "from framecls.cluster.session import open_session\n"
        "with open_session(None, 1) as ray:\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        "    stranger = 'import sys, ray; ray.init(address=sys.argv[1])'\n"
        "    settings = {**os.environ, 'RAY_AUTH_MODE': 'disabled'}\n"
        "    command = [sys.executable, '-c', stranger, address]\n"
        "    told = subprocess.run(command, env=settings, capture_output=True, text=True)\n"
        "    sys.exit(told.stderr if told.returncode == 0 or 'AuthenticationError' not in told.stderr else 0)\n"
    )
    told = run_command(code=code)
    assert told.status == 0, told.err
    assert (home / ".ray" / "auth_token").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "auto"], "--address goes with --engine ray"),
        (["--workers", "2"], "--workers goes with --engine ray"),
        (["--engine", "spark"], "there is no such engine, choose local or ray"),
        (["--engine", "ray", "--workers", "0"], "--workers 0: at least 1"),
        (["--engine", "ray", "--device", "cuda:1"], "choose auto, cpu, cuda; Ray picks the GPU"),
        (["--engine", "ray", "-"], "- is what is piped in here"),
        (["--engine", "ray", "-f", "jsonl", "--stream"], "leave --engine ray out"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framecls.cluster.require_ray", lambda: None)
    assert boundary.run(["tag", "in", *arguments]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert message in captured.err


def test_without_ray(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert boundary.run(["identify", "in", "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "framecls: error: a cluster needs ray, not installed: pip install ray\n"


@pytest.mark.parametrize(
    ("machines", "asked", "plan"),
    [
        ([Machine(2)], ("auto", None, None), WorkerPlan(1, "cpu", 2)),
        ([Machine(2)], ("auto", 2, None), WorkerPlan(2, "cpu", 1)),
        ([Machine(16), Machine(8), Machine(2)], ("cpu", None, None), WorkerPlan(6, "cpu", 4)),
        ([Machine(16), Machine(8), Machine(2)], ("cpu", None, 2), WorkerPlan(13, "cpu", 2)),
        ([Machine(4), Machine(32, 4), Machine(4, 2)], ("auto", None, None), WorkerPlan(5, "cuda", 4, 1)),
        ([Machine(32, 4)], ("cpu", None, None), WorkerPlan(8, "cpu", 4)),
        ([Machine(4, 4)], ("cuda", None, None), WorkerPlan(4, "cuda", 1, 1)),
        ([Machine(0)], ("auto", None, None), WorkerPlan(1, "cpu", 1)),  # a head that does not compute
        ([], ("cuda", 3, None), WorkerPlan(3, "cuda", 1, 1)),
    ],
)
def test_plans(machines: list[Machine], asked: tuple[str, int | None, int | None], plan: WorkerPlan) -> None:
    assert plan_workers(machines, *asked) == plan


class OddError(Exception):
    """Cannot be made again from what it says."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize("error", [AudioError("too short"), ClusterError("gone"), MemoryError("all"), OddError(1, 2)])
def test_errors_arrive_as_they_were(error: Exception) -> None:
    with contextlib.suppress(Exception):
        raise error
    there = Failure.of(error).to_error()
    assert (type(there).__name__, str(there)) == (type(error).__name__, str(error))
    if not isinstance(error, OddError):
        assert type(there) is type(error)
    assert "Traceback" in there.__notes__[0]


def test_digests_tell_models_apart(work: Path) -> None:
    from framecls.checkpoints.registry import digest_model

    digests = {digest_model(name) for name in ("sound", "language", str(work / "tiny-sound.safetensors"))}
    assert len(digests) == 3
    assert json.dumps(sorted(digests))
