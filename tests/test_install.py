"""The main job needs no package that may be missing or broken, and what does need one says so in one line."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from importlib.metadata import version
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
# How an import of transformers or torchaudio fails.
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


# Runs a command line with a package that is broken in one way after the other, and prints each status behind a mark.
RUN_BROKEN = """
import importlib, pathlib, sys
from framecls.cli.boundary import run
folder, package, failures, command = {folder!r}, {package!r}, {failures!r}, {command!r}
for number, code in enumerate(failures):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    made = pathlib.Path(folder, str(number), package)
    made.mkdir(parents=True)
    (made / "__init__.py").write_text(code)
    sys.path.insert(0, str(made.parent))
    importlib.invalidate_caches()
    sys.stderr.write(str(run(command)) + "\\n")
"""


@pytest.mark.parametrize(
    ("package", "encoder", "said", "advice"),
    [
        ("transformers", "microsoft/wavlm-base", "a pre-trained encoder needs transformers", "transformers"),
        ("torchaudio", "torchaudio:WAVLM_BASE", "a torchaudio encoder needs torchaudio", "torchaudio==2.11.0"),
    ],
)
def test_an_encoder_says_what_is_wrong_with_its_package(
    package: str, encoder: str, said: str, advice: str, tmp_path: Path
) -> None:
    write_wav(tmp_path / "a.wav")
    (tmp_path / "m.csv").write_text("file,label\na.wav,x\n", encoding="utf-8")
    command = ["train", "identify", str(tmp_path / "m.csv"), "-o", str(tmp_path / "x"), "--encoder", encoder]
    failures = [code.replace("transformers", package) for code in FAILURES.values()]
    answer = run_command(
        code=RUN_BROKEN.format(folder=str(tmp_path), package=package, failures=failures, command=command)
    )
    assert (answer.status, answer.out) == (0, ""), answer.err
    assert answer.errors[1::2] == ["2"] * len(FAILURES)
    for failure, line in zip(FAILURES, answer.errors[::2], strict=True):
        assert line.startswith(f"framecls: error: {said}")
        assert line.endswith(advice)
        assert ": pip install " in line
        assert (SYMBOL in line) == (failure == "library")
        assert ("not installed" in line) == (failure == "absent")
        if package == "torchaudio":
            assert f"beside torch {version('torch')}" in line
            assert (f"torchaudio {version('torchaudio')} does not load" in line) == (failure != "absent")
            assert line.endswith("pip install torch==2.11.0 torchaudio==2.11.0")


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
    """Nor a torchaudio that does not load."""
    speech, gallery, model = SAMPLES / "speech_en.ogg", tmp_path / "voices.json", save_tiny_model(tmp_path, "frame")
    commands = [
        ["tag", str(speech), "-m", "sound", "-m", "phones", "-f", "jsonl"],
        ["tag", str(speech), "-m", str(model), "-f", "npz", "-o", str(tmp_path / "x.npz")],
        ["identify", str(speech), "-f", "jsonl"],
        ["enroll", "ada", str(speech), "--gallery", str(gallery)],
        ["identify", str(speech), "-m", "speaker", "--gallery", str(gallery), "-f", "jsonl"],
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
    broken = break_package(tmp_path / "first", "torchaudio", FAILURES["library"])
    answer = run_command(code=code, env=broken)
    assert answer.status == 100, answer.err
    assert [record.get("label") for record in answer.records] == [None, "en", "ada"]


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
    break_package(tmp_path / "first", "torchaudio", f"raise OSError({number}, 'no more')")
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "first")
    with pytest.raises(OSError, match="no more"):
        packages.load_torchaudio()


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


def test_every_module_imports_without_what_only_posix_has(tmp_path: Path) -> None:
    """And recordings are decoded for training: their cache is the one place that would use flock."""
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    (tmp_path / "m.csv").write_text("file,label\na.wav,x\n", encoding="utf-8")
    code = HIDE_POSIX + (
        "import framecls\n"
        "names = [m.name for m in pkgutil.walk_packages(framecls.__path__, 'framecls.') if '__main__' not in m.name]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "from pathlib import Path\n"
        "from framecls.training.data.clips import open_clips\n"
        "from framecls.training.data.manifest import read_manifest\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "store = open_clips(read_manifest(folder / 'm.csv'), 16000, folder / 'cache')\n"
        "print(len(names), store.n_samples(folder / 'a.wav'))\n"
    )
    answer = run_command(code=code)
    assert answer.status == 0, answer.err
    n_modules, n_samples = map(int, answer.out.split())
    assert n_modules > 100
    assert n_samples == 1600
