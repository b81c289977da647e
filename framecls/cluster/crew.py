"""The workers of a cluster: inputs go out to them in bounded numbers, answers come back in order."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from framecls.cluster.plan import Staff
from framecls.cluster.worker import Answer, Failure, Setup, Started, Work, Worker
from framecls.errors import AudioError, ClusterError, UsageError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_REASON = 200  # characters

_log = logging.getLogger(__name__)

# How long no worker at all may be there: a cluster may have to start machines first, or finish other work.
_START_S = 300.0
_QUIET_S = 30.0  # after which that is said
_GLANCE_S = 1.0  # how often the recording that all wait for is looked at
# Workers that die one after another, without an answer between, are not the fault of a recording: each of them costs
# two at most. So many deaths for each worker, as a machine that goes down takes all that it has with it.
_MOST_DEATHS = 10
# Beside the recordings at all workers, so many times their number may be done while an earlier one is not. Ray keeps
# what is large of their results, on disk in the end.
_AHEAD = 8
# Bytes of recordings at a worker, for each that it may have: what is long goes out one by one, to whoever is free.
_BYTES_EACH = 1 << 20
_AT_LEAST = 2  # one under way, and one that is decoded ahead


@dataclass(eq=False)
class _Task:
    """A recording on its way; `done` when its result is known, or why there is none."""

    number: int
    name: str  # as it was given
    path: str = ""  # absolute
    size_bytes: int = 0
    n_deaths: int = 0  # workers that died while they had it
    result: Any = None  # where Ray has it
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None


@dataclass(eq=False)
class _Member:
    """A worker, seen from here."""

    actor: Any
    starting: Any  # what becomes of its start
    started: Started | None = None
    work: Work | None = None  # that it has begun
    tasks: dict[Any, tuple[_Task, Any]] = field(default_factory=dict)  # verdict -> task, and where its result will be

    @property
    def has_room(self) -> bool:
        """Whether one more recording may go to it."""
        tasks = [task for task, _ in self.tasks.values()]
        if self.started is None or len(tasks) >= self.started.room or any(task.n_deaths for task in tasks):
            return False
        n_bytes = sum(task.size_bytes for task in tasks)
        return len(tasks) < _AT_LEAST or n_bytes < self.started.room * _BYTES_EACH


class Crew:
    """As many workers as a run wants; one that dies is replaced."""

    def __init__(self, ray: Any, staff: Staff, setup: Setup) -> None:
        """Prepare.

        Args:
            ray: the module, connected.
            staff: how many workers, and what each needs.
            setup: what each loads.
        """
        self.staff = staff
        self.ray = ray
        self._setup = setup
        self._n_deaths = 0  # since the last answer
        self._alone_since = time.monotonic()  # no worker is ready
        self._has_said = False  # that nobody is there
        # Those that die are replaced here: only here is it known what they had.
        needs = {"num_cpus": staff.n_cpus, "num_gpus": staff.n_gpus, "max_restarts": 0, "max_concurrency": 2000}
        self._actor_class = ray.remote(Worker).options(**needs)
        self.members: list[_Member] = []

    def open(self) -> None:
        """Start the workers, and wait until one of them is ready.

        Raises:
            ClusterError: none starts.
        """
        self._alone_since = time.monotonic()
        self.hire()
        while not self.ready:
            self.wait([])

    @property
    def ready(self) -> list[_Member]:
        """Those that have loaded their model."""
        return [member for member in self.members if member.started is not None]

    def hire(self) -> None:
        """Bring the workers to their number; new ones get ready meanwhile."""
        while len(self.members) < self.staff.n_workers:
            actor = self._actor_class.remote()
            self.members.append(_Member(actor, actor.start.remote(self._setup)))

    def dismiss(self, members: Iterable[_Member]) -> None:
        """End workers at once."""
        for member in list(members):
            self.members.remove(member)
            if not self.ray.is_initialized():
                continue  # they ended with their Ray, and asked to kill them it would start another one first
            with contextlib.suppress(Exception):  # it may be gone, and so may be the cluster
                self.ray.kill(member.actor)

    def bury(self, member: _Member, error: Exception) -> None:
        """Replace a worker that died.

        Raises:
            ClusterError: they all do.
        """
        self.dismiss([member])
        self._n_deaths += 1
        machine = member.started.machine if member.started else "its machine"
        reason = _explain(error)
        _log.info("a worker on %s died: %s", machine, reason)
        if "failed to import on the worker" in str(error):
            raise ClusterError(
                f"framecls does not run on the machines of the cluster ({reason}): install the same there"
            )
        if self._n_deaths >= _MOST_DEATHS * self.staff.n_workers:
            raise ClusterError(f"the workers die, {self._n_deaths} in a row now; the last one: {reason}")
        if not self.ready:
            self._alone_since = time.monotonic()
        self.hire()

    def praise(self) -> None:
        """Note that a worker has answered."""
        self._n_deaths = 0

    def wait(self, refs: Collection[Any]) -> list[Any]:
        """Return those of some references that are ready, once there are any or a while is over.

        Raises:
            ClusterError: no worker is there for too long, or one cannot work.
        """
        starting = {member.starting: member for member in self.members if member.started is None}
        every = [*starting, *refs]
        if not every:
            return []
        ready, _ = self.ray.wait(every, num_returns=len(every), timeout=0)
        if not ready:
            ready, _ = self.ray.wait(every, num_returns=1, timeout=_GLANCE_S)
        for ref in ready:
            if ref in starting:
                self._welcome(starting[ref])
        if not self.ready:
            self._look_at_clock(time.monotonic() - self._alone_since)
        return [ref for ref in ready if ref not in starting]

    def _look_at_clock(self, alone_s: float) -> None:
        needs = f"{self.staff.n_cpus} CPU{'s' if self.staff.n_cpus > 1 else ''}"
        needs += f" and {self.staff.n_gpus} GPU" if self.staff.n_gpus else ""
        if alone_s > _START_S:
            raise ClusterError(f"no worker has started in {_START_S:.0f} s; each needs {needs} free: see ray status")
        if alone_s > _QUIET_S and not self._has_said:
            self._has_said = True
            _log.warning("still waiting for Ray to start a worker, which needs %s", needs)

    def _welcome(self, member: _Member) -> None:
        try:
            started = self.ray.get(member.starting)
        except self.ray.exceptions.RayError as error:
            self.bury(member, error)
            return
        if isinstance(started, Failure):
            raise ClusterError(f"a worker on {started.machine} cannot start: {started.message}") from started.to_error()
        member.started = started

    def identify_model(self) -> str:
        """Ask a worker what tells its model's vectors from those of any other.

        Raises:
            ClusterError: it died.
        """
        try:
            return str(self.ray.get(self.ready[0].actor.identify_model.remote()))
        except self.ray.exceptions.RayError as error:
            raise ClusterError(f"a worker died: {_explain(error)}") from error

    def run(
        self, work: Work, sources: Iterable[object], progress: Callable[[float], None] | None = None
    ) -> Generator[Answer | Exception, None, None]:
        """Yield what becomes of each of many paths, in order."""
        self.hire()
        run = _Run(self, work, sources, progress)
        try:
            yield from run.outcomes()
        finally:
            # What was not waited for must not go on, nor be taken for an answer of the next run.
            self.dismiss(member for member in self.members if member.tasks)


def _explain(error: Exception) -> str:
    """Return what Ray says in the end, which is the cause; before it come traces, in colours."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"


class _Run:
    """The recordings of one run, and where they are."""

    def __init__(
        self, crew: Crew, work: Work, sources: Iterable[object], progress: Callable[[float], None] | None
    ) -> None:
        self._crew = crew
        self._ray = crew.ray
        self._work = work
        self._sources: Iterator[tuple[int, object]] = enumerate(sources)
        self._exhausted = False
        self._progress = progress
        self._glanced_s = time.monotonic()
        self._line: deque[_Task] = deque()  # begun and not handed out, in order
        self._again: deque[_Task] = deque()  # of those, what was at workers that died

    def outcomes(self) -> Generator[Answer | Exception, None, None]:
        """Yield results and errors in order."""
        while True:
            self._give_out()
            if self._line and self._line[0].done:
                outcome = self._collect(self._line[0])
                if outcome is not None:
                    self._line.popleft()
                    yield outcome
            elif self._line or not self._exhausted:
                self._wait()
            else:
                return

    # --- out

    def _give_out(self) -> None:
        """Give recordings to the workers that have room."""
        while self._again:
            # Alone, because one of those that a dying worker had is perhaps what killed it, and the others are not.
            idle = next((member for member in self._crew.ready if not member.tasks), None)
            if idle is None:
                return
            self._give(idle, self._again.popleft())
        most = _AHEAD * sum(member.started.room for member in self._crew.ready if member.started)
        while len(self._line) < most and not self._exhausted:
            free = [member for member in self._crew.ready if member.has_room]
            if not free:
                return
            task = self._take()
            if task is not None and not task.done:
                self._give(min(free, key=lambda member: len(member.tasks)), task)

    def _take(self) -> _Task | None:
        number, source = next(self._sources, (-1, None))
        if number < 0:
            self._exhausted = True
            return None
        if isinstance(source, str | os.PathLike):
            # Not tidied: `..` behind a link leads elsewhere than it looks.
            name = os.fsdecode(source)
            task = _Task(number, name, os.path.join(os.getcwd(), name))
            with contextlib.suppress(OSError, ValueError):
                task.size_bytes = os.stat(task.path).st_size
        else:
            task = _Task(number, "", error=UsageError("a cluster reads files by their paths, and nothing else"))
        self._line.append(task)
        return task

    def _give(self, member: _Member, task: _Task) -> None:
        if member.work is not self._work:
            if not self._begin(member):
                self._again.appendleft(task)
                return
            member.work = self._work
        verdict, result = member.actor.answer.options(num_returns=2).remote(task.number, task.path, task.name)
        member.tasks[verdict] = (task, result)

    def _begin(self, member: _Member) -> bool:
        """Tell a worker what to do; False: it died.

        Raises:
            FrameclsError: that cannot be done.
        """
        try:
            failure = self._ray.get(member.actor.begin.remote(self._work))
        except self._ray.exceptions.RayError as error:
            self._crew.bury(member, error)
            return False
        if failure is not None:
            raise failure.to_error()
        return True

    # --- back

    def _wait(self) -> None:
        """Wait until something is done, or for a while."""
        members = {verdict: member for member in self._crew.members for verdict in member.tasks}
        died: dict[_Member, Exception] = {}
        for verdict in self._crew.wait(members):
            member = members[verdict]
            task, result = member.tasks[verdict]
            try:
                failure = self._ray.get(verdict)
            except self._ray.exceptions.RayTaskError as error:  # not of the recording: of what came around it
                task.error = error
            except self._ray.exceptions.RayError as error:
                died[member] = error
                continue
            else:
                self._settle(task, failure, result)
            del member.tasks[verdict]
            self._crew.praise()
        for member, reason in died.items():
            self._mourn(member, reason)
        if self._progress is not None and time.monotonic() - self._glanced_s >= _GLANCE_S:
            self._glanced_s = time.monotonic()
            self._glance(self._progress)

    def _settle(self, task: _Task, failure: Failure | None, result: Any) -> None:
        if failure is None:
            task.result = result
        elif failure.unseen and os.path.lexists(task.path):
            task.error = AudioError(
                f"the machine {failure.machine} does not see it: it must be where all machines find it by this path"
            )
        else:
            task.error = failure.to_error()

    def _mourn(self, member: _Member, error: Exception) -> None:
        """Have done again what a worker that died had; what was at two of them has failed."""
        for task, _ in member.tasks.values():
            task.n_deaths += 1
            if task.n_deaths > 1:
                task.error = ClusterError("its worker died, and so did another: is it too large for their memory?")
        lost = [task for task, _ in member.tasks.values() if not task.done]
        if lost:
            _log.warning("a worker died; what it was doing is tried again: %d recordings", len(lost))
        self._again = deque(sorted([*self._again, *lost], key=lambda task: task.number))
        self._crew.bury(member, error)

    def _collect(self, task: _Task) -> Answer | Exception | None:
        """Return what became of a recording; None: its result is lost, and it is done again."""
        if task.error is not None:
            return task.error
        try:
            outcome: Answer = self._ray.get(task.result)
        except self._ray.exceptions.RayError as error:
            _log.info("a result is lost, with the machine that had it: %s", error)
            task.result = None
            self._again.appendleft(task)
            return None
        return outcome

    def _glance(self, progress: Callable[[float], None]) -> None:
        """Tell how far the recording is that comes next."""
        head = self._line[0] if self._line else None
        for member in self._crew.ready:
            if any(task is head for task, _ in member.tasks.values()):
                with contextlib.suppress(self._ray.exceptions.RayError):
                    number, seconds = self._ray.get(member.actor.heard.remote(), timeout=_GLANCE_S)
                    if head is not None and number == head.number:
                        progress(seconds)
