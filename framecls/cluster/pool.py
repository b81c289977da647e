"""The workers of a cluster: recordings go out to them in bounded numbers, results come back in order."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from framecls.cluster.plan import WorkerPlan
from framecls.cluster.worker import Answer, Failure, Setup, Started, Work, Worker
from framecls.errors import AudioError, ClusterError, UsageError
from framecls.text import shorten

_log = logging.getLogger(__name__)

# How long there may be no worker at all: a cluster may have to start machines first, or finish other work.
_START_S = 300.0
_QUIET_S = 30.0  # after which that is said
_POLL_S = 1.0  # how often the progress of the recording that all wait for is asked for
# So many deaths for each worker without a result in between are not the fault of a recording, which costs two.
_MAX_DEATHS = 10
# Recordings that may be done or under way while an earlier one is not, as a multiple of what all workers hold at once.
_AHEAD = 8
_BYTES_EACH = 1 << 20  # a worker is given fewer recordings if they are larger than this on average


@dataclass(eq=False)
class _Task:
    """A recording on its way."""

    name: str  # as it was given
    path: str = ""  # absolute
    n_bytes: int = 0
    n_deaths: int = 0  # workers that died while they had it
    outcome: Answer | Exception | None = None


@dataclass(eq=False)
class _Handle:
    """A worker, seen from here."""

    actor: Any
    awaited: Any  # what becomes ready next: a reference to what its start gives, then a stream of outcomes; or None
    started: Started | None = None
    tasks: deque[_Task] = field(default_factory=deque)  # not answered yet, in order

    @property
    def room(self) -> int:
        """Recordings to give it at once."""
        return self.started.room if self.started else 0


class WorkerPool:
    """As many workers as a run wants; one that dies is replaced.

    Ray's own restarts and retries are not used: a retry would give all that a dead worker had to the next one at once,
    together with the recording that killed it, and a call to an actor that restarts fails unless it is retried.
    ActorPool does not say which of its calls failed.

    Args:
        ray: the module, connected.
        plan: how many workers, and what each needs.
        setup: what each loads.
    """

    def __init__(self, ray: Any, plan: WorkerPlan, setup: Setup) -> None:
        self.plan = plan
        self.workers: list[_Handle] = []
        self._ray = ray
        self._setup = setup
        self._n_deaths = 0  # since the last result
        self._idle_since = time.monotonic()  # no worker is ready
        self._has_warned = False
        # One thread answers, another one tells how far it is.
        needs = {"num_cpus": plan.n_cpus, "num_gpus": plan.n_gpus, "max_restarts": 0, "max_concurrency": 2}
        self._actor_class = ray.remote(Worker).options(**needs)
        self._pending: deque[_Task] = deque()  # of this run, taken from the sources and not yielded yet, in order
        self._requeued: deque[_Task] = deque()  # of those, what was at workers that died
        self._sources: Iterator[_Task]  # those not taken yet

    @property
    def ready(self) -> list[_Handle]:
        """Those that have loaded their model."""
        return [worker for worker in self.workers if worker.started is not None]

    @property
    def identity(self) -> str:
        """What tells the vectors of this model from those of any other."""
        return next(worker.started.identity for worker in self.workers if worker.started)

    def open(self) -> None:
        """Start the workers, and wait until one of them is ready.

        Raises:
            ClusterError: none starts.
        """
        self._idle_since = time.monotonic()
        self._start()
        while not self.ready:
            self._wait()

    def stop(self, workers: Iterable[_Handle]) -> None:
        """End workers at once."""
        for worker in list(workers):
            self.workers.remove(worker)
            if not self._ray.is_initialized():
                continue  # they ended with their Ray, and ray.kill would start another one first
            with contextlib.suppress(Exception):  # it may be gone, and so may be the cluster
                self._ray.kill(worker.actor)

    def run(
        self, work: Work, sources: Iterable[object], progress: Callable[[float], None] | None = None
    ) -> Generator[Answer | Exception, None, None]:
        """Yield what becomes of each of many paths, in order."""
        self._start()
        self._work, self._sources, self._is_exhausted = work, map(_make_task, sources), False
        self._pending, self._requeued = deque(), deque()
        asked_s = time.monotonic()
        try:
            while True:
                self._give_out()
                if not self._pending and self._is_exhausted:
                    return
                if self._pending and (outcome := self._pending[0].outcome) is not None:
                    self._pending.popleft()
                    yield outcome
                    continue
                self._wait()
                if progress is not None and time.monotonic() - asked_s >= _POLL_S:
                    asked_s = time.monotonic()
                    self._report(progress)
        finally:
            # What nobody waits for any more must not go on.
            self.stop(worker for worker in self.workers if worker.tasks)

    def _start(self) -> None:
        """Bring the workers to their number; new ones load their models meanwhile."""
        while len(self.workers) < self.plan.n_workers:
            actor = self._actor_class.remote()
            self.workers.append(_Handle(actor, actor.start.remote(self._setup)))

    def _give_out(self) -> None:
        """Give recordings to the workers that have none."""
        idle = [worker for worker in self.ready if not worker.tasks]
        while idle and self._requeued:
            # Alone: one of those that a dying worker had has perhaps killed it, and the others have not.
            self._give(idle.pop(), [self._requeued.popleft()])
        most = _AHEAD * sum(worker.room for worker in self.ready)
        room = sum(worker.room for worker in idle)
        batch = self._take(min(room, most - len(self._pending)), 2 * len(idle))
        share = -(-len(batch) // max(1, len(idle)))
        for number, worker in enumerate(idle):
            if part := batch[number * share : (number + 1) * share]:
                self._give(worker, part)

    def _take(self, room: int, least: int) -> list[_Task]:
        """Take as many recordings as there is room for, and fewer large ones, but at least a few."""
        batch: list[_Task] = []
        n_bytes = 0
        while len(batch) < room and not self._is_exhausted and (len(batch) < least or n_bytes < room * _BYTES_EACH):
            task = next(self._sources, None)
            if task is None:
                self._is_exhausted = True
                break
            self._pending.append(task)
            if task.outcome is None:
                batch.append(task)
                n_bytes += task.n_bytes
        return batch

    def _give(self, worker: _Handle, batch: list[_Task]) -> None:
        worker.tasks = deque(batch)
        recordings = [(task.path, task.name) for task in batch]
        worker.awaited = worker.actor.answer.options(num_returns="streaming").remote(self._work, recordings)

    def _wait(self) -> None:
        """Wait until some workers have something to say, or for a while, and take it.

        Raises:
            ClusterError: no worker is there for too long, or one cannot work.
            FrameclsError: what is asked for cannot be done with any recording.
        """
        waited = {worker.awaited: worker for worker in self.workers if worker.awaited is not None}
        if not waited:
            return
        ready, _ = self._ray.wait(list(waited), num_returns=len(waited), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(list(waited), num_returns=1, timeout=_POLL_S)
        for worker in map(waited.__getitem__, ready):
            try:
                if worker.started is None:
                    self._finish_start(worker)
                else:
                    self._receive(worker)
            except (self._ray.exceptions.RayError, StopIteration) as error:
                if worker.tasks and isinstance(error, self._ray.exceptions.RayTaskError):
                    worker.tasks[0].outcome = error  # not of the recording, but of what came around it
                    self._requeue(worker)
                    continue
                for task in worker.tasks:
                    task.n_deaths += 1
                self._requeue(worker)
                self._replace(worker, error)
        if not self.ready:
            self._check_patience(time.monotonic() - self._idle_since)

    def _finish_start(self, worker: _Handle) -> None:
        started = self._ray.get(worker.awaited)
        if isinstance(started, Failure):
            raise ClusterError(f"a worker on {started.machine} cannot start: {started.message}") from started.to_error()
        worker.started, worker.awaited = started, None

    def _receive(self, worker: _Handle) -> None:
        """Take the next outcome of a worker.

        Raises:
            FrameclsError: what is asked for cannot be done with any recording.
            RayError: the worker died.
            StopIteration: it ends without an outcome for each recording.
        """
        outcome: Failure | Answer = self._ray.get(next(worker.awaited))
        if isinstance(outcome, Failure) and outcome.is_refusal:
            worker.tasks.clear()
            worker.awaited = None
            raise outcome.to_error()
        task = worker.tasks.popleft()
        task.outcome = _to_error(outcome, task) if isinstance(outcome, Failure) else outcome
        if not worker.tasks:
            worker.awaited = None
        self._n_deaths = 0  # those before were not in a row

    def _requeue(self, worker: _Handle) -> None:
        """Requeue a worker's recordings; what was at two dead workers has failed."""
        for task in worker.tasks:
            if task.n_deaths > 1:
                task.outcome = ClusterError("its worker died, and so did another: is it too large for their memory?")
        lost = {task for task in worker.tasks if task.outcome is None}
        worker.tasks.clear()
        worker.awaited = None
        if lost:
            _log.warning("a worker died; what it was doing is tried again: %d recordings", len(lost))
            lost.update(self._requeued)
            self._requeued = deque(task for task in self._pending if task in lost)

    def _replace(self, worker: _Handle, error: Exception) -> None:
        """Start another worker in place of one that died.

        Raises:
            ClusterError: they all die.
        """
        self.stop([worker])
        self._n_deaths += 1
        machine = worker.started.machine if worker.started else "its machine"
        reason = _explain(error)
        _log.info("a worker on %s died: %s", machine, reason)
        if "failed to import on the worker" in str(error):
            raise ClusterError(
                f"framecls does not run on the machines of the cluster ({reason}): install the same there"
            )
        if self._n_deaths >= _MAX_DEATHS * self.plan.n_workers:
            raise ClusterError(f"the workers die, {self._n_deaths} in a row now; the last one: {reason}")
        if not self.ready:
            self._idle_since = time.monotonic()
        self._start()

    def _check_patience(self, idle_s: float) -> None:
        needs = f"{self.plan.n_cpus} CPU{'s' if self.plan.n_cpus > 1 else ''}"
        needs += f" and {self.plan.n_gpus} GPU" if self.plan.n_gpus else ""
        if idle_s > _START_S:
            raise ClusterError(f"no worker has started in {_START_S:.0f} s; each needs {needs} free: see ray status")
        if idle_s > _QUIET_S and not self._has_warned:
            self._has_warned = True
            _log.warning("still waiting for Ray to start a worker, which needs %s", needs)

    def _report(self, progress: Callable[[float], None]) -> None:
        """Tell how far the recording is that comes next."""
        for worker in self.ready:
            if self._pending and worker.tasks and worker.tasks[0] is self._pending[0]:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    path, seconds = self._ray.get(worker.actor.get_progress.remote(), timeout=_POLL_S)
                    if path == worker.tasks[0].path:
                        progress(seconds)


def _explain(error: Exception) -> str:
    """Return the last line of a message of Ray, which is the cause; before it come traces, in colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return shorten(lines[-1]) if lines else type(error).__name__


def _make_task(source: object) -> _Task:
    if not isinstance(source, str | os.PathLike):
        return _Task("", outcome=UsageError("a cluster reads files by their paths, and nothing else"))
    # Not tidied: `..` behind a link leads elsewhere than it looks.
    name = os.fsdecode(source)
    task = _Task(name, os.path.join(os.getcwd(), name))
    with contextlib.suppress(OSError, ValueError):
        task.n_bytes = os.stat(task.path).st_size
    return task


def _to_error(failure: Failure, task: _Task) -> Exception:
    if failure.is_missing and os.path.lexists(task.path):
        return AudioError(
            f"the machine {failure.machine} does not see it: it must be where all machines find it by this path"
        )
    return failure.to_error()
