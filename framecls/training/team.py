"""Training by several processes, on one machine or more, as torchrun starts them.

    torchrun --nproc-per-node 2 -m framecls train tag events.jsonl -o events.safetensors

Every process makes the batches of a run by one process and learns from its shard of each; DistributedDataParallel
averages the gradients. Dropout aside, the number of processes changes how long a run takes and not what it learns.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import nn

from framecls.errors import UsageError

T = TypeVar("T")

# The others wait while the first process measures.
_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them; by default there is one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints, measures and writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are averaged over all processes."""
        if self.size == 1:
            return module
        # Layers may be dropped, and a phone head has no gradient in a batch without phones.
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return float(total) / self.size

    def broadcast(self, value: T) -> T:
        """Return the value of the first process, in all."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def first_alone(self, work: Callable[[], T]) -> T:
        """Do work that fills a cache: the first process alone, then the others, who find it done."""
        if self.size > 1 and not self.is_first:
            torch.distributed.barrier()
        result = work()
        if self.size > 1 and self.is_first:
            torch.distributed.barrier()
        return result

    def close(self) -> None:
        """Leave the other processes."""
        if self.size > 1 and torch.distributed.is_initialized():
            # What averages gradients has threads, and is part of cycles: at the exit of Python it may end too late.
            gc.collect()
            torch.distributed.destroy_process_group()


ALONE = Team()


def join_team(device: str) -> tuple[Team, str]:
    """Join the processes that torchrun started along with this one, if it did.

    Args:
        device: what `--device` asked for.

    Returns:
        the team, and the device of this process: each has a GPU of its own.

    Raises:
        UsageError: there are more processes on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE, device
    team = Team(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        n_local, n_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if n_local > n_gpus:
            raise UsageError(f"{n_local} processes for {n_gpus} GPUs: start fewer with torchrun, or give --device cpu")
        torch.cuda.set_device(team.local_rank)
        device = f"cuda:{team.local_rank}"
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    torch.distributed.init_process_group(backend, timeout=_TIMEOUT)
    return team, device if on_gpu else "cpu"
