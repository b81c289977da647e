"""Dynamic batching: the windows of many recordings through one network, and what it says of each recording in order.

Threads decode recordings ahead, worker threads run the network, and the consumer's thread fills the batches in between.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from framecls.audio import AudioStream, explain_stall
from framecls.config import ModelConfig
from framecls.errors import AudioError
from framecls.inference.windows import Block, Item, WindowOutput, cut_grids, padded_length
from framecls.results import AudioInfo, Remarks

# How long an idle worker waits for its batch to fill: a clip is decoded in less.
_LINGER_S = 0.02
# A batch takes this many times as many windows if they are so much shorter than whole ones.
_MAX_SHORT_WINDOWS = 4
# Recordings under way at once, however short they are.
_MAX_RECORDINGS = 1024
# How long a file that has reached its time limit is still given: a decoder that stops by itself does so first, and a
# program that was suspended goes on.
_GRACE_S = 1.0
# How long the end of a run waits for a thread that is stuck in a read, such as one from a pipe that is silent.
_JOIN_S = 1.0


@dataclass(frozen=True)
class BatchLimits:
    """How much is under way at once."""

    batch_size: int  # whole windows of one forward pass
    n_workers: int = 1  # threads that run the network
    n_decoders: int = 2  # threads that decode, each a recording of its own
    block_s: float = 30.0  # seconds decoded at once; a live source is waited for that long


@dataclass(eq=False)
class Request:
    """A recording on its way through a `Batcher`: iterate over it, once, for the outputs of its windows, in order."""

    open: Callable[[], AbstractContextManager[AudioStream]]  # called in a decoder's thread
    config: ModelConfig  # of the network
    name: str = ""
    channel: int | None = None  # the only one that is read, counted from 1
    progress: Callable[[float], None] | None = None  # told the seconds done
    timeout_s: float | None = None  # a file whose decoder gives nothing for so long has failed; None: it is waited for
    is_stored: Callable[[], bool] = lambda: False  # called in a decoder's thread: whether the limit applies
    info: AudioInfo | None = None  # known once it is open
    remarks: Remarks = field(default_factory=Remarks)  # complete once its windows have been read, as is n_samples
    n_samples: int = 0  # decoded so far, at the network's rate
    # What follows belongs to the batcher, and changes under its lock.
    batcher: Batcher | None = None
    items: deque[Item] = field(default_factory=deque)  # decoded, not batched
    n_items: int = 0  # decoded so far
    n_batched: int = 0
    is_decoded: bool = False  # to its end, or up to an error
    stream: AudioStream | None = None
    active_since: float | None = None  # when the decoder last began, or went on after a wait for room; None: it waits
    overdue_since: float | None = None  # when it was first seen to have reached its time limit
    outputs: dict[int, WindowOutput] = field(default_factory=dict)  # by number of the window, not read yet
    n_read: int = 0
    error: BaseException | None = None  # of the decoder
    failure: BaseException | None = None  # of the network

    @property
    def duration_s(self) -> float:
        """Seconds of audio in it, once its windows have been read.

        Raises:
            AudioError: there are none.
        """
        if not self.n_samples:
            raise AudioError("there is no audio in it")
        return round(self.n_samples / self.config.features.sample_rate, 6)

    def facts(self) -> dict[str, Any]:
        """Return what every result says of its recording, once its windows have been read.

        Raises:
            AudioError: there is no audio in it.
        """
        return {
            "file": self.name,
            "duration": self.duration_s,
            "audio": self.info,
            "truncated": self.remarks.truncated,
            "warnings": tuple(self.remarks.warnings),
            "notes": tuple(self.remarks.notes),
            "channel": self.channel,
        }

    @property
    def is_ready(self) -> bool:
        """Whether the next output is there, or none will come."""
        is_at_end = self.is_decoded and self.n_read == self.n_items
        return self.n_read in self.outputs or self.failure is not None or is_at_end

    def __iter__(self) -> Iterator[WindowOutput]:
        """Yield the outputs of its windows.

        Raises:
            whatever opening or decoding it raised, after the outputs before; or the network.
        """
        assert self.batcher is not None
        while (output := self.batcher.read(self)) is not None:
            if self.progress is not None:
                window, hop_s = output.window, self.batcher.grids[output.window.grid].hop_s
                self.progress((window.first + window.n_frames) * hop_s)
            yield output


@dataclass(eq=False)
class _Bucket:
    """Windows of one padded length that wait for their batch to fill."""

    since: int  # batches that were sent off before the first of them came
    entries: list[tuple[Request, int, Item]] = field(default_factory=list)


class Batcher:
    """Run the windows of recordings through a network in batches, and hand the outputs out in order.

    Which windows share a batch depends on what is decoded first. What comes out does not: windows are padded to a
    length that their own length decides, and the network looks at no other row.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        grids: Sequence[ModelConfig],
        forward: Callable[[list[Item]], list[WindowOutput]],
        limits: BatchLimits,
    ) -> None:
        """Prepare a run.

        Args:
            requests: the iterator is advanced, some recordings ahead, by whoever consumes the outputs, and closed at
                the end of the run if it can be.
            grids: how recordings are cut into windows, in one way or several.
            forward: runs a batch of windows of one grid, in any of several threads.
            limits: how much is under way at once.
        """
        self._source = iter(requests)
        self.grids = tuple(grids)
        self._forward = forward
        self._limits = limits
        self._changed = threading.Condition()  # guards everything below
        self._undecoded: deque[Request] = deque()  # not taken by a decoder, in order
        self._unbatched: deque[Request] = deque()  # not wholly batched, in order
        self._unread: deque[Request] = deque()  # not handed out, in order
        self._exhausted = False
        self._source_error: BaseException | None = None
        self._stopped = False
        self._decoding: list[Request] = []
        self._decoders: list[threading.Thread] = []
        self._n_queued = 0  # windows decoded and not batched
        self._buckets: dict[tuple[int, int, bool], _Bucket] = {}
        self._n_running = 0  # batches with the workers
        self._n_sent = 0
        self._linger_until: float | None = None
        self._workers = ThreadPoolExecutor(limits.n_workers, thread_name_prefix="framecls-forward")

    def run(self) -> Generator[Request, None, None]:
        """Yield the recordings in order, each as soon as it is begun; closing the generator stops all threads."""
        for _ in range(self._limits.n_decoders):
            self._start_decoder()
        try:
            while True:
                self._work_until(lambda: bool(self._unread) or self._exhausted)
                if not self._unread:
                    break
                yield self._unread.popleft()
            if self._source_error is not None:
                raise self._source_error
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify_all()
            self._workers.shutdown(wait=True, cancel_futures=True)
            deadline = time.monotonic() + _JOIN_S
            for thread in self._decoders:
                thread.join(max(0.0, deadline - time.monotonic()))
            if isinstance(self._source, Generator):
                self._source.close()

    def read(self, request: Request) -> WindowOutput | None:
        """Return the next output of a recording, or None at its end.

        Raises:
            what went wrong with it.
        """
        self._work_until(lambda: request.is_ready)
        with self._changed:
            output = request.outputs.pop(request.n_read, None)
            request.n_read += output is not None
        error = request.failure or request.error
        if output is None and error is not None:
            # An error holds, by its traceback, the frames that it went through: were it held by what they hold, it
            # would stay, with all that the recording needed, until the garbage collector looks.
            request.failure = request.error = None
            try:
                raise error
            finally:
                del error
        return output

    # Advancing the caller's iterator, in the thread of the consumer or in one of its own.

    def _may_advance(self) -> bool:
        has_room = len(self._unbatched) < _MAX_RECORDINGS and self._n_queued < self._max_queued
        is_wanted = len(self._undecoded) < self._limits.n_decoders and (not self._unbatched or has_room)
        return is_wanted and not self._exhausted

    @property
    def _max_queued(self) -> int:
        """Windows that may wait, decoded: enough to fill the next batches of all workers."""
        return 2 * self._limits.batch_size * self._limits.n_workers

    def _advance(self) -> None:
        """Take the next recording from the caller's iterator; the lock must be free, as that may take long."""
        request: Request | None = None
        try:
            request = next(self._source)
        except StopIteration:
            pass
        except Exception as error:  # the consumer gets it after the recordings before
            self._source_error = error
        with self._changed:
            if request is None:
                self._exhausted = True
            else:
                request.batcher = self
                for queue in (self._undecoded, self._unbatched, self._unread):
                    queue.append(request)
            self._changed.notify_all()

    # Decoding, in threads of its own.

    def _start_decoder(self) -> None:
        thread = threading.Thread(target=self._decode_all, name="framecls-decode", daemon=True)
        self._decoders.append(thread)
        thread.start()

    def _decode_all(self) -> None:
        while self._wait(lambda: bool(self._undecoded) or self._exhausted):
            with self._changed:
                if not self._undecoded:
                    if self._exhausted:
                        return
                    continue  # another decoder was faster
                request = self._undecoded.popleft()
                request.active_since = time.monotonic()
                self._decoding.append(request)
                self._changed.notify_all()
            if not self._decode(request):
                return

    def _decode(self, request: Request) -> bool:
        """Decode a recording; False: it had been given up, and another thread has taken the place of this one."""
        try:
            if not request.is_stored():
                request.timeout_s = None
            with request.open() as stream:
                request.stream, request.info, request.remarks = stream, stream.info, stream.remarks
                for item in cut_grids(_count(request, stream.blocks(self._limits.block_s)), self.grids):
                    if not self._queue(request, item):
                        break
        except BaseException as error:  # the consumer raises it
            return self._end(request, error)
        return self._end(request, None)

    def _end(self, request: Request, error: BaseException | None) -> bool:
        """Note that a recording is decoded as far as it will be; False: that was noted before."""
        with self._changed:
            if request.is_decoded:
                return False
            request.error, request.is_decoded, request.stream = error, True, None
            self._decoding.remove(request)
            self._changed.notify_all()
            return True

    def _give_up_stalled(self) -> float | None:
        """Fail the files whose decoders are stuck, and replace those; return when to look again, None: no need to."""
        now, looks = time.monotonic(), []
        for request in list(self._decoding):
            if request.timeout_s is None or request.active_since is None:
                continue
            last_read_at = request.stream.last_read_at if request.stream is not None else 0.0
            look_at = max(request.active_since, last_read_at) + request.timeout_s
            if now < look_at:
                request.overdue_since = None
            else:
                request.overdue_since = request.overdue_since or now
                look_at = request.overdue_since + _GRACE_S
            looks.append(look_at)
            if now >= look_at:
                self._end(request, explain_stall(request.timeout_s))
                self._start_decoder()
        return min(looks, default=None)

    def _queue(self, request: Request, item: Item) -> bool:
        """Queue a decoded window once there is room; False: the run is over, or the recording was given up."""
        with self._changed:
            # One window of each recording always has room, or those behind could block the first in line.
            request.active_since = None
            has_room = self._wait(lambda: not request.items or self._n_queued < self._max_queued)
            if not has_room or request.is_decoded:  # decoded: it was given up before
                return False
            request.active_since = time.monotonic()
            request.items.append(item)
            request.n_items += 1
            self._n_queued += 1
            self._changed.notify_all()
            return True

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Wait until a condition holds; False: the run is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or condition())
            return not self._stopped

    # Batching, in the thread of the consumer.

    def _work_until(self, condition: Callable[[], bool]) -> None:
        """Keep decoders and workers busy until a condition holds."""
        while True:
            with self._changed:
                if condition():
                    return
                wants_recording = self._may_advance()
                if not wants_recording and not self._step():
                    times = [at for at in (self._linger_until, self._give_up_stalled()) if at is not None]
                    self._changed.wait(min(times) - time.monotonic() if times else None)
            if wants_recording:
                self._advance()

    def _step(self) -> bool:
        """Batch a window or send a batch off, if either can be done at once."""
        if self._n_running >= 2 * self._limits.n_workers:
            return False
        for key, bucket in self._buckets.items():
            # Others went first for long enough: outputs are handed out in order, and these hold all others up.
            if self._n_sent - bucket.since > 2 * self._limits.n_workers:
                self._send(key, len(bucket.entries))
                return True
        if self._batch_next():
            return True
        n_idle = self._limits.n_workers - self._n_running
        if n_idle <= 0 or not self._buckets:
            return False
        if not (self._exhausted and not self._unbatched):
            if self._linger_until is None:
                self._linger_until = time.monotonic() + _LINGER_S
            if time.monotonic() < self._linger_until:
                return False
        key, bucket = min(self._buckets.items(), key=lambda pair: pair[1].since)
        self._send(key, -(-len(bucket.entries) // n_idle))
        return True

    def _batch_next(self) -> bool:
        """Move the next decoded window, in order, into its bucket; False: there is none yet."""
        while self._unbatched and self._unbatched[0].is_decoded and not self._unbatched[0].items:
            self._unbatched.popleft()
            self._changed.notify_all()
        if not self._unbatched or not self._unbatched[0].items:
            return False
        request = self._unbatched[0]
        window, samples = request.items.popleft()
        self._n_queued -= 1
        self._changed.notify_all()
        whole = self.grids[window.grid].window_frames
        padded = padded_length(window.n_frames, whole)
        # A mask is another computation: whether there is one must not depend on the rest of the batch.
        key = (window.grid, padded, padded == window.n_frames)
        bucket = self._buckets.setdefault(key, _Bucket(self._n_sent))
        bucket.entries.append((request, request.n_batched, (window, samples)))
        request.n_batched += 1
        self._linger_until = None
        n_fitting = max(1, min(_MAX_SHORT_WINDOWS, whole // padded))
        if len(bucket.entries) >= self._limits.batch_size * n_fitting:
            self._send(key, len(bucket.entries))
        return True

    def _send(self, key: tuple[int, int, bool], n_rows: int) -> None:
        """Hand the first windows of a bucket to a worker."""
        bucket = self._buckets[key]
        batch, bucket.entries = bucket.entries[:n_rows], bucket.entries[n_rows:]
        if not bucket.entries:
            del self._buckets[key]
        self._linger_until = None
        self._n_sent += 1
        self._n_running += 1
        self._workers.submit(self._run_batch, batch)

    def _run_batch(self, batch: list[tuple[Request, int, Item]]) -> None:
        """Run the network, in a worker's thread."""
        outputs: list[WindowOutput] = []
        failure: BaseException | None = None
        try:
            outputs = self._forward([item for _, _, item in batch])
        except BaseException as error:  # the consumer raises it
            failure = error
        with self._changed:
            for index, (request, number, _) in enumerate(batch):
                if failure is None:
                    request.outputs[number] = outputs[index]
                else:
                    request.failure = failure
            self._n_running -= 1
            self._changed.notify_all()


def _count(request: Request, blocks: Iterable[Block]) -> Iterator[Block]:
    for block in blocks:
        request.n_samples += len(block)
        yield block
