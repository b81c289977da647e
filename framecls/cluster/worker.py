"""What runs in each process of a cluster: a model, fed with one recording after another."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import queue
import threading
import traceback
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from framecls import errors
from framecls._version import __version__
from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.config import DecisionConfig
from framecls.errors import ClusterError, FrameclsError
from framecls.results import Identification, TagResult

if TYPE_CHECKING:
    from framecls.inference.engine import QueuedSources
    from framecls.model import Model

Answer: TypeAlias = TagResult | Identification

# Recordings at a worker, for each window of a batch: short ones fill the batch under way and the next. More than a
# process decodes at once gains nothing.
_ROOM = 8
_MAX_ROOM = 1024


@dataclass(frozen=True)
class Setup:
    """What a worker is to load."""

    version: str  # of framecls
    model: str  # a shipped model's name, or an absolute path
    digest: str  # of the model, see `digest_model`
    device: str  # "cpu" or "cuda"
    threads: int
    batch_size: int | None


@dataclass(frozen=True)
class Work:
    """What is to be done with each recording of a run."""

    method: str  # of Model: tag_many, say
    decision: DecisionConfig
    options: dict[str, Any]  # of the method


@dataclass(frozen=True)
class Started:
    """What a worker says of itself."""

    machine: str
    device: str
    room: int  # recordings that it should have at once


@dataclass(frozen=True)
class Failure:
    """An exception on its way to another process, where not every exception arrives in one piece."""

    kind: str
    message: str
    trace: str
    machine: str
    unseen: bool = False  # there is no such file on that machine

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


def digest_model(model: str) -> str:
    """Return what stands for all that a model of that name or path computes with.

    Raises:
        FrameclsError: there is no such model.
    """
    path = registry.locate(model)
    paths = [path, registry.locate(registry.GATE_MODEL)] if read_config(path).gate else [path]
    return "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


class Worker:
    """One process with one model; Ray makes an actor of it.

    Its methods are coroutines, so that many recordings can be under way at once: they share decoders and batches.
    """

    def __init__(self) -> None:
        self._model: Model | None = None
        self._feed: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._tickets: deque[tuple[int, asyncio.Future[Answer | Failure]]] = deque()  # under way, in order
        self._heard_s = 0.0  # of the first of them
        self._broken: Failure | None = None

    async def start(self, setup: Setup) -> Started | Failure:
        """Load the model."""
        try:
            self._model = _load(setup)
        except Exception as error:
            return Failure.of(error)
        return Started(platform.node(), self._model.device, min(_ROOM * self._model.batch_size, _MAX_ROOM))

    async def identify_model(self) -> str:
        """Return what tells this model's vectors from those of any other."""
        assert self._model is not None
        return self._model.identity

    async def begin(self, work: Work) -> Failure | None:
        """Make ready for the recordings of a run; those of an earlier one are all answered."""
        assert self._model is not None
        self._feed.put(None)
        self._feed, self._tickets, self._broken = queue.SimpleQueue(), deque(), None
        rules = work.decision
        try:
            model = self._model.with_decision(
                thresholds=rules.thresholds, min_duration_s=rules.min_duration_s, min_gap_s=rules.min_gap_s
            )
            results = getattr(model, work.method)(_make_feed(self._feed), progress=self._hear, **work.options)
        except Exception as error:
            return Failure.of(error)
        facts = (results, self._tickets, asyncio.get_running_loop())
        threading.Thread(target=self._answer_all, args=facts, name="framecls-answer", daemon=True).start()
        return None

    async def answer(self, number: int, path: str, name: str) -> tuple[Failure | None, Answer | None]:
        """Classify a recording.

        Args:
            number: what tells it from the others.
            path: where it is.
            name: what it is called in the result.
        """
        ticket: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()
        if self._broken is not None:
            return self._broken, None
        self._tickets.append((number, ticket))
        self._feed.put(Path(path))
        outcome = await ticket
        if isinstance(outcome, Failure):
            return replace(outcome, unseen=not os.path.lexists(path)), None
        return None, replace(outcome, file=name)

    async def heard(self) -> tuple[int, float]:
        """Return the number of the recording that is next to be done, and how many of its seconds are; or -1."""
        return (self._tickets[0][0], self._heard_s) if self._tickets else (-1, 0.0)

    def _hear(self, seconds: float) -> None:
        self._heard_s = seconds

    def _answer_all(
        self,
        results: Iterable[Answer | Exception],
        tickets: deque[tuple[int, asyncio.Future[Answer | Failure]]],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Hand results out to whoever waits for them, in a thread of its own."""

        def settle(outcome: Answer | Failure) -> None:
            _, ticket = tickets.popleft()
            self._heard_s = 0.0
            ticket.set_result(outcome)

        def give_up(failure: Failure) -> None:
            self._broken = failure
            while tickets:
                settle(failure)

        try:
            for result in results:
                outcome = Failure.of(result) if isinstance(result, Exception) else result
                loop.call_soon_threadsafe(settle, outcome)
        except BaseException as error:
            loop.call_soon_threadsafe(give_up, Failure.of(error))


def _make_feed(paths: queue.SimpleQueue[Path | None]) -> QueuedSources:
    from framecls.inference.engine import QueuedSources

    return QueuedSources(iter(paths.get, None))


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

    return load(setup.model, device=setup.device, threads=setup.threads, batch_size=setup.batch_size)
