"""How many workers a cluster has room for, and what each of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# More CPUs make a worker little faster, and fewer make more copies of the model.
_CPUS_A_WORKER = 4


@dataclass(frozen=True)
class Machine:
    """What Ray may use of one machine."""

    n_cpus: int
    n_gpus: int = 0


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of a run."""

    n_workers: int
    device: str  # of each: "cpu" or "cuda"
    n_cpus: int  # of each, and threads of its torch
    n_gpus: int = 0  # of each


def plan_workers(machines: Sequence[Machine], device: str, workers: int | None, threads: int | None) -> WorkerPlan:
    """Choose as many workers as there is room for, unless their number is given.

    Args:
        machines: of the cluster.
        device: "cpu", "cuda" (a GPU for each worker), or "auto": cuda where any machine has a GPU.
        workers: how many there are to be.
        threads: CPUs for each.
    """
    if device == "cuda" or (device == "auto" and any(machine.n_gpus for machine in machines)):
        able = [machine for machine in machines if machine.n_gpus]
        share = max((machine.n_cpus // machine.n_gpus for machine in able), default=1)
        n_cpus = threads or max(1, min(_CPUS_A_WORKER, share))
        fits = sum(min(machine.n_gpus, machine.n_cpus // n_cpus) for machine in able)
        return WorkerPlan(workers or max(1, fits), "cuda", n_cpus, 1)
    share = max((machine.n_cpus for machine in machines), default=1)
    if workers:
        share = min(share, sum(machine.n_cpus for machine in machines) // workers)
    n_cpus = threads or max(1, min(_CPUS_A_WORKER, share))
    fits = sum(machine.n_cpus // n_cpus for machine in machines)
    return WorkerPlan(workers or max(1, fits), "cpu", n_cpus)
