"""One training run by several processes, on one machine or more, as torchrun starts them.

    torchrun --nproc-per-node 2 -m framecls train tag events.jsonl -o events.safetensors

The batches are those of a run by one process: they are made in turn, one process each, and every process learns from
its share of the examples of each. Gradients are weighed so that their mean is that of the whole batch. So the number
of processes changes how long a run takes and, but for dropout, not what it learns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from framecls.errors import UsageError
from framecls.training.examples.mixtures import IGNORED, Batch

T = TypeVar("T")

# The others wait while the first process measures.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Counts:
    """How many items the mean of each loss is over."""

    labels: int
    timed_phones: int
    strings: int


@dataclass(frozen=True)
class Part:
    """What one process learns from in a step: some examples of a batch, and what it must know of the others."""

    batch: Batch
    rows: tuple[int, ...]  # of the whole batch, one an example here
    n_rows: int
    whole: Counts
    own: Counts
    n_parts: int = 1

    def weigh(self, name: str) -> float:
        """Return by what a mean over the own items is multiplied, so that the mean of all processes is the true one."""
        own, whole = int(getattr(self.own, name)), int(getattr(self.whole, name))
        return own * self.n_parts / max(1, whole)


@dataclass(frozen=True)
class Team:
    """The processes of a run, seen from one of them; alone by default."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints, measures and writes."""
        return self.rank == 0

    def own_numbers(self, first: int, last: int) -> range:
        """Return which of the batches `[first, last)` this process makes."""
        return range(first + (self.rank - first) % self.size, last, self.size)

    def deal(self, own: Iterator[Batch], first: int, last: int) -> Iterator[Part]:
        """Yield this process' part of each of the batches `[first, last)`.

        Args:
            own: the batches of `own_numbers`, in order.
            first: number of the first batch.
            last: number after that of the last.
        """
        for number in range(first, last):
            if self.size == 1:
                yield cut(next(own), 1)[0]
                continue
            maker = number % self.size
            parts = cut(next(own), self.size) if maker == self.rank else None
            got: list[Part | None] = [None]
            torch.distributed.scatter_object_list(got, parts, src=maker)
            assert got[0] is not None
            yield got[0]

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are the mean over all processes."""
        if self.size == 1:
            return module
        # What hears phones stays still while labels are learnt from them, and layers may be dropped: no gradient there.
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)

    def mean(self, value: float) -> float:
        """Return the mean over all processes of a number."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return float(total) / self.size

    def hear_first(self, value: T) -> T:
        """Return what the first process has, on all."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do what writes to a disk: the first process, then one on each other machine, then all that find it done."""
        if self.size == 1:
            return work()
        result: T | None = None
        for mine in (self.is_first, self.local_rank == 0 and not self.is_first, self.local_rank > 0):
            if mine:
                result = work()
            torch.distributed.barrier()
        assert result is not None
        return result

    def leave(self) -> None:
        """Take leave of the other processes."""
        if self.size > 1 and torch.distributed.is_initialized():
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
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    return team, device if on_gpu else "cpu"


def cut(batch: Batch, n_parts: int) -> list[Part]:
    """Deal the examples of a batch out in turn; a part without any gets the first one, weighed by nothing."""
    n_rows, whole = len(batch.n_frames), count(batch)
    if n_parts == 1:
        return [Part(batch, tuple(range(n_rows)), n_rows, whole, whole)]
    parts = []
    for number in range(n_parts):
        rows = tuple(range(number, n_rows, n_parts))
        own = take(batch, rows or (0,))
        parts.append(Part(own, rows or (0,), n_rows, whole, count(own) if rows else Counts(0, 0, 0), n_parts))
    return parts


def take(batch: Batch, rows: tuple[int, ...]) -> Batch:
    """Return some examples of a batch."""
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    chosen = {name: value[list(rows)].clone() for name, value in tensors.items() if isinstance(value, Tensor)}
    return replace(batch, **chosen, sources=tuple(batch.sources[row] for row in rows) if batch.sources else ())


def count(batch: Batch) -> Counts:
    """Return over how many items the mean of each loss of a batch is."""
    timed = batch.phone_frames.ne(IGNORED)
    strings = batch.phones.ne(0).any(dim=1) & ~timed.any(dim=1)
    # Targets between 0 and 1 all count, those below are padding; indices count unless they are marked.
    real = batch.targets.ge(0) if batch.targets.is_floating_point() else batch.targets.ne(IGNORED)
    labels = int(real.sum())
    return Counts(labels, int(timed.sum()), int(strings.sum()))
