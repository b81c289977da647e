"""Many recordings through one network: decoded ahead, batched together, answered in their order.

Threads decode the next recordings while others run the network; libsndfile, soxr and torch compute without holding
Python's lock. Whoever consumes the answers drives the rest: nothing runs further ahead than a few batches. The same
thread asks which recordings there are, as an iterator may be bound to one thread: a cursor of SQLite is.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from framecls.audio import AudioStream
from framecls.inference.segments import Window, padded_length
from framecls.results import AudioInfo, Remarks

T = TypeVar("T")

Block = NDArray[np.float32]  # (sample,)
Item = tuple[Window, Block]  # a window, and its samples with the margins
Opener = Callable[[], AbstractContextManager[AudioStream]]

# How long a worker with nothing to do waits for its batch to fill: a clip is decoded in less.
_LINGER_S = 0.02
# Windows that are shorter than whole ones go into one batch in greater number, up to so many times.
_MAX_CROWD = 4
# Recordings under way at once, however short they are.
_MAX_RECORDINGS = 1024
# How long the end of a run waits for a thread that is stuck in a read, such as one from a pipe that is silent.
_JOIN_S = 1.0


@dataclass(frozen=True)
class BatchLimits:
    """How much is under way at once."""

    window_frames: int  # of a whole window
    batch_size: int  # whole windows of one forward pass
    n_workers: int = 1  # threads that run the network
    n_decoders: int = 2  # threads that decode, each a recording of its own
    block_s: float = 30.0  # seconds decoded at once; a live source is waited for that long

    def capacity(self, padded_frames: int) -> int:
        """Return how many windows of a padded length one batch takes."""
        return self.batch_size * max(1, min(_MAX_CROWD, self.window_frames // padded_frames))


@dataclass(eq=False)
class Recording(Generic[T]):
    """One recording on its way; what is in it changes under the batcher's lock."""

    open: Opener
    info: AudioInfo | None = None
    remarks: Remarks = field(default_factory=Remarks)
    n_samples: int = 0  # decoded so far
    items: deque[Item] = field(default_factory=deque)  # decoded, not batched
    n_items: int = 0  # decoded so far
    n_batched: int = 0
    ended: bool = False  # there is nothing more to decode
    error: BaseException | None = None  # why decoding ended
    answers: dict[int, T] = field(default_factory=dict)  # by number of the window, not taken yet
    n_taken: int = 0
    failure: BaseException | None = None  # of the network

    @property
    def has_news(self) -> bool:
        """Whether the next answer is there, or none will come."""
        return self.n_taken in self.answers or self.failure is not None or (self.ended and self.n_taken == self.n_items)


@dataclass(eq=False)
class _Bucket(Generic[T]):
    """Windows of one padded length that wait for company."""

    since: int  # batches that were sent off before the first of them came
    entries: list[tuple[Recording[T], int, Item]] = field(default_factory=list)


class Batcher(Generic[T]):
    """Run recordings through a function of batches, and hand their answers out in order.

    Which windows share a batch depends on what is decoded first. What comes out does not: windows are padded to a
    length that their own length decides, and the network looks at no other row.
    """

    def __init__(
        self,
        openers: Iterable[Opener],
        cut: Callable[[Iterable[Block]], Iterator[Item]],
        forward: Callable[[list[Item]], list[T]],
        load: BatchLimits,
        *,
        own_thread: bool = False,
    ) -> None:
        """Prepare a run.

        Args:
            openers: each opens one recording; they are called some ahead of time, in other threads. The iterator itself
                is advanced, some recordings ahead, by whoever consumes the answers, and closed at the end of the run if
                it can be.
            cut: makes windows of (sample,) blocks.
            forward: answers a batch of windows, one answer each, in any of several threads.
            load: how much is under way at once.
            own_thread: a thread of its own advances the iterator, which may block for long.
        """
        self._openers = iter(openers)
        self._waits_apart = own_thread
        self._cut = cut
        self._forward = forward
        self._load = load
        self._wake = threading.Condition()  # guards everything below
        self._line: deque[Recording[T]] = deque()  # begun and not wholly batched, in order
        self._begun: deque[Recording[T]] = deque()  # not yet handed out, in order
        self._fresh: deque[Recording[T]] = deque()  # that no decoder has taken yet, in order
        self._exhausted = False
        self._broken: BaseException | None = None  # what the iterator of openers raised
        self._stopped = False
        self._n_held = 0  # windows decoded and not batched
        self._buckets: dict[tuple[int, bool], _Bucket[T]] = {}
        self._n_running = 0  # batches with the workers
        self._n_sent = 0
        self._linger_until: float | None = None
        self._workers = ThreadPoolExecutor(load.n_workers, thread_name_prefix="framecls-forward")

    def run(self) -> Generator[Recording[T], None, None]:
        """Yield the recordings in order, each as soon as it is begun; `answers` gives what belongs to one.

        Closing the generator stops all threads.
        """
        decoders = [
            threading.Thread(target=self._decode_all, name="framecls-decode", daemon=True)
            for _ in range(self._load.n_decoders)
        ]
        if self._waits_apart:
            decoders.append(threading.Thread(target=self._draw_all, name="framecls-draw", daemon=True))
        for thread in decoders:
            thread.start()
        try:
            while True:
                self._until(lambda: bool(self._begun) or self._exhausted)
                if not self._begun:
                    break
                yield self._begun.popleft()
            if self._broken is not None:
                raise self._broken
        finally:
            with self._wake:
                self._stopped = True
                self._wake.notify_all()
            self._workers.shutdown(wait=True, cancel_futures=True)
            deadline = time.monotonic() + _JOIN_S
            for thread in decoders:
                thread.join(max(0.0, deadline - time.monotonic()))
            if isinstance(self._openers, Generator) and not self._waits_apart:
                self._openers.close()

    def answers(self, recording: Recording[T]) -> Iterator[T]:
        """Yield the answers to the windows of a recording in order.

        Raises:
            whatever opening or decoding it raised, after the answers before; or the network.
        """
        while True:
            self._until(lambda: recording.has_news)
            with self._wake:
                answer = recording.answers.pop(recording.n_taken, None)
                recording.n_taken += answer is not None
            error = recording.failure or recording.error
            if answer is not None:
                yield answer
            elif error is not None:
                # An error holds, by its traceback, the frames that it went through: were it held by what they hold, it
                # would stay, with all that the recording needed, until the garbage collector looks.
                recording.failure = recording.error = None
                try:
                    raise error
                finally:
                    del error
            else:
                return

    # --- drawing recordings, in the thread of the consumer or in one of its own

    def _may_draw(self) -> bool:
        has_room = len(self._line) < _MAX_RECORDINGS and self._n_held < self._max_held
        is_wanted = len(self._fresh) < self._load.n_decoders and (not self._line or has_room)
        return is_wanted and not self._exhausted

    @property
    def _max_held(self) -> int:
        """Windows that may wait, decoded: enough to fill the next batches of all workers."""
        return 2 * self._load.batch_size * self._load.n_workers

    def _draw(self) -> None:
        """Take the next recording from the caller's iterator; the lock must be free, as that may take long."""
        recording: Recording[T] | None = None
        try:
            recording = Recording(next(self._openers))
        except StopIteration:
            pass
        except Exception as error:  # the consumer gets it after what was drawn before
            self._broken = error
        with self._wake:
            if recording is None:
                self._exhausted = True
            else:
                self._line.append(recording)
                self._begun.append(recording)
                self._fresh.append(recording)
            self._wake.notify_all()

    def _draw_all(self) -> None:
        while self._wait(lambda: self._exhausted or self._may_draw()) and not self._exhausted:
            self._draw()

    # --- decoding, in threads of its own

    def _decode_all(self) -> None:
        while self._wait(lambda: bool(self._fresh) or self._exhausted):
            with self._wake:
                if not self._fresh:
                    if self._exhausted:
                        return
                    continue  # another decoder was faster
                recording = self._fresh.popleft()
                self._wake.notify_all()
            self._decode(recording)

    def _decode(self, recording: Recording[T]) -> None:
        try:
            with recording.open() as stream:
                recording.info, recording.remarks = stream.info, stream.remarks
                for item in self._cut(_count(recording, stream.blocks(self._load.block_s))):
                    if not self._hold(recording, item):
                        break
        except BaseException as error:  # the consumer raises it
            recording.error = error
        with self._wake:
            recording.ended = True
            self._wake.notify_all()

    def _hold(self, recording: Recording[T], item: Item) -> bool:
        """Queue a decoded window once there is room; False: the run is over."""
        with self._wake:
            # One window of each recording always has room, or those behind could block the first in line.
            if not self._wait(lambda: not recording.items or self._n_held < self._max_held):
                return False
            recording.items.append(item)
            recording.n_items += 1
            self._n_held += 1
            self._wake.notify_all()
            return True

    def _wait(self, ready: Callable[[], bool]) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._stopped or ready())
            return not self._stopped

    # --- batching, in the thread of the consumer

    def _until(self, ready: Callable[[], bool]) -> None:
        """Keep decoders and workers busy until something holds."""
        while not self._work(ready):
            self._draw()

    def _work(self, ready: Callable[[], bool]) -> bool:
        """Keep the workers busy until something holds; False: the decoders want another recording first."""
        with self._wake:
            while not ready():
                if not self._waits_apart and self._may_draw():
                    return False
                if not self._step():
                    patience_s = None if self._linger_until is None else self._linger_until - time.monotonic()
                    self._wake.wait(patience_s)
        return True

    def _step(self) -> bool:
        """Do one thing that can be done at once, if there is any."""
        if self._n_running >= 2 * self._load.n_workers:
            return False
        for key, bucket in self._buckets.items():
            # Others went first for long enough: answers are handed out in order, and these hold all others up.
            if self._n_sent - bucket.since > 2 * self._load.n_workers:
                self._send(key, len(bucket.entries))
                return True
        if self._take():
            return True
        n_idle = self._load.n_workers - self._n_running
        if n_idle <= 0 or not self._buckets:
            return False
        if not (self._exhausted and not self._line):
            if self._linger_until is None:
                self._linger_until = time.monotonic() + _LINGER_S
            if time.monotonic() < self._linger_until:
                return False
        key, bucket = min(self._buckets.items(), key=lambda pair: pair[1].since)
        self._send(key, -(-len(bucket.entries) // n_idle))
        return True

    def _take(self) -> bool:
        """Move the next decoded window, in order, into its bucket; False: there is none yet."""
        while self._line and self._line[0].ended and not self._line[0].items:
            self._line.popleft()
            self._wake.notify_all()
        if not self._line or not self._line[0].items:
            return False
        recording = self._line[0]
        window, samples = recording.items.popleft()
        self._n_held -= 1
        self._wake.notify_all()
        padded = padded_length(window.n_frames, self._load.window_frames)
        # A mask is another computation: whether there is one must not depend on the company.
        key = (padded, padded == window.n_frames)
        bucket = self._buckets.setdefault(key, _Bucket(self._n_sent))
        bucket.entries.append((recording, recording.n_batched, (window, samples)))
        recording.n_batched += 1
        self._linger_until = None
        if len(bucket.entries) >= self._load.capacity(padded):
            self._send(key, len(bucket.entries))
        return True

    def _send(self, key: tuple[int, bool], n_rows: int) -> None:
        bucket = self._buckets[key]
        batch, bucket.entries = bucket.entries[:n_rows], bucket.entries[n_rows:]
        if not bucket.entries:
            del self._buckets[key]
        self._linger_until = None
        self._n_sent += 1
        self._n_running += 1
        self._workers.submit(self._answer, batch)

    def _answer(self, batch: list[tuple[Recording[T], int, Item]]) -> None:
        """Run the network, in a worker's thread."""
        answers: list[T] = []
        failure: BaseException | None = None
        try:
            answers = self._forward([item for _, _, item in batch])
        except BaseException as error:  # the consumer raises it
            failure = error
        with self._wake:
            for index, (recording, number, _) in enumerate(batch):
                if failure is None:
                    recording.answers[number] = answers[index]
                else:
                    recording.failure = failure
            self._n_running -= 1
            self._wake.notify_all()


def _count(recording: Recording[T], blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        recording.n_samples += len(block)
        yield block
