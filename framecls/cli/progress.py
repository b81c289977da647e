"""Show the progress of a run: a bar on a terminal, a line now and then in a log, nothing for a short run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framecls.text import hms

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SHOW_AFTER_S = 1.0  # a shorter run shows no bar
# Lines come this often, and more rarely as time goes on, so that they do not fill the log of a day.
_LINE_EVERY_S = 10.0
_LINE_SHARE = 0.05  # of the time so far
_LINE_AT_LEAST_EVERY_S = 300.0


class ProgressBar:
    """A bar on the terminal that appears when a run has gone on for a while."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled and sys.stderr.isatty()
        self._start = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    @property
    def is_due(self) -> bool:
        """Whether there is a terminal to show the bar on, and the run has gone on for long enough."""
        return self._enabled and self.elapsed_s >= _SHOW_AFTER_S

    def show(self, title: str, done: float, total: float | None, text: str = "", count: str | None = None) -> None:
        """Update the bar, and show it again if it was hidden.

        Args:
            title: of the work.
            done: how much of it is done.
            total: how much there is, None for unknown.
            text: shown after the bar.
            count: shown for `done` and `total`; by default both of them.
        """
        if not self.is_due:
            return
        if self._bar is None:
            self._bar = self._make()
        progress, task = self._bar
        progress.start()  # no effect while the bar is shown
        count = f"{done:.0f}/{total:.0f}" if count is None and total is not None else count or ""
        progress.update(task, description=title, completed=done, total=total, text=text, count=count)

    def hide(self) -> None:
        """Hide the bar, so that something else can be printed, until the next `show`."""
        if self._bar is not None:
            self._bar[0].stop()

    @contextmanager
    def hidden_at_end(self) -> Iterator[None]:
        """Hide the bar when the block ends, however it does."""
        try:
            yield
        finally:
            self.hide()

    @staticmethod
    def _make() -> tuple[Progress, TaskID]:
        from rich.progress import BarColumn, Progress, TextColumn

        from framecls.output.tables import make_console

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}", style="progress.download"),
            TextColumn("{task.fields[text]}", style="dim"),
        )
        # What goes to stdout is data, which rich must not redirect.
        progress = Progress(
            *columns, console=make_console(sys.stderr), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        return progress, progress.add_task("", total=None, text="", count="")


@dataclass
class Throughput:
    """Counts what is done of a run, and estimates how long the rest will take.

    The audio that is left is estimated from the sizes of the files and the audio per byte in those that are done.
    """

    sizes_bytes: Sequence[int]  # of the inputs in order, 0: unknown
    length_s: float | None = None  # of a single input, if known
    n_done: int = field(default=0, init=False)
    audio_s: float = field(default=0.0, init=False)
    _heard_bytes: int = field(default=0, init=False)  # of inputs that gave audio
    _left_bytes: int = field(init=False)
    _unknown_left: int = field(init=False)  # inputs of unknown size

    def __post_init__(self) -> None:
        self._left_bytes = sum(self.sizes_bytes)
        self._unknown_left = sum(1 for size in self.sizes_bytes if not size)

    def finish(self, audio_s: float) -> None:
        """Count the next input as done, or as failed with `audio_s` 0."""
        size_bytes = self.sizes_bytes[self.n_done]
        self.n_done += 1
        self.audio_s += audio_s
        self._left_bytes -= size_bytes
        self._unknown_left -= not size_bytes
        if audio_s > 0:
            self._heard_bytes += size_bytes

    def summary(self, elapsed_s: float, under_way_s: float = 0.0) -> str:
        """Return what is done, the speed, and the time that is left.

        Args:
            elapsed_s: since the run began.
            under_way_s: audio that is done of the present input.
        """
        heard_s = self.audio_s + under_way_s
        speed = heard_s / max(elapsed_s, 1e-9)
        parts = [f"{self.n_done:,} of {len(self.sizes_bytes):,} files"]
        parts.append(f"{hms(heard_s)} of {'audio' if self.length_s is None else hms(self.length_s)}")
        parts.append(f"{speed:.0f} times real time")
        left_s = self.left_s(elapsed_s, under_way_s)
        if left_s is not None:
            parts.append(f"{hms(left_s)} left")
        return ", ".join(parts)

    def left_s(self, elapsed_s: float, under_way_s: float = 0.0) -> float | None:
        """Return the seconds that the rest will take, or None while nothing can be said."""
        if self.length_s is not None and under_way_s > 0:
            return max(self.length_s - under_way_s, 0.0) * elapsed_s / under_way_s
        if not self._heard_bytes or not self.audio_s or self._unknown_left:
            return None
        audio_left_s = self._left_bytes * self.audio_s / self._heard_bytes - under_way_s
        return max(audio_left_s, 0.0) * elapsed_s / (self.audio_s + under_way_s)


class InputProgress(ProgressBar):
    """Shows how many inputs are done, how much audio, how fast, and how long it will take.

    A bar on a terminal; elsewhere, for several inputs, a line now and then.
    """

    def __init__(
        self,
        sizes_bytes: Sequence[int],
        *,
        enabled: bool,
        write_line: Callable[[str], None] | None = None,
        find_length_s: Callable[[], float | None] | None = None,
    ) -> None:
        """Prepare the bar.

        Args:
            sizes_bytes: of the inputs in order, 0: unknown.
            enabled: show anything at all.
            write_line: writes a line where there is no terminal.
            find_length_s: returns the length of a single input, None for unknown; called when a bar is shown.
        """
        super().__init__(enabled=enabled)
        self._throughput = Throughput(sizes_bytes)
        self._write_line = write_line if enabled and not sys.stderr.isatty() and len(sizes_bytes) > 1 else None
        self._next_line_s = _LINE_EVERY_S
        self._find_length_s = find_length_s

    def advance(self, audio_s: float) -> None:
        """Show how many seconds of the present input are done."""
        elapsed_s = self.elapsed_s
        if self._write_line is not None:
            if elapsed_s >= self._next_line_s:
                self._next_line_s = elapsed_s + line_interval_s(elapsed_s)
                self._write_line(self._throughput.summary(elapsed_s, audio_s))
            return
        if not self.is_due:
            return
        if self._find_length_s is not None:
            self._throughput.length_s = self._find_length_s()
            self._find_length_s = None
        _, _, text = self._throughput.summary(elapsed_s, audio_s).partition("files, ")  # the bar itself counts them
        if len(self._throughput.sizes_bytes) > 1:
            self.show("", self._throughput.n_done, len(self._throughput.sizes_bytes), text)
        else:  # the bar of a single recording is in seconds
            count, _, text = text.partition(", ")
            self.show("", audio_s, self._throughput.length_s, text, count)

    def finish_input(self, audio_s: float) -> None:
        """Count an input as done, or as failed with `audio_s` 0."""
        self._throughput.finish(audio_s)
        if len(self._throughput.sizes_bytes) > 1:
            self.advance(0.0)

    def print_above(self, line: str) -> bool:
        """Print a line above the bar, from any thread; False if no bar is on the terminal."""
        if self._bar is None or not self._bar[0].live.is_started:
            return False
        self._bar[0].console.print(line, markup=False, highlight=False, soft_wrap=True)
        return True


def line_interval_s(elapsed_s: float) -> float:
    """Return the seconds until the next line, after `elapsed_s` seconds."""
    return min(max(_LINE_EVERY_S, _LINE_SHARE * elapsed_s), _LINE_AT_LEAST_EVERY_S)
