"""Where results go: stdout, one file, or a folder with a file for each input."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, Protocol

from framecls.cli.formats import FOR_EYES, SUFFIXES, SVG, needs_frames
from framecls.cli.streams import StdoutError, check_stdout
from framecls.errors import FrameclsError, OutputError, UsageError
from framecls.output.files import is_device, remove_leftovers
from framecls.output.formats import WRITERS, Result, atomic_write, make_writer, mirrored_path
from framecls.output.frames import make_frame_writer
from framecls.output.journal import Journal, Record, make_key, open_journal
from framecls.output.resume import Run
from framecls.output.stored import from_stored, to_stored

if TYPE_CHECKING:
    from framecls.audio import Input

_log = logging.getLogger(__name__)

_JOURNAL = ".framecls-journal"  # in a folder of results; beside a file NAME of results: .NAME.framecls-journal
_LONGEST_NAME = 255  # bytes
_STALE = ".framecls-stale"  # in a folder of results: those that are true of no recording any more
_MOST_NAMED = 3  # of them in one message
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
    def needs_outline(self) -> bool:
        """Whether a picture of the scores is drawn from an outline of them."""
        return self.format in FOR_EYES

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

    def discard(self, relative: Path) -> None:  # noqa: B027 (only a folder holds results of earlier runs)
        """Take note that an input failed: no old result of it may pass for one of this run."""


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
        self._run = run
        self._paths: dict[Path, Path] = {}  # of an input's result, by the input's relative path
        self._facts: dict[Path, str] = {}  # that a result is true of, by the same
        self._stale: list[str] = []  # results that were moved away
        self._threads = ThreadPoolExecutor(_WRITING_THREADS, thread_name_prefix="framecls-write")
        self._waiting: deque[tuple[str, Future[None]]] = deque()  # names of recordings whose files are being written
        taken: set[Path] = set()
        for item in run.inputs:
            path = mirrored_path(folder, item.relative, form.suffix)
            if path not in taken:
                taken.add(path)
                self._paths[item.relative] = path
        if journal is not None:
            self._facts = _collect_facts(run)
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

    def discard(self, relative: Path) -> None:
        """Move the input's old result away, if a run wrote it of another state of the input and nobody changed it."""
        path = self._paths.get(relative)
        record = self._record_of(path) if path is not None else None
        if record is not None and record["facts"] != self._facts.get(relative):
            self._retire(record)

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            OutputError: some results could not be, for a reason that holds for all.
        """
        try:
            self._settle(0)
        finally:
            self._threads.shutdown(cancel_futures=True)
            if self._stale:
                shown = ", ".join(self._stale[:_MOST_NAMED]) + (", …" if len(self._stale) > _MOST_NAMED else "")
                said = "%s: %d old results of recordings that fail now or are gone were moved to %s: %s"
                _log.warning(said, self._folder, len(self._stale), _STALE, shown)

    def retire_vanished(self) -> None:
        """Move away the results of recordings that are not there any more, of those that this run's arguments name.

        Raises:
            FrameclsError: the journal cannot be read.
        """
        self._settle(0)
        if self._journal is None or not self._run.resume or not self._run.inputs:
            return
        places = {os.path.abspath(argument) for argument in self._run.arguments}
        for key, found in self._journal.records():
            record = _check_record(found)
            if record is None or key != key_of_output(record["output"]):
                continue
            source = Path(record["input"])
            if not places.isdisjoint(map(str, (source, *source.parents))) and not os.path.lexists(source):
                self._retire(record)

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
        written = _look_at(path)
        if self._journal is not None and relative in self._facts and written is not None:
            output = self._name_in_folder(path)
            values = {
                "output": output,
                "file": result.file,
                "model": result.model,
                "input": self._run.states[relative].path,
                "facts": self._facts[relative],
                "written": written,
            }
            self._journal.add(key_of_output(output), Record(values))

    def _name_in_folder(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _record_of(self, path: Path) -> dict[str, Any] | None:
        """Return what the journal says of a result, if that is still as a run wrote it."""
        output = self._name_in_folder(path)
        record = _check_record(self._journal.get(key_of_output(output))) if self._journal is not None else None
        written = _look_at(path)
        is_current = record is not None and record["output"] == output and record["written"] == written
        return record if is_current and written is not None else None

    def _is_done(self, relative: Path) -> bool:
        path = self._paths.get(relative)
        record = self._record_of(path) if path is not None and relative in self._facts else None
        return record is not None and record["facts"] == self._facts[relative]

    def _retire(self, record: dict[str, Any]) -> None:
        assert self._journal is not None
        output = record["output"]
        path = self._folder / output
        if _look_at(path) == record["written"]:
            with contextlib.suppress(OSError):  # it is in nobody's way
                (self._folder / _STALE / output).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, self._folder / _STALE / output)
                self._stale.append(output)
        self._journal.remove(key_of_output(output))


def key_of_output(output: str) -> str:
    """Return the key of a result's record from its name in the folder."""
    return make_key("output", output)


def check_folder_record(record: Record) -> None:
    """Raise a ValueError for a record that no run writes of a result in a folder."""
    values = record.values
    texts = ("output", "file", "model", "input", "facts")
    good = values.keys() == {*texts, "written"} and all(isinstance(values[name], str) for name in texts)
    good = good and isinstance(values["written"], list) and all(type(n) is int for n in values["written"])
    if not good or record.arrays or "\0" in values["output"] + values["input"]:
        raise ValueError("it is not what a run keeps of a result")
    parts = PurePath(values["output"]).parts
    if not parts or PurePath(values["output"]).is_absolute() or ".." in parts:
        raise ValueError("its result would be outside of the folder")


def _check_record(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    try:
        check_folder_record(record)
    except ValueError:
        return None
    return record.values


class JournalDestination(Destination):
    """One file for all, which is made at the end from the results in a journal.

    They are written in the order of the inputs, whichever run they are of: a run that was killed and resumed gives the
    same bytes as one that was not.
    """

    def __init__(self, form: Form, path: Path, run: Run, journal: Journal) -> None:
        self._form = form
        self._path = path
        self._journal = journal
        self._kind = run.result
        facts = _collect_facts(run)
        # What has no state to be known again by is kept for this run only.
        self._keys = {item.relative: facts.get(item.relative) or make_key(secrets.token_hex()) for item in run.inputs}
        self._names = {item.relative: item.name for item in run.inputs}
        self._done: set[Path] = set()
        n_invalid = 0
        for item in run.inputs if run.resume else ():
            if self._read(item.relative) is not None:
                self._done.add(item.relative)
            elif self._keys[item.relative] in journal:
                n_invalid += 1
        if n_invalid:
            _log.warning("%s: %d results in it are damaged: these recordings are done again", journal.path, n_invalid)
        super().__init__([item for item in run.inputs if item.relative not in self._done])

    def write(self, result: Result, relative: Path) -> None:
        """Keep the result in the journal."""
        stored = to_stored(result, frames=self._form.needs_frames, outline=self._form.needs_outline)
        self._journal.add(self._keys[relative], stored)
        self._done.add(relative)
        self.n_written += 1

    def publish(self) -> None:
        """Write the file from what was done, and keep no more than that in the journal.

        Raises:
            FrameclsError: the file cannot be written.
        """
        if not self._keys:
            return  # a mistyped name must not cost the results of another day
        done = [relative for relative in self._keys if relative in self._done]
        writer = self._form.make_writer()
        with atomic_write(self._path, self._form.is_binary) as stream:
            writer.begin(stream)
            for relative in done:
                result = self._read(relative)
                if result is None:  # it was good when the run began, or this run added it
                    raise FrameclsError(f"{self._journal.path}: somebody changed this journal: run again with --resume")
                writer.write(result, stream)
            writer.end(stream)
        with contextlib.suppress(FrameclsError):  # a journal that is longer than it must be does as well
            self._journal.keep(self._keys[relative] for relative in done)

    def _read(self, relative: Path) -> Result | None:
        """Return what the journal has of an input, if that can be its result."""
        record = self._journal.get(self._keys[relative])
        if record is None:
            return None
        try:
            result = from_stored(record)
        except ValueError:
            return None
        is_whole = not (self._form.needs_frames and record.values.get("n_frames") is None)
        is_of_kind = self._kind is None or isinstance(result, self._kind)
        return result if is_whole and is_of_kind and result.file == self._names[relative] else None


def _collect_facts(run: Run) -> dict[Path, str]:
    """Return what a result is true of, for the inputs whose state is known, by their relative paths."""
    fingerprint = run.fingerprint()
    return {
        item.relative: make_key(
            fingerprint, item.name, item.channel or 0, *dataclasses.astuple(run.states[item.relative])
        )
        for item in run.inputs
        if item.relative in run.states
    }


def _look_at(path: Path) -> list[int] | None:
    """Return what tells whether a file is still as it was written: its size in bytes, and when that was, in ns."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
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
    if len(os.fsencode(name)) + len("-journal") > _LONGEST_NAME:  # as SQLite names the file beside it
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
    with (
        open_journal(folder / _JOURNAL, alone=False) as journal,
        closing(FolderDestination(form, folder, run, journal)) as destination,
    ):
        yield destination
        destination.retire_vanished()
