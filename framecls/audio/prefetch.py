"""Run an iterator ahead of its consumer, in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

# How long a closing consumer waits for a producer that is stuck in a read, such as one from a pipe that is silent.
_JOIN_S = 1.0


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Yield what `items` yields, computed up to `depth` items ahead in a background thread.

    libsndfile decodes without holding Python's lock, so decoding goes on while the model computes. The thread starts
    with the first item asked for. Closing the generator (or leaving it to the garbage collector) stops the thread and
    closes `items`; before closing what feeds `items`, such as an AudioStream, close the generator.

    Raises:
        whatever `items` raises, after the items before it.
    """
    # (item, None), then (None, None) at the end or (None, error) at a failure
    ready: queue.Queue[tuple[list[T], BaseException | None]] = queue.Queue(maxsize=depth)
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(items, ready, stop), name="framecls-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if not item:
                return
            yield item[0]
    finally:
        stop.set()
        # After this the producer finds room for the one item it may still be putting, then it sees the flag.
        with contextlib.suppress(queue.Empty):
            while True:
                ready.get_nowait()
        thread.join(_JOIN_S)


def _produce(
    items: Iterable[T], ready: queue.Queue[tuple[list[T], BaseException | None]], stop: threading.Event
) -> None:
    try:
        for item in items:
            ready.put(([item], None))
            if stop.is_set():
                return
        ready.put(([], None))
    except BaseException as error:  # the consumer raises it
        ready.put(([], error))
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
