"""Load packages that only a part of framecls needs, and say in one line what to do where that fails."""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from framecls.errors import PackageError
from framecls.text import reason

# Raised by the import of a package that is damaged, or does not fit another package or the system.
_BROKEN = (ImportError, AttributeError, NameError, OSError, RuntimeError, SystemError, TypeError, ValueError)
# The machine has no memory left or too many open files; the package may be whole.
_EXHAUSTED = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}
# Releases that load side by side: every torchaudio is built for one release of torch, and 2.11 is its last.
_AUDIO_PAIR = ("torch==2.11.0", "torchaudio==2.11.0")


def install_command(*distributions: str) -> str:
    """Return the command that installs packages."""
    return f"pip install {' '.join(distributions)}"


def is_installed(module: str) -> bool:
    """Return whether a top-level module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def require(purpose: str, *modules: str) -> None:
    """Raise if packages are not installed, without importing them.

    Args:
        purpose: what needs them, as the beginning of a sentence.
        modules: top-level modules of packages that have the same name.

    Raises:
        PackageError: it names all that are missing.
    """
    missing = [name for name in modules if not is_installed(name)]
    if missing:
        raise PackageError(f"{purpose} needs {' and '.join(missing)}, not installed: {install_command(*missing)}")


def load(purpose: str, module: str, distribution: str = "") -> ModuleType:
    """Import a module of a package that may be missing or broken.

    Args:
        purpose: what needs it, as the beginning of a sentence.
        module: its full name.
        distribution: what pip calls the package; empty: as its top-level module.

    Raises:
        PackageError: the package is not installed, or it is and does not load.
    """
    package = module.partition(".")[0]
    distribution = distribution or package
    try:
        return importlib.import_module(module)
    except _BROKEN as error:
        _reraise_exhaustion(error)
        if _is_absent(error, package):
            raise PackageError(f"{purpose} needs {package}, not installed: {install_command(distribution)}") from error
        raise PackageError(
            f"{purpose} needs {package}, and {distribution} {_version(distribution)} is installed but does not load "
            f"({_reason(error)}): {install_command('--force-reinstall', distribution)}"
        ) from error


def load_torchaudio() -> ModuleType:
    """Import torchaudio with its models and pipelines; beside a torch that it was not built for it does not load.

    Raises:
        PackageError: it is not installed, or does not load beside the torch that is.
    """
    try:
        torchaudio = importlib.import_module("torchaudio")
        for name in ("models", "pipelines"):
            importlib.import_module(f"torchaudio.{name}")
    except _BROKEN as error:
        _reraise_exhaustion(error)
        purpose, torch = "a torchaudio encoder needs torchaudio", f"torch {_version('torch')}"
        advice = f"install both of one release, from one index: {install_command(*_AUDIO_PAIR)}"
        if _is_absent(error, "torchaudio"):
            raise PackageError(f"{purpose}, not installed beside {torch}: {advice}") from error
        raise PackageError(
            f"{purpose}, and torchaudio {_version('torchaudio')} does not load beside {torch} "
            f"({_reason(error)}): {advice}"
        ) from error
    return torchaudio


def _is_absent(error: BaseException, package: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == package


def _reraise_exhaustion(error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        raise error


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # it lies on the path without having been installed
        return "of unknown version"


def _reason(error: BaseException) -> str:
    """Return in one line what the innermost of chained exceptions says."""
    while error.__cause__ is not None:
        error = error.__cause__
    return reason(error)
