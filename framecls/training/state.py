"""The state of a run on disk, and the check that it is resumed with the same settings and data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from framecls.checkpoints.file import find_system_fault
from framecls.config import to_dict
from framecls.errors import ModelError, OutputError
from framecls.training.data.manifest import Recording
from framecls.training.job import Data, Job
from framecls.training.recipe import OptimConfig

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
    def fingerprint(self) -> str:
        """A digest of settings and data.

        Settings at their defaults are left out, so that a setting added in a later version does not keep an older run
        from being resumed.
        """
        # The number of workers does not change the batches.
        optim = replace(self.job.recipe.optim, workers=OptimConfig.workers)
        recipe = replace(self.job.recipe, optim=optim)
        parts = [changed_settings(recipe), changed_settings(self.data.config), self._input_digest()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _input_digest(self) -> str:
        digest = hashlib.sha256()
        for file in (self.job.init, self.job.teacher):
            digest.update(hashlib.sha256(file.read_bytes()).digest() if file else b"--")
        for side in (self.data.train, self.data.dev, self.data.noise):
            for line in self._lines(side):
                digest.update(line)
            digest.update(b"--\n")
        return digest.hexdigest()

    def _lines(self, side: Sequence[Recording]) -> list[bytes]:
        lines = []
        for recording in side:
            spans = [(span.label, span.start_s, span.end_s) for span in recording.spans]
            n_samples = self.data.store.n_samples(recording.file)
            more = (recording.phones, recording.alignment, recording.soft)
            line = f"{recording.name} {recording.speaker} {recording.source} {n_samples} {spans} {more}\n"
            lines.append(line.encode("utf-8", "surrogateescape"))
        return lines

    def facts(self) -> dict[str, str]:
        """Return the parts of the fingerprint by name, for a message that says which differ."""
        settings = _flatten(to_dict(self.job.recipe))
        del settings["optim.workers"]
        facts = {name: json.dumps(value, ensure_ascii=False) for name, value in settings.items()}
        facts["labels"] = ", ".join(self.data.config.labels)
        facts["phones"] = ", ".join(self.data.config.phones)
        for name, file in (("--init", self.job.init), ("--teacher", self.job.teacher)):
            facts[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:8] if file else ""
        sides = (("train", self.data.train), ("dev", self.data.dev), ("noise", self.data.noise))
        for name, side in sides:
            digest = hashlib.sha256(b"".join(self._lines(side))).hexdigest()[:8]
            facts[f"{name} recordings"] = f"{len(side)} ({digest})"
        return facts


def _flatten(settings: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return settings by their dotted names, as in --set."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat


def changed_settings(config: Any) -> dict[str, Any]:
    """Return the settings of a dataclass, and of dataclasses in it, that are not at their defaults."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            inner = changed_settings(value)
            if inner:
                changed[field.name] = inner
            continue
        default = field.default_factory() if callable(field.default_factory) else field.default
        if value != default:
            changed[field.name] = value
    return changed


def describe_differences(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Describe what differs between the facts of two runs; empty if nothing does."""
    names = [name for name in dict.fromkeys((*now, *then)) if then.get(name) != now.get(name)]
    more = f"; and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return "; ".join(_describe(name, then.get(name), now.get(name)) for name in names[:_MAX_NAMED]) + more


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
            "fingerprint": identity.fingerprint,
            "facts": json.dumps(identity.facts()),
        }
        temporary = self.path.with_suffix(".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file({k: v.cpu().contiguous() for k, v in state.tensors.items()}, temporary, metadata)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # before it replaces the old state, in case of a power failure
            os.replace(temporary, self.path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
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
            if metadata.get("fingerprint") != identity.fingerprint:
                raise ModelError(
                    f"{self.path}: {explain_mismatch(json.loads(metadata.get('facts', '{}')), identity.facts())}"
                )
            return State(tensors, int(metadata["step"]), float(metadata["best"]), int(metadata["since_best"]))
        except (KeyError, ValueError) as error:
            raise ModelError(f"{self.path}: {_DAMAGED}") from error


def explain_mismatch(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return why a state cannot be resumed, and what can be done."""
    way_out = "without --resume it begins anew, and another -o keeps the model that is there"
    # States of older versions do not hold the facts.
    what = describe_differences(then, now) if then else "another recipe, other labels or other recordings"
    if then and {name for name in {*then, *now} if then.get(name) != now.get(name)} == {"optim.steps"}:
        way_out += "; --init goes on from a finished model's weights"
    return f"this run was begun otherwise: {what}; {way_out}"
