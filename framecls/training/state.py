"""The state of a run on disk, and the check that it is resumed with the same settings and data."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from framecls.checkpoints.file import find_system_fault
from framecls.config import to_dict
from framecls.errors import ModelError, OutputError
from framecls.replacing import replacing
from framecls.training.data.manifest import Recording
from framecls.training.job import Data, Job
from framecls.training.recipe import Recipe

_DAMAGED = "this state of a run is damaged: leave out --resume"
_MAX_NAMED = 5  # settings that differ, in one message


@dataclass(frozen=True)
class State:
    """The tensors and counters of a run between two steps."""

    tensors: dict[str, Tensor]
    step: int
    best: float  # dev score
    since_best: int  # dev measurements


@dataclass(frozen=True)
class Identity:
    """The settings and data that must not change when a run is resumed."""

    job: Job
    data: Data

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """Each of them by name; of files and recordings a digest."""
        facts = _settings(self.job.recipe)
        facts["labels"] = ", ".join(self.data.config.labels)
        facts["phones"] = ", ".join(self.data.config.phones)
        facts["--encoder"] = _hash(json.dumps(to_dict(self.data.config.features)).encode())
        for name, file in (("--init", self.job.init), ("--teacher", self.job.teacher)):
            facts[name] = _hash(file.read_bytes()) if file else ""
        sides = (("train", self.data.train), ("dev", self.data.dev), ("noise", self.data.noise))
        for name, side in sides:
            facts[f"{name} recordings"] = f"{len(side)} ({_hash(b''.join(map(self._line, side)))})"
        return facts

    def _line(self, recording: Recording) -> bytes:
        spans = [(span.label, span.start_s, span.end_s) for span in recording.spans]
        n_samples = self.data.store.n_samples(recording.file)
        more = (recording.phones, recording.alignment, recording.soft)
        line = f"{recording.name} {recording.speaker} {recording.source} {n_samples} {spans} {more}\n"
        return line.encode("utf-8", "surrogateescape")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _settings(recipe: Recipe) -> dict[str, str]:
    """Return settings as JSON by their dotted names, without the number of workers, which changes no batch."""

    def flatten(settings: Mapping[str, Any], where: str) -> dict[str, str]:
        flat: dict[str, str] = {}
        for key, value in settings.items():
            if isinstance(value, dict):
                flat |= flatten(value, f"{where}{key}.")
            else:
                flat[where + key] = json.dumps(value, ensure_ascii=False)
        return flat

    flat = flatten(to_dict(recipe), "")
    del flat["optim.workers"]
    return flat


def _describe(name: str, then: str | None, now: str | None) -> str:
    if name.endswith("recordings"):
        counts = [(text or "0").split()[0] for text in (then, now)]
        return f"other {name} ({counts[0]} then, {counts[1]} now)" if counts[0] != counts[1] else f"other {name}"
    if name in ("labels", "phones"):
        old, new = (text.split(", ") if text else [] for text in (then, now))
        parts = [("added", [x for x in new if x not in old]), ("gone", [x for x in old if x not in new])]
        return f"other {name} ({', '.join(f'{_first(some)} {word}' for word, some in parts if some)})"
    if name.startswith("--"):
        return f"{name} was {'not given' if not then else 'given'}" if not (then and now) else f"another {name}"
    return f"{name} was {then or 'not set'}, is {now or 'not set'}"


def _first(names: Sequence[str]) -> str:
    left = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {left} more" if left > 0 else "")


class StateFile:
    """The file of a run's state, beside the model."""

    def __init__(self, job: Job) -> None:
        self.path = job.folder / "state.safetensors"

    def write(self, state: State, identity: Identity) -> None:
        """Write a state atomically.

        Raises:
            OutputError: it cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        metadata = {
            "step": str(state.step),
            "best": repr(state.best),
            "since_best": str(state.since_best),
            "facts": json.dumps(identity.facts),
        }
        try:
            with replacing(self.path) as temporary:
                save_file({k: v.cpu().contiguous() for k, v in state.tensors.items()}, temporary, metadata)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # before it replaces the old state, in case of a power failure
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise OutputError(
                f"{self.path.parent}: the state of the run cannot be saved: {why}; make room there, then --resume"
            ) from error

    def read(self, identity: Identity, device: str) -> State | None:
        """Return the saved state, None if there is none.

        Raises:
            ModelError: it is of other settings or data, is damaged, or cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        try:
            os.stat(self.path)
            with safe_open(self.path, "pt", device=device) as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, FileNotFoundError) and error.errno:  # safetensors raises it without errno, too
                return None
            if fault := find_system_fault(self.path, error):
                raise ModelError(
                    f"{self.path}: the state of the run cannot be read: {fault}; it was left as it is: mend that, and "
                    "--resume again"
                ) from error
            if isinstance(error, SafetensorError):
                raise ModelError(f"{self.path}: {_DAMAGED}") from error
            raise
        try:
            if mismatch := explain_mismatch(json.loads(metadata["facts"]), identity.facts):
                raise ModelError(f"{self.path}: {mismatch}")
            return State(tensors, int(metadata["step"]), float(metadata["best"]), int(metadata["since_best"]))
        except (KeyError, ValueError) as error:
            raise ModelError(f"{self.path}: {_DAMAGED}") from error


def explain_mismatch(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return why a state cannot be resumed, and what can be done; empty if it can be.

    A setting that the state does not name came with a later version of framecls, and had its default.
    """
    then = {**_settings(Recipe("", "frame")), **then}
    names = [name for name in dict.fromkeys((*now, *then)) if then.get(name) != now.get(name)]
    if not names:
        return ""
    more = f"; and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    what = "; ".join(_describe(name, then.get(name), now.get(name)) for name in names[:_MAX_NAMED]) + more
    way_out = "without --resume it begins anew, and another -o keeps the model that is there"
    if names == ["optim.steps"]:
        way_out += "; --init goes on from a finished model's weights"
    return f"this run was begun otherwise: {what}; {way_out}"
