"""The models that ship inside the package, by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from framecls.checkpoints.file import read_config
from framecls.errors import ModelError, UsageError

_FOLDER = Path(__file__).parents[1] / "weights"
_SUFFIX = ".safetensors"
# The shipped model that tells others which windows to listen to.
GATE_MODEL = "sound"
# The shipped model that tells where several voices speak at once.
OVERLAP_MODEL = "overlap"
# Parts of other models, which load by name like any, and are offered nowhere.
_INTERNAL = frozenset({OVERLAP_MODEL})


def names() -> list[str]:
    """Return the names of the shipped models that have an answer for people."""
    return sorted({path.stem for path in _FOLDER.glob(f"*{_SUFFIX}")} - _INTERNAL)


def locate(model: str | Path) -> Path:
    """Return the file of a model given by name, or by path if it has a folder or the suffix `.safetensors` in it.

    Raises:
        UsageError: no shipped model has that name.
        ModelError: there is no file at that path.
    """
    text = str(model)
    if text in names() or text in _INTERNAL:
        return _FOLDER / f"{text}{_SUFFIX}"
    path = Path(model)
    try:
        if path.is_file():
            return path
    except OSError as error:  # a name that is too long, a loop of links
        raise ModelError(f"{text}: cannot be read: {error.strerror}") from error
    if path.suffix == _SUFFIX or len(path.parts) > 1:
        raise ModelError(f"{text}: there is no such model file")
    raise UsageError(f"no model is called {text!r}: choose {', '.join(names())}, or give the path of a model file")


def digest_model(model: str | Path) -> str:
    """Return a digest of all that a model, given as for `locate`, computes with: its file, and those it listens with.

    Raises:
        FrameclsError: there is no such model.
    """
    path = locate(model)
    config, paths = read_config(path), [path]
    if config.gate:
        paths += [locate(name) for name in (GATE_MODEL, OVERLAP_MODEL)[: 2 if config.embedding else 1]]
    return "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
