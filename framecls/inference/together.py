"""Several networks over one recording: what each says of it goes to a reader of its own, while it is decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from framecls.inference.batching import Request
from framecls.inference.windows import WindowOutput

R = TypeVar("R")


class Part(Request):
    """What one of several networks says of a recording; it is read like a request of that network alone."""

    def __init__(self, whole: Request, number: int) -> None:
        assert whole.batcher is not None
        super().__init__(whole.open, whole.batcher.grids[number], whole.name, whole.channel)
        self._whole = whole
        self._outputs: SimpleQueue[WindowOutput | None] = SimpleQueue()

    def put(self, output: WindowOutput | None) -> None:
        """Hand the next output over; None: there are no more."""
        self._outputs.put(output)

    def __iter__(self) -> Iterator[WindowOutput]:
        """Yield the outputs of that network."""
        yield from iter(self._outputs.get, None)
        self.info, self.remarks, self.n_samples = self._whole.info, self._whole.remarks, self._whole.n_samples


def answer_together(request: Request, answers: Sequence[Callable[[Request], R]]) -> list[R]:
    """Return what each network makes of a recording, in the order of the grids of its windows.

    Args:
        request: its windows are read here.
        answers: of each network: they read its outputs while they come, each in a thread.

    Raises:
        whatever reading the recording raised, or else an answer.
    """
    parts = [Part(request, number) for number in range(len(answers))]
    with ThreadPoolExecutor(len(parts), thread_name_prefix="framecls-answer") as threads:
        running = [threads.submit(answer, part) for answer, part in zip(answers, parts, strict=True)]
        try:
            for output in request:
                parts[output.window.grid].put(output)
        finally:
            for part in parts:
                part.put(None)
    return [answer.result() for answer in running]
