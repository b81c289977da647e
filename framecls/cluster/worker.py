"""What runs in each process of a cluster: a model that is given recordings in batches."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from framecls import errors
from framecls._version import __version__
from framecls.checkpoints.registry import digest_model
from framecls.config import DecisionConfig
from framecls.errors import ClusterError, FrameclsError
from framecls.results import Identification, StringResult, TagResult

if TYPE_CHECKING:
    from framecls.model import Model

Answer: TypeAlias = TagResult | Identification | StringResult

# Recordings that a worker is given at once, for each window of a batch: short ones fill several batches, and what is
# decoded ahead is not much more.
_ROOM = 8
_MAX_ROOM = 1024


@dataclass(frozen=True)
class Setup:
    """What a worker loads."""

    version: str  # of framecls
    model: str  # a shipped model's name, or an absolute path
    digest: str  # of the model, see `digest_model`
    device: str  # "cpu" or "cuda"
    threads: int
    batch_size: int | None
    precision: str


@dataclass(frozen=True)
class Work:
    """What is done with each recording of a run."""

    method: str  # of Model: tag_many, say
    decision: DecisionConfig
    options: dict[str, Any]  # of the method


@dataclass(frozen=True)
class Started:
    """What a worker says of itself."""

    machine: str
    room: int  # recordings to give it at once
    identity: str  # of its model, if that makes vectors: what tells them from those of any other


@dataclass(frozen=True)
class Failure:
    """An exception on its way to another process: not every exception can be pickled."""

    kind: str
    message: str
    trace: str
    machine: str
    is_missing: bool = False  # there is no such file on that machine
    is_refusal: bool = False  # of the whole run, not of one recording

    @staticmethod
    def of(error: BaseException) -> Failure:
        """Pack an exception."""
        trace = "".join(traceback.format_exception(error)).rstrip()
        return Failure(type(error).__name__, str(error), trace, platform.node())

    def to_error(self) -> Exception:
        """Return an exception of the same kind and message; its traceback is a note on it."""
        known: Any = MemoryError if self.kind == "MemoryError" else getattr(errors, self.kind, None)
        is_known = isinstance(known, type) and issubclass(known, FrameclsError | MemoryError)
        kind: type[Exception] = known if is_known else type(self.kind, (Exception,), {})
        error = kind(self.message)
        error.add_note(f"On {self.machine}:\n{self.trace}")
        return error


class Worker:
    """One process with one model; Ray makes an actor of it."""

    def __init__(self) -> None:
        self._model: Model | None = None
        self._progress = ("", 0.0)  # the path under way, and how many seconds of it are done

    def start(self, setup: Setup) -> Started | Failure:
        """Load the model."""
        try:
            self._model = _load(setup)
        except Exception as error:
            return Failure.of(error)
        room = min(_ROOM * self._model.batch_size, _MAX_ROOM)
        return Started(platform.node(), room, self._model.identity if self._model.config.embedding else "")

    def answer(self, work: Work, recordings: Sequence[tuple[str, str]]) -> Iterator[Failure | Answer]:
        """Yield for each recording, in order, its result or why there is none.

        Args:
            work: what is done with them.
            recordings: each a path, and what it is called in the result.
        """
        assert self._model is not None
        try:
            model = self._model.with_decision(work.decision)
            paths = [Path(path) for path, _ in recordings]
            results = iter(getattr(model, work.method)(paths, progress=self._note_progress, **work.options))
        except Exception as error:
            yield replace(Failure.of(error), is_refusal=True)
            return
        broken: Exception | None = None
        for path, name in recordings:
            self._progress = (path, 0.0)
            try:
                result = next(results) if broken is None else broken
            except Exception as error:
                result = broken = error
            if isinstance(result, Exception):
                yield replace(Failure.of(result), is_missing=not os.path.lexists(path))
            else:
                yield replace(result, file=name)

    def get_progress(self) -> tuple[str, float]:
        """Return the path of the recording under way, and how many seconds of it are done."""
        return self._progress

    def _note_progress(self, seconds: float) -> None:
        self._progress = (self._progress[0], seconds)


def _load(setup: Setup) -> Model:
    """Load the model that the run began with, and no other.

    Raises:
        ClusterError: this machine has another version of framecls or of the model.
        FrameclsError: the model or the device cannot be used.
    """
    if setup.version != __version__:
        raise ClusterError(f"framecls is {__version__} there and {setup.version} here: install the same on all")
    if digest_model(setup.model) != setup.digest:
        raise ClusterError(f"the model {setup.model} is another one there: install the same framecls, copy the file")
    from framecls.model import load

    return load(
        setup.model,
        device=setup.device,
        threads=setup.threads,
        batch_size=setup.batch_size,
        precision=setup.precision,
    )
