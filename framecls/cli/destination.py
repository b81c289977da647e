"""Where results go: stdout, one file, or a folder with a file for each input."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from framecls.cli.formats import FOR_EYES, SUFFIXES, SVG, needs_frames
from framecls.cli.resume import Run
from framecls.cli.streams import StdoutError, check_stdout
from framecls.errors import FrameclsError, OutputError, UsageError
from framecls.output.files import is_device, remove_leftovers
from framecls.output.frames import make_frame_writer
from framecls.output.journal import Journal, make_key, open_journal
from framecls.output.stored import from_stored, to_stored
from framecls.output.writers import WRITERS, Result, atomic_write, make_writer, mirrored_path

if TYPE_CHECKING:
    from framecls.audio import Input

_JOURNAL = ".framecls-journal"  # in a folder of results; beside a file NAME of results: .NAME.framecls-journal
_LONGEST_NAME = 255  # bytes
_WRITING_THREADS = 4
_MOST_WAITING = 8  # results that wait to be written: those of long recordings are large


class StreamWriter(Protocol):
    """What a destination needs of a writer; those of `output.writers` and `TableWriter` have it."""

    def begin(self, stream: IO[Any]) -> None: ...

    def write(self, result: Result, stream: IO[Any]) -> None: ...

    def end(self, stream: IO[Any]) -> None: ...


@dataclass(frozen=True)
class Form:
    """What the results look like."""

    format: str
    frames: bool = False
    times: bool = False  # of phones too, where a string of them is shown to people

    def make_writer(self) -> StreamWriter:
        """Return a new writer, for one stream."""
        if self.format in FOR_EYES:
            from framecls.cli.tables import SvgWriter, TableWriter  # here, because rich takes time to import

            kind = SvgWriter if self.format == SVG else TableWriter
            return kind(self.frames, self.times)
        return make_frame_writer(self.format) if self.frames else make_writer(self.format)

    @property
    def suffix(self) -> str:
        """Of a file that holds this format."""
        return SUFFIXES[self.format]

    @property
    def joins(self) -> bool:
        """Whether one stream may hold the results of several inputs."""
        return self.format in FOR_EYES or WRITERS[self.format].joins

    @property
    def needs_frames(self) -> bool:
        """Whether the times and scores of frames are written, and not only what was made of them."""
        return needs_frames(self.format, self.frames)

    def accepts(self, kind: type[Result]) -> bool:
        """Whether the form has a place for results of a kind."""
        return self.format in FOR_EYES or issubclass(kind, WRITERS[self.format].accepts)

    @property
    def is_binary(self) -> bool:
        """Whether the stream is one of bytes."""
        return self.format not in FOR_EYES and WRITERS[self.format].binary


class Destination(ABC):
    """Takes the results of the `pending` inputs one by one."""

    def __init__(self, pending: Sequence[Input]) -> None:
        self.pending = list(pending)  # the inputs that are not done yet, in order
        self.n_written = 0
        self.failures: list[tuple[str, FrameclsError]] = []  # results that could not be written, others may

    @abstractmethod
    def write(self, result: Result, relative: Path) -> None:
        """Write one result, so that a reader gets it at once where the form allows.

        What becomes of it is added to `n_written` or `failures` now or, at the latest, when the destination is closed.

        Args:
            result: what the input gave.
            relative: the input's path as results mirror it.

        Raises:
            OutputError: neither this nor any other result can be written.
        """


class StreamDestination(Destination):
    """One stream for all."""

    def __init__(self, pending: Sequence[Input], writer: StreamWriter, stream: IO[Any]) -> None:
        super().__init__(pending)
        self._writer = writer
        self._stream = stream

    def write(self, result: Result, relative: Path) -> None:
        """Write and flush: whoever reads a pipe gets each result as it comes."""
        self._writer.write(result, self._stream)
        self._stream.flush()
        self.n_written += 1


class FolderDestination(Destination):
    """A file for each input, and a journal that says of which recording each of them is.

    An input is done if the journal has it with the same options, and its file is still as it was written. Threads write
    the files: most of the time that takes is waiting until they are on the disk, and several can wait together.
    """

    def __init__(self, form: Form, folder: Path, run: Run, journal: Journal | None) -> None:
        self._form = form
        self._folder = folder
        self._journal = journal
        self._paths: dict[Path, Path] = {}  # of an input's result, by the input's relative path
        self._keys: dict[Path, str] = {}  # in the journal, by the same
        self._threads = ThreadPoolExecutor(_WRITING_THREADS, thread_name_prefix="framecls-write")
        self._waiting: deque[tuple[str, Future[None]]] = deque()  # names of recordings whose files are being written
        taken: set[Path] = set()
        for item in run.inputs:
            path = mirrored_path(folder, item.relative, form.suffix)
            if path not in taken:
                taken.add(path)
                self._paths[item.relative] = path
        if journal is not None:
            self._keys = _make_keys(run, self._name_in_folder)
        remove_leftovers(path.parent for path in taken)
        super().__init__([item for item in run.inputs if not (run.resume and self._is_done(item.relative))])

    def write(self, result: Result, relative: Path) -> None:
        """Have the input's own file written, whole or not at all."""
        self._settle(_MOST_WAITING - 1)
        path = self._paths.get(relative)
        if path is None:
            path = mirrored_path(self._folder, relative, self._form.suffix)
            said = f"{path} already holds the result of another input of this run"
            self.failures.append((result.file, FrameclsError(said)))
        else:
            self._waiting.append((result.file, self._threads.submit(self._write, result, relative, path)))

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            OutputError: some results could not be, for a reason that holds for all.
        """
        try:
            self._settle(0)
        finally:
            self._threads.shutdown(cancel_futures=True)

    def _settle(self, most_waiting: int) -> None:
        while len(self._waiting) > most_waiting or (self._waiting and self._waiting[0][1].done()):
            file, written = self._waiting.popleft()
            try:
                written.result()
            except OutputError:
                raise
            except FrameclsError as error:
                self.failures.append((file, error))
            else:
                self.n_written += 1

    def _write(self, result: Result, relative: Path, path: Path) -> None:
        writer = self._form.make_writer()
        with atomic_write(path, self._form.is_binary) as stream:
            writer.begin(stream)
            writer.write(result, stream)
            writer.end(stream)
        if self._journal is not None and relative in self._keys:
            self._journal.add(self._keys[relative], {"file": result.file, "written": _look_at(path)})

    def _name_in_folder(self, relative: Path) -> str:
        path = self._paths.get(relative)
        return str(path.relative_to(self._folder)) if path is not None else ""

    def _is_done(self, relative: Path) -> bool:
        record = self._journal.get(self._keys[relative]) if self._journal and relative in self._keys else None
        return record is not None and record["written"] == _look_at(self._paths[relative])


class JournalDestination(Destination):
    """One file for all, which is made at the end from the results in a journal.

    They are written in the order of the inputs, whichever run they are of: a run that was killed and resumed gives the
    same bytes as one that was not.
    """

    def __init__(self, form: Form, path: Path, run: Run, journal: Journal) -> None:
        self._form = form
        self._path = path
        self._journal = journal
        keys = _make_keys(run, lambda relative: "")
        # What has no state to be known again by is kept for this run only.
        self._keys = {item.relative: keys.get(item.relative) or make_key(secrets.token_hex()) for item in run.inputs}
        super().__init__([i for i in run.inputs if not (run.resume and self._keys[i.relative] in journal)])
        self._done = {item.relative for item in run.inputs} - {item.relative for item in self.pending}

    def write(self, result: Result, relative: Path) -> None:
        """Keep the result in the journal."""
        self._journal.add(self._keys[relative], to_stored(result, frames=self._form.needs_frames))
        self._done.add(relative)
        self.n_written += 1

    def publish(self) -> None:
        """Write the file from what was done, and keep no more than that in the journal.

        Raises:
            FrameclsError: the file cannot be written.
        """
        if not self._keys:
            return  # a mistyped name must not cost the results of another day
        keys = [key for relative, key in self._keys.items() if relative in self._done]
        writer = self._form.make_writer()
        with atomic_write(self._path, self._form.is_binary) as stream:
            writer.begin(stream)
            for key in keys:
                stored = self._journal.get(key)
                assert stored is not None  # it was there when the run began, or this run added it
                writer.write(from_stored(stored), stream)
            writer.end(stream)
        with contextlib.suppress(FrameclsError):  # a journal that is longer than it must be does as well
            self._journal.keep(keys)


def _make_keys(run: Run, output_of: Callable[[Path], str]) -> dict[Path, str]:
    """Return the journal's keys of the inputs whose state is known, by their relative paths."""
    fingerprint = run.fingerprint()
    keys: dict[Path, str] = {}
    for item in run.inputs:
        state = run.states.get(item.relative)
        if state is not None:
            facts = (fingerprint, item.name, state.path, state.size_bytes, state.mtime_ns, output_of(item.relative))
            channel = () if item.channel is None else (item.channel,)
            keys[item.relative] = make_key(*facts, *channel)
    return keys


def _look_at(path: Path) -> list[int] | None:
    """Return what tells whether a file is still as it was written: its size in bytes, and when that was, in ns."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class Plan:
    """Where results will go: `open` gives a context manager around a `Destination`.

    A file appears only when the block ends well; what went to stdout or to a folder stays.
    """

    open: Callable[[Run], AbstractContextManager[Destination]]
    file: Path | None = None  # the one file for all
    is_resumable: bool = False  # a later run can tell what this one has done


def plan_destination(form: Form, output: str | None, n_inputs: int, *, from_folder: bool = False) -> Plan:
    """Choose where results go.

    Args:
        form: what they look like.
        output: what -o names.
        n_inputs: how many there are.
        from_folder: they come from a folder or a list, which may have a different number of them another day.

    Raises:
        UsageError: the form cannot hold several inputs, and -o names no folder.
    """
    several = (n_inputs > 1 or (from_folder and output is not None)) and not form.joins
    if output is None:
        if several:
            raise UsageError(f"-f {form.format} holds one recording, and there are {n_inputs}: name a folder with -o")
        return Plan(lambda run: _open_stdout(form, run))
    path = Path(output)
    if os.path.isdir(path) or output.endswith("/"):
        return Plan(lambda run: _open_folder(form, path, run), is_resumable=True)
    is_file = os.path.exists(path) or path.suffix.casefold() == form.suffix.casefold()
    if several and not (n_inputs == 1 and is_file):
        if is_file:
            raise UsageError(
                f"-o {output}: {form.format} holds one recording a file, and there are {n_inputs}: name a folder"
            )
        return Plan(lambda run: _open_folder(form, path, run), is_resumable=True)
    return Plan(lambda run: _open_file(form, path, run), path, is_resumable=not is_device(path))


@contextmanager
def _open_stdout(form: Form, run: Run) -> Iterator[Destination]:
    check_stdout()
    stream = sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if form.format not in FOR_EYES and reconfigure is not None:
        # Machine output is the same bytes everywhere, whatever the locale or the system.
        reconfigure(encoding="utf-8", newline="\n")
    writer = form.make_writer()
    writer.begin(stream)
    try:
        yield StreamDestination(run.inputs, writer, stream)
    except StdoutError:
        raise
    except BaseException:
        writer.end(stream)  # also after an interrupt: what is there can be read
        raise
    writer.end(stream)


@contextmanager
def _open_file(form: Form, path: Path, run: Run) -> Iterator[Destination]:
    # Behind a link: the journal is beside the file itself.
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if run.keeps_journal and not is_device(target):
        if os.path.isdir(target):
            raise FrameclsError(f"cannot write {path}: it is a folder")
        form.make_writer()  # what it lacks is said before the work and not after it
        with open_journal(_journal_of(target), alone=True) as journal:
            remove_leftovers([target.parent])
            destination = JournalDestination(form, path, run, journal)
            yield destination
            destination.publish()
        return
    writer = form.make_writer()
    with atomic_write(path, form.is_binary) as stream:
        writer.begin(stream)
        yield StreamDestination(run.inputs, writer, stream)
        writer.end(stream)


def _journal_of(target: Path) -> Path:
    name = f".{target.name}{_JOURNAL}"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{make_key(target.name)}{_JOURNAL}"
    return target.with_name(name)


@contextmanager
def _open_folder(form: Form, folder: Path, run: Run) -> Iterator[Destination]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"-o {folder}: the folder cannot be made: {error.strerror}") from error
    form.make_writer()
    if not run.keeps_journal:
        with closing(FolderDestination(form, folder, run, None)) as destination:
            yield destination
        return
    with open_journal(folder / _JOURNAL, alone=False) as journal:
        with closing(FolderDestination(form, folder, run, journal)) as destination:
            yield destination
        with contextlib.suppress(FrameclsError):
            journal.tidy()
