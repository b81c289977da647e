"""The progress bar: only for a person at a terminal, and only when there is something to wait for."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_S = 1.0  # a run that is over sooner shows no bar


class StepBar:
    """Steps done of all, with a few words; appears when a run has gone on for a while."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted and sys.stderr.isatty()
        self._start = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    def show(self, title: str, done: int, total: int, text: str = "") -> None:
        """Bring the bar up to date, and back if it was hidden."""
        if not self._wanted or self.elapsed_s < _PATIENCE_S:
            return
        if self._bar is None:
            self._bar = self._make()
        progress, task = self._bar
        progress.start()  # it does nothing while the bar is on
        progress.update(task, description=title, completed=done, total=total, text=text)

    def hide(self) -> None:
        """Take the bar off the terminal, so that something else can be printed; the next `show` brings it back."""
        if self._bar is not None:
            self._bar[0].stop()

    @staticmethod
    def _make() -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", style="dim"),
        )
        # Standard output may be a pipe: its text is data, and must not be led past the bar.
        progress = Progress(
            *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        return progress, progress.add_task("", total=None, text="")


class InputBar(StepBar):
    """How many inputs are done, and how many seconds of audio."""

    def __init__(self, n_inputs: int, *, wanted: bool) -> None:
        super().__init__(wanted=wanted)
        self._n_inputs = n_inputs
        self._n_done = 0
        self._audio_s = 0.0

    def advance(self, audio_s: float) -> None:
        """Show that `audio_s` seconds of the present input are done."""
        total_s = self._audio_s + audio_s
        speed = total_s / max(self.elapsed_s, 1e-9)
        self.show("", self._n_done, self._n_inputs, f"{clock(total_s)} of audio, {speed:.0f} times real time")

    def finish_input(self, audio_s: float) -> None:
        """Count an input as done, or as failed with none of its audio."""
        self._n_done += 1
        self._audio_s += audio_s
        self.advance(0.0)


def clock(seconds: float) -> str:
    """Return a length of time as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
