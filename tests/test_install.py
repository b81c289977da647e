"""The main job needs no package that may be missing or broken, and what does need one says so in one line."""

from __future__ import annotations

import errno
import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from framecls import packages
from framecls.checkpoints.frontends import look_up
from framecls.checkpoints.network import new_network, save_model
from framecls.config import EncoderConfig, FeatureConfig, ModelConfig, PretrainedConfig
from framecls.errors import PackageError
from support.commands import ROOT, environment, run_command
from support.models import save_tiny_model
from support.signals import write_wav

SAMPLES = ROOT / "samples"
SYMBOL = "undefined symbol: torch_exception_get_what_without_backtrace"
# How an import of transformers fails.
FAILURES = {
    "library": f"raise OSError('Could not load this library: x.so') from OSError('x.so: {SYMBOL}')",
    "absent": "raise ModuleNotFoundError(\"No module named 'transformers'\", name='transformers')",
    "operators": "raise RuntimeError('operator torchvision::nms does not exist')",
    "hollow": "",  # it imports, and has nothing in it
}


def break_package(folder: Path, name: str, code: str) -> dict[str, str]:
    """Put a package in front of the installed one, and return the environment in which it is found first."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code, encoding="utf-8")
    return environment(PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))


def run_shipped_models(folder: Path, variables: dict[str, str]) -> list[str]:
    """Return what tag, identify and enroll say with all shipped models."""
    gallery = folder / "voices.json"
    speech = SAMPLES / "speech_en.ogg"
    common = ["--device", "cpu", "--threads", "1"]
    commands = [
        ["tag", str(speech), "-m", "sound", "-m", "phones", "-f", "jsonl", *common],
        ["identify", str(speech), "-f", "jsonl", *common],
        ["enroll", "ada", str(speech), "--gallery", str(gallery), *common],
        ["identify", str(speech), "-m", "speaker", "--gallery", str(gallery), "-f", "jsonl", *common],
    ]
    code = f"from framecls.cli.boundary import run\nfor command in {commands!r}: assert run(command) == 0"
    answer = run_command(code=code, env=variables)
    assert answer.status == 0, answer.err
    return answer.out.splitlines()


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("usual")
    return run_shipped_models(folder, environment())


@pytest.mark.parametrize("failure", ["library", "absent"])
def test_shipped_models_give_the_same_where_torchaudio_does_not_load(
    failure: str, usual: list[str], tmp_path: Path
) -> None:
    broken = break_package(tmp_path / "first", "torchaudio", FAILURES[failure])
    assert run_shipped_models(tmp_path, broken) == usual
    assert [json.loads(line).get("label") for line in usual] == [None, "en", "ada"]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_pretrained_encoder_says_what_is_wrong_with_transformers(failure: str, tmp_path: Path) -> None:
    broken = break_package(tmp_path / "first", "transformers", FAILURES[failure])
    write_wav(tmp_path / "a.wav")
    (tmp_path / "m.csv").write_text("file,label\na.wav,x\n", encoding="utf-8")
    arguments = ["train", "identify", tmp_path / "m.csv", "-o", tmp_path / "x", "--encoder", "microsoft/wavlm-base"]
    answer = run_command(*arguments, env=broken)
    assert (answer.status, answer.out) == (2, "")
    [line] = answer.err.splitlines()
    assert line.startswith("framecls: error: a pre-trained encoder needs transformers")
    assert line.endswith("transformers")
    assert ": pip install " in line
    assert (SYMBOL in line) == (failure == "library")
    assert ("not installed" in line) == (failure == "absent")


def test_a_model_file_that_carries_such_an_encoder_says_so_too(tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    settings = transformers.HubertConfig(conv_dim=[8] * 7, **sizes, **positions)
    transformers.HubertModel(settings).save_pretrained(tmp_path / "own")
    features = look_up(FeatureConfig(kind="pretrained", pretrained=PretrainedConfig(str(tmp_path / "own"))))
    encoder = EncoderConfig(dim=8, n_layers=1, n_heads=2, ff_dim=16, kernel=3)
    config = ModelConfig("heard", "frame", ("x", "y"), features=features, encoder=encoder)
    save_model(new_network(config, str(tmp_path / "own")), tmp_path / "heard.safetensors")
    broken = break_package(tmp_path / "first", "transformers", FAILURES["library"])
    clip = write_wav(tmp_path / "a.wav")
    answer = run_command("tag", clip, "-m", tmp_path / "heard.safetensors", "-f", "jsonl", env=broken)
    assert answer.status == 2
    assert len(answer.err.splitlines()) == 1
    assert SYMBOL in answer.err
    answer = run_command("tag", clip, "-m", tmp_path / "heard.safetensors", "-f", "jsonl")
    assert (answer.status, answer.err) == (0, "")


def test_the_main_job_imports_nothing_that_only_other_parts_need(tmp_path: Path) -> None:
    speech, gallery, model = SAMPLES / "speech_en.ogg", tmp_path / "voices.json", save_tiny_model(tmp_path, "frame")
    commands = [
        ["tag", str(speech), "-m", "sound", "-f", "csv"],
        ["tag", str(speech), "-m", str(model), "-f", "npz", "-o", str(tmp_path / "x.npz")],
        ["identify", str(speech)],
        ["enroll", "ada", str(speech), "--gallery", str(gallery)],
        ["identify", str(speech), "-m", "speaker", "--gallery", str(gallery)],
    ]
    code = (
        "import sys, framecls\n"
        "from framecls.cli.boundary import run\n"
        f"status = [run(command) for command in {commands!r}]\n"
        f"framecls.embed({str(speech)!r})\n"
        "heavy = {'transformers', 'torchaudio', 'librosa', 'numba', 'scipy', 'sklearn', 'ray', 'pyarrow', 'onnx'}\n"
        "heavy &= sys.modules.keys()\n"
        "sys.exit(f'{heavy} was imported' if heavy else 100 + sum(status))"
    )
    answer = run_command(code=code)
    assert answer.status == 100, answer.err


# --- optional packages


def test_a_broken_pyarrow_is_not_called_missing(tmp_path: Path) -> None:
    broken = break_package(tmp_path / "first", "pyarrow", "raise ImportError('libarrow.so: version GLIBC_9 not found')")
    clip, model = write_wav(tmp_path / "a.wav"), save_tiny_model(tmp_path, "frame")
    answer = run_command("tag", clip, "-m", model, "-f", "parquet", "-o", tmp_path / "x.parquet", env=broken)
    assert answer.status == 2
    [line] = answer.err.splitlines()
    assert "parquet needs pyarrow, and pyarrow " in line
    assert "is installed but does not load (libarrow.so: version GLIBC_9 not found)" in line
    assert line.endswith("pip install --force-reinstall pyarrow")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ModuleNotFoundError(\"No module named 'odd'\", name='odd')", "not installed: pip install odd-wheels"),
        ("import no_such_part_of_it", "does not load (No module named 'no_such_part_of_it')"),
        ("raise ImportError('cannot import name x')", "does not load (cannot import name x)"),
        ("raise AttributeError('module numpy has no attribute bool8')", "does not load (module numpy has"),
        ("raise RuntimeError", "does not load (RuntimeError)"),
        ("raise OSError('x.so: undefined symbol: y')", "does not load (x.so: undefined symbol: y)"),
        ("raise ValueError('numpy.dtype size changed')", "does not load (numpy.dtype size changed)"),
    ],
)
def test_what_is_missing_is_told_from_what_is_broken(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(PackageError) as caught:
        packages.load("this", "odd", "odd-wheels")
    assert str(caught.value).startswith("this needs odd, ")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_an_exhausted_machine_is_no_broken_package(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd.py").write_text(f"raise OSError({number}, 'no more')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OSError, match="no more"):
        packages.load("this", "odd")


def test_no_hint_names_a_package_that_nobody_has_registered() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "framecls").rglob("*.py")]
    assert not [text for text in texts if "framecls[" in text]


# --- other systems

HIDE_POSIX = """
import builtins, importlib, os, pkgutil, signal, sys
import numpy, rich.console, rich.progress, soundfile, soxr, safetensors.torch, torch, typer  # they know their system

absent = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "posix", "readline", "curses"}
real_import = builtins.__import__

def import_as_on_windows(name, globals=None, *rest, **named):
    if name.partition(".")[0] in absent and (globals or {}).get("__name__", "").startswith("framecls"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, globals, *rest, **named)

builtins.__import__ = import_as_on_windows
for name in ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGTSTP",
             "SIGCONT", "SIGSTOP", "SIGWINCH", "alarm", "setitimer", "pthread_sigmask", "sigwait"):
    delattr(signal, name)
for name in ("fork", "getuid", "geteuid", "getpgid", "killpg", "setsid", "mkfifo", "sched_getaffinity", "sysconf",
             "register_at_fork", "uname", "WNOHANG", "O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY"):
    delattr(os, name)
"""


def test_every_module_imports_without_what_only_posix_has() -> None:
    code = HIDE_POSIX + (
        "import framecls\n"
        "names = [m.name for m in pkgutil.walk_packages(framecls.__path__, 'framecls.') if '__main__' not in m.name]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "print(len(names))\n"
    )
    answer = run_command(code=code)
    assert answer.status == 0, answer.err
    assert int(answer.out) > 100


def test_recordings_are_decoded_for_training_where_there_are_no_file_locks(tmp_path: Path) -> None:
    """The cache of decoded clips is the one place that would use flock."""
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    (tmp_path / "m.csv").write_text("file,label\na.wav,x\n", encoding="utf-8")
    code = HIDE_POSIX + (
        "from pathlib import Path\n"
        "from framecls.training.data.clips import open_clips\n"
        "from framecls.training.data.manifest import read_manifest\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "store = open_clips(read_manifest(folder / 'm.csv'), 16000, folder / 'cache')\n"
        "print(store.n_samples(folder / 'a.wav'))\n"
    )
    answer = run_command(code=code)
    assert (answer.status, answer.out) == (0, "1600\n"), answer.err
