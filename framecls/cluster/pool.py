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

from framecls.cluster.plan import Plan
from framecls.cluster.worker import Answer, Failure, Setup, Started, Work, Worker
from framecls.errors import AudioError, ClusterError, UsageError

_log = logging.getLogger(__name__)

# How long there may be no worker at all: a cluster may have to start machines first, or finish other work.
_START_S = 300.0
_QUIET_S = 30.0  # after which that is said
_POLL_S = 1.0  # how often the progress of the recording that all wait for is asked for
# So many deaths for each worker without a result in between are not the fault of a recording, which costs two.
_MAX_DEATHS = 10
# Recordings that may be done or under way while an earlier one is not, as a multiple of what all workers hold at once.
# Ray keeps large results, on disk if need be.
_AHEAD = 8
_BYTES_EACH = 1 << 20  # a worker is given fewer recordings if they are larger than this on average
_MAX_REASON = 200  # characters


@dataclass(eq=False)
class _Task:
    """A recording on its way; `is_done` once its result is known, or why there is none."""

    name: str  # as it was given
    path: str = ""  # absolute
    n_bytes: int = 0
    n_deaths: int = 0  # workers that died while they had it
    result: Any = None  # a reference of Ray
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None


@dataclass(eq=False)
class _Handle:
    """A worker, seen from here."""

    actor: Any
    starting: Any  # a reference to what its start gives
    started: Started | None = None
    tasks: deque[_Task] = field(default_factory=deque)  # not answered yet, in order
    n_given: int = 0  # tasks, answered ones included
    outputs: Any = None  # generator of references: a verdict and a result for each task

    @property
    def awaited(self) -> Any:
        """What becomes ready next, or None."""
        return self.outputs if self.started is not None else self.starting


class WorkerPool:
    """As many workers as a run wants; one that dies is replaced.

    Ray's own restarts and retries are not used: they count over the life of an actor, and would give all that a dead
    worker had to the next one at once, together with the recording that killed it.

    Args:
        ray: the module, connected.
        plan: how many workers, and what each needs.
        setup: what each loads.
    """

    def __init__(self, ray: Any, plan: Plan, setup: Setup) -> None:
        self.ray = ray
        self.plan = plan
        self._setup = setup
        self._n_deaths = 0  # since the last result
        self._idle_since = time.monotonic()  # no worker is ready
        self._has_warned = False
        # One thread answers, another one tells how far it is.
        needs = {"num_cpus": plan.n_cpus, "num_gpus": plan.n_gpus, "max_restarts": 0, "max_concurrency": 2}
        self._actor_class = ray.remote(Worker).options(**needs)
        self.workers: list[_Handle] = []

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
        self.start()
        while not self.ready:
            self.wait()

    def start(self) -> None:
        """Bring the workers to their number; new ones load their models meanwhile."""
        while len(self.workers) < self.plan.n_workers:
            actor = self._actor_class.remote()
            self.workers.append(_Handle(actor, actor.start.remote(self._setup)))

    def stop(self, workers: Iterable[_Handle]) -> None:
        """End workers at once."""
        for worker in list(workers):
            self.workers.remove(worker)
            if not self.ray.is_initialized():
                continue  # they ended with their Ray, and ray.kill would start another one first
            with contextlib.suppress(Exception):  # it may be gone, and so may be the cluster
                self.ray.kill(worker.actor)

    def replace(self, worker: _Handle, error: Exception) -> None:
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
        self.start()

    def note_result(self) -> None:
        """Note that a worker has answered: the deaths before were not in a row."""
        self._n_deaths = 0

    def wait(self) -> list[_Handle]:
        """Return the workers that have an output ready, once there are any or a while is over.

        Raises:
            ClusterError: no worker is there for too long, or one cannot work.
        """
        waited = {worker.awaited: worker for worker in self.workers if worker.awaited is not None}
        if not waited:
            return []
        ready, _ = self.ray.wait(list(waited), num_returns=len(waited), timeout=0)
        if not ready:
            ready, _ = self.ray.wait(list(waited), num_returns=1, timeout=_POLL_S)
        answering = []
        for reference in ready:
            worker = waited[reference]
            if worker.started is None:
                self._finish_start(worker)
            else:
                answering.append(worker)
        if not self.ready:
            self._check_patience(time.monotonic() - self._idle_since)
        return answering

    def _finish_start(self, worker: _Handle) -> None:
        try:
            started = self.ray.get(worker.starting)
        except self.ray.exceptions.RayError as error:
            self.replace(worker, error)
            return
        if isinstance(started, Failure):
            raise ClusterError(f"a worker on {started.machine} cannot start: {started.message}") from started.to_error()
        worker.started = started

    def _check_patience(self, idle_s: float) -> None:
        needs = f"{self.plan.n_cpus} CPU{'s' if self.plan.n_cpus > 1 else ''}"
        needs += f" and {self.plan.n_gpus} GPU" if self.plan.n_gpus else ""
        if idle_s > _START_S:
            raise ClusterError(f"no worker has started in {_START_S:.0f} s; each needs {needs} free: see ray status")
        if idle_s > _QUIET_S and not self._has_warned:
            self._has_warned = True
            _log.warning("still waiting for Ray to start a worker, which needs %s", needs)

    def run(
        self, work: Work, sources: Iterable[object], progress: Callable[[float], None] | None = None
    ) -> Generator[Answer | Exception, None, None]:
        """Yield what becomes of each of many paths, in order."""
        self.start()
        run = _Run(self, work, sources, progress)
        try:
            yield from run.outcomes()
        finally:
            # What nobody waits for any more must not go on.
            self.stop(worker for worker in self.workers if worker.tasks)


def _explain(error: Exception) -> str:
    """Return the last line of a message of Ray, which is the cause; before it come traces, in colours."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]} …"


class _Run:
    """The recordings of one run, and where they are."""

    def __init__(
        self, pool: WorkerPool, work: Work, sources: Iterable[object], progress: Callable[[float], None] | None
    ) -> None:
        self._pool = pool
        self._ray = pool.ray
        self._work = work
        self._tasks: Iterator[_Task] = map(_make_task, sources)
        self._is_exhausted = False
        self._progress = progress
        self._asked_s = time.monotonic()
        self._pending: deque[_Task] = deque()  # taken from the sources and not yielded yet, in order
        self._requeued: deque[_Task] = deque()  # of those, what was at workers that died

    def outcomes(self) -> Generator[Answer | Exception, None, None]:
        """Yield results and errors in order."""
        while True:
            self._give_out()
            if self._pending and self._pending[0].is_done:
                outcome = self._collect(self._pending[0])
                if outcome is not None:
                    self._pending.popleft()
                    yield outcome
            elif self._pending or not self._is_exhausted:
                self._wait()
            else:
                return

    def _give_out(self) -> None:
        """Give recordings to the workers that have none."""
        ready = self._pool.ready
        idle = [worker for worker in ready if not worker.tasks]
        while idle and self._requeued:
            # Alone: one of those that a dying worker had has perhaps killed it, and the others have not.
            self._give(idle.pop(), [self._requeued.popleft()])
        most = _AHEAD * sum(worker.started.room for worker in ready if worker.started)
        room = sum(worker.started.room for worker in idle if worker.started)
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
            task = next(self._tasks, None)
            if task is None:
                self._is_exhausted = True
                break
            self._pending.append(task)
            if task.error is None:
                batch.append(task)
                n_bytes += task.n_bytes
        return batch

    def _give(self, worker: _Handle, batch: list[_Task]) -> None:
        worker.tasks, worker.n_given = deque(batch), len(batch)
        recordings = [(task.path, task.name) for task in batch]
        worker.outputs = worker.actor.answer.options(num_returns="streaming").remote(self._work, recordings)

    def _wait(self) -> None:
        """Wait until something is done, or for a while."""
        for worker in self._pool.wait():
            try:
                self._receive(worker)
            except self._ray.exceptions.RayTaskError as error:  # not of the recording: of what came around it
                worker.tasks[0].error = error
                self._requeue(worker)
            except (self._ray.exceptions.RayError, StopIteration) as error:
                for task in worker.tasks:
                    task.n_deaths += 1
                self._requeue(worker)
                self._pool.replace(worker, error)
        if self._progress is not None and time.monotonic() - self._asked_s >= _POLL_S:
            self._asked_s = time.monotonic()
            self._report(self._progress)

    def _receive(self, worker: _Handle) -> None:
        """Take the next output of a worker.

        Raises:
            FrameclsError: what is asked for cannot be done with any recording.
            RayError: the worker died.
            StopIteration: it has answered all.
        """
        failure: Failure | None = self._ray.get(next(worker.outputs))
        if failure is not None and failure.is_refusal:
            worker.tasks.clear()
            raise failure.to_error()
        result = next(worker.outputs)
        task = worker.tasks.popleft()
        if failure is None:
            task.result = result
        else:
            task.error = _to_error(failure, task)
        if not worker.tasks:
            worker.outputs = None
        self._pool.note_result()

    def _requeue(self, worker: _Handle) -> None:
        """Requeue a worker's recordings; what was at two dead workers has failed."""
        lost = set()
        for task in worker.tasks:
            if task.n_deaths > 1:
                task.error = ClusterError("its worker died, and so did another: is it too large for their memory?")
            if not task.is_done:
                lost.add(task)
        worker.tasks.clear()
        worker.outputs = None
        if lost:
            _log.warning("a worker died; what it was doing is tried again: %d recordings", len(lost))
            lost.update(self._requeued)
            self._requeued = deque(task for task in self._pending if task in lost)

    def _collect(self, task: _Task) -> Answer | Exception | None:
        """Return what became of a recording; None: its result is lost, and it is requeued."""
        if task.error is not None:
            return task.error
        try:
            outcome: Answer = self._ray.get(task.result)
        except self._ray.exceptions.RayError as error:
            _log.info("a result is lost, with the machine that had it: %s", error)
            task.result = None
            self._requeued.appendleft(task)
            return None
        return outcome

    def _report(self, progress: Callable[[float], None]) -> None:
        """Tell how far the recording is that comes next."""
        head = self._pending[0] if self._pending else None
        for worker in self._pool.ready:
            if head is not None and worker.tasks and worker.tasks[0] is head:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    n_done, seconds = self._ray.get(worker.actor.get_progress.remote(), timeout=_POLL_S)
                    if n_done == worker.n_given - len(worker.tasks):
                        progress(seconds)


def _make_task(source: object) -> _Task:
    if not isinstance(source, str | os.PathLike):
        return _Task("", error=UsageError("a cluster reads files by their paths, and nothing else"))
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
