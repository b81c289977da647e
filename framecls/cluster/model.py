"""A model that runs on a cluster, and is used like one that runs here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from framecls._version import __version__
from framecls.checkpoints import registry
from framecls.checkpoints.file import read_config
from framecls.cluster.plan import Machine, plan_workers
from framecls.cluster.pool import WorkerPool
from framecls.cluster.session import open_session
from framecls.cluster.worker import Setup, Work
from framecls.config import Configured, DecisionConfig, DecisionKeywords, ModelConfig, ReadKeywords
from framecls.errors import UsageError

if TYPE_CHECKING:
    from framecls.results import Identification, StringResult, TagResult
    from framecls.speakers.recognition import Enrolled

CLUSTER_DEVICES = ("auto", "cpu", "cuda")


class ClusterModel(Configured):
    """One model in many processes, on one machine or many. Make it with `connect`.

    What it says of a recording is what `framecls.Model` says of it. Its sources are paths, by which all machines of the
    cluster find the same files; it does one thing at a time.
    """

    def __init__(self, pool: WorkerPool, config: ModelConfig) -> None:
        self._pool = pool
        self.config = config

    @property
    def device(self) -> str:
        """Where the network runs."""
        return f"{self._pool.plan.n_workers} Ray workers ({self._pool.plan.device})"

    def with_decision(self, decision: DecisionConfig | None = None, **rules: Unpack[DecisionKeywords]) -> ClusterModel:
        """Return the same model with other rules from probabilities to labels, as `Model.with_decision` does."""
        return ClusterModel(self._pool, self.config.with_decision(decision, **rules))

    def tag_many(
        self,
        sources: Iterable[object],
        *,
        among: Sequence[str] | None = None,
        speakers: int | tuple[int, int | None] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        keep_scores: bool = True,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[TagResult | Exception, None, None]:
        """Say what is heard when in many recordings; see `Model.tag_many`.

        Yields:
            in the order of the sources a result, or for one that failed the error; AudioError too where a machine does
            not see the file, and ClusterError where it cost two workers their lives.

        Raises:
            UsageError: when the first result is asked for: this model can choose among all of its labels only.
            ClusterError: the workers or the cluster are gone.
        """
        if self.config.embedding and (enrolled is None or isinstance(enrolled, str | Path)):
            enrolled = self.enrolled(enrolled, anybody=False)
        options: dict[str, Any] = {"among": among, "speakers": speakers, "enrolled": enrolled}
        return self._run("tag_many", sources, progress, keep_scores=keep_scores, **options, **reading)

    def tag_string_many(
        self,
        sources: Iterable[object],
        *,
        beam: int | None = None,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[StringResult | Exception, None, None]:
        """Say which phones are heard in many recordings; see `Model.tag_string_many`, and `tag_many` for errors."""
        return self._run("tag_string_many", sources, progress, beam=beam, **reading)

    def identify_many(
        self,
        sources: Iterable[object],
        *,
        top_k: int | None = None,
        among: Sequence[str] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[Identification | Exception, None, None]:
        """Give each of many recordings one label; see `Model.identify_many`, and `tag_many` for errors.

        Whom a model of voices can name is read from a gallery on this machine.
        """
        if self.config.embedding and (enrolled is None or isinstance(enrolled, str | Path)):
            enrolled = self.enrolled(enrolled)
        return self._run("identify_many", sources, progress, top_k=top_k, among=among, enrolled=enrolled, **reading)

    def enrolled(self, gallery: str | Path | None = None, *, anybody: bool = True) -> Enrolled:
        """Read whom this model can name from a gallery, as `Model.enrolled` does."""
        from framecls.speakers.recognition import read_enrolled

        path = Path(gallery) if gallery is not None else None
        return read_enrolled(self._pool.identity, self.config, path, anybody=anybody)

    def _run(
        self,
        method: str,
        sources: Iterable[object],
        progress: Callable[[float], None] | None,
        **options: Any,
    ) -> Generator[Any, None, None]:
        # What is not given is for the worker to choose, as it would without a cluster.
        given = {name: value for name, value in options.items() if value is not None}
        return self._pool.run(Work(method, self.config.decision, given), sources, progress)


@contextmanager
def connect(
    model: str | Path = "sound",
    *,
    address: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    n_inputs: int | None = None,
) -> Iterator[ClusterModel]:
    """Yield a model on a cluster of Ray; its processes end with the block.

    Args:
        model: a shipped model's name, or a model file, which all machines find by this path.
        address: HOST:PORT of the cluster, or "auto" for the one on this machine; None: the one that this process is
            connected to or RAY_ADDRESS names, or else a Ray of this machine alone, which ends with the block.
        workers: processes, each with a model of its own; None: as many as there is room for.
        device: "cpu", "cuda" (a GPU for each worker), or "auto": cuda where any machine has a GPU.
        threads: CPUs of each worker; None: up to 4.
        batch_size: windows of one forward pass, as for `framecls.load`.
        precision: as for `framecls.load`; "auto" is for each worker's machine to say.
        n_inputs: recordings that there will be: there are not more workers than that.

    Raises:
        UsageError: ray is not installed, the address is none, or no model has that name.
        ModelError: the model cannot be used.
        ClusterError: no cluster answers, or no worker starts.
    """
    if device not in CLUSTER_DEVICES:
        raise UsageError(f"device {device!r}: on a cluster choose {', '.join(CLUSTER_DEVICES)}; Ray picks the GPU")
    path = registry.locate(model)
    name = str(model) if str(model) in registry.names() else os.path.join(os.getcwd(), path)
    config, digest = read_config(path), registry.digest_model(name)
    own_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with open_session(address, max(own_cpus, (workers or 1) * (threads or 1))) as ray:
        machines = [_read_machine(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        plan = plan_workers(machines, device, workers, threads)
        if n_inputs is not None:
            plan = dataclasses.replace(plan, n_workers=max(1, min(plan.n_workers, n_inputs)))
        pool = WorkerPool(ray, plan, Setup(__version__, name, digest, plan.device, plan.n_cpus, batch_size, precision))
        try:
            pool.open()
            yield ClusterModel(pool, config)
        finally:
            pool.stop(pool.workers)


def _read_machine(resources: Mapping[str, float]) -> Machine:
    return Machine(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
