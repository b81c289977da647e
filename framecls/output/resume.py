"""What was done before: whether an input, the options and the model are those of an earlier run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from framecls._version import __version__
from framecls.checkpoints import registry
from framecls.cli.options import ClusterOptions, MachineOptions, MessageOptions, RunOptions

if TYPE_CHECKING:
    from framecls.audio import Input
    from framecls.config import ModelConfig
    from framecls.results import Identification, TagResult

# Options that change nothing in what is written of an input, or that the fingerprint holds in another form. An option
# that is not named here counts: a new one makes a run do too much again, never too little.
_BESIDE = {f.name for o in (MessageOptions, MachineOptions, ClusterOptions) for f in dataclasses.fields(o)} | {
    "inputs",
    "model",
    "format",
    "output",
    "errors",
    "resume",
}


@dataclass(frozen=True)
class InputState:
    """A recording as it was when the run began."""

    path: str  # absolute
    size_bytes: int
    mtime_ns: int
    ctime_ns: int  # a change that somebody hid by setting the other time back shows here
    inode: int


def observe(inputs: Sequence[Input]) -> dict[Path, InputState]:
    """Return the state of every input that is a regular file, by its `relative` path, which no two inputs share."""
    states: dict[Path, InputState] = {}
    for item in inputs:
        if item.path is None:
            continue
        try:
            status = os.stat(item.path)
        except OSError:  # it will fail when it is its turn
            continue
        if stat.S_ISREG(status.st_mode):
            path = os.path.abspath(item.path)
            states[item.relative] = InputState(
                path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            )
    return states


@dataclass(frozen=True)
class Run:
    """The inputs of a run, and what tells whether one of them was done before."""

    inputs: Sequence[Input]
    states: Mapping[Path, InputState] = field(default_factory=dict)
    resume: bool = False
    fingerprint: Callable[[], str] = str  # called only where it is needed: it reads the model file
    arguments: Sequence[str] = ()  # what was named: files, folders, and files of lists
    result: type[TagResult | Identification] | None = None  # what the command gives of an input

    @property
    def keeps_journal(self) -> bool:
        """Whether the run can be resumed: a single recording has nothing to go on from unless the user asks for it."""
        return self.resume or len(self.inputs) > 1


def take_fingerprint(options: RunOptions, format: str, model: Path, config: ModelConfig) -> str:
    """Return what stands for all that decides, besides the recording, what is written: options, model, version."""
    gallery = _digest_gallery(options) if config.embedding else ""
    models = [model, registry.locate(registry.GATE_MODEL)] if config.gate else [model]
    facts = {
        "version": __version__,
        "options": {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in _BESIDE},
        "format": format,
        "gallery": gallery,
        "models": [hashlib.sha256(path.read_bytes()).hexdigest() for path in models],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _digest_gallery(options: RunOptions) -> str:
    """Return what stands for all who are enrolled: with one more, the same voice may get another name.

    Raises:
        GalleryError: the gallery cannot be read.
    """
    from framecls.speakers.gallery import default_path, open_gallery  # numpy: only once the options are right

    digest = hashlib.sha256()
    with open_gallery(getattr(options, "gallery", None) or default_path()) as gallery:
        for clip in gallery.clips():
            digest.update(json.dumps([clip.name, clip.model]).encode())
            digest.update(clip.vector.tobytes())
    return digest.hexdigest()
