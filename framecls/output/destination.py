"""Where results go: one stream, one file, or a folder with a file for each input."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, TextIO

from framecls.errors import FrameclsError, OutputError, StdoutError, UsageError
from framecls.output.files import atomic_write, is_device, mirrored_path, remove_leftovers
from framecls.output.formats import Result, Writer
from framecls.output.journal import Journal, Record, make_key, open_journal
from framecls.output.resume import NO_HISTORY, History
from framecls.output.stored import from_record, to_record

if TYPE_CHECKING:
    from framecls.audio import Input

_log = logging.getLogger(__name__)

_JOURNAL = ".framecls-journal"  # in a folder of results; beside a file NAME of results: .NAME.framecls-journal
_LONGEST_NAME = 255  # bytes
_STALE = ".framecls-stale"  # in a folder of results: results that no longer describe a recording
_MOST_NAMED = 3  # stale results in one message
_WRITING_THREADS = 4
_MOST_WAITING = 8  # results that wait to be written: those of long recordings are large


class Destination(ABC):
    """Takes the results of a run: `open` it for the inputs, then `write` one result after the other.

    A file appears only when the block of `open` ends without an exception; what went to stdout or a folder stays.
    """

    file: Path | None = None  # the one file for all
    keeps_journal = False  # a later run can tell what this one has done

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.pending: list[Input] = []  # the inputs that are not done yet, in order
        self.n_written = 0
        self.failures: list[tuple[str, FrameclsError]] = []  # results that could not be written; others may be

    @abstractmethod
    def open(self, inputs: Sequence[Input], history: History = NO_HISTORY) -> AbstractContextManager[None]:
        """Take results until the end of the block.

        Args:
            inputs: all inputs of the run; from then on `pending` holds those to be done.
            history: what tells which of them an earlier run has done.

        Raises:
            OutputError: nothing can be written there.
            FrameclsError: another run writes there, or the journal is damaged.
        """

    @abstractmethod
    def write(self, result: Result, relative: Path) -> None:
        """Write one result, so that a reader gets it at once where the format allows.

        The outcome is added to `n_written` or `failures` now or, at the latest, when the destination is closed.

        Args:
            result: what the input gave.
            relative: the input's path as results mirror it.

        Raises:
            OutputError: neither this nor any other result can be written.
        """

    def discard(self, relative: Path) -> None:  # noqa: B027 (only a folder holds results of earlier runs)
        """Drop the old result of an input that failed."""


def choose_destination(
    writer: Writer,
    output: str | TextIO,
    n_inputs: int,
    *,
    from_folder: bool = False,
    keep_journal: bool = False,
    kind: type[Result] | None = None,
    by_stem: bool = False,
) -> Destination:
    """Choose where results go.

    Args:
        writer: of the format of the results.
        output: what -o names, or stdout.
        n_inputs: how many there are, those included that cannot be found.
        from_folder: they come from a folder or a list, which may have a different number of them another day.
        keep_journal: keep a journal, so that the run can be resumed.
        kind: of the results; a journal's record of another kind is ignored.
        by_stem: in a folder `a.wav` becomes `a.TextGrid`, not `a.wav.TextGrid`.

    Raises:
        UsageError: the format cannot hold several inputs, and -o names no folder; or there are no names to choose.
    """
    format = writer.name
    if not isinstance(output, str):
        if n_inputs > 1 and not writer.joins:
            raise UsageError(f"-f {format} holds one recording, and there are {n_inputs}: name a folder with -o")
        return StreamDestination(writer, output)
    several = (n_inputs > 1 or from_folder) and not writer.joins
    path = Path(output)
    if os.path.isdir(path) or output.endswith("/"):
        return FolderDestination(writer, path, keeps_journal=keep_journal, by_stem=by_stem)
    is_file = os.path.exists(path) or path.name.casefold().endswith(writer.suffix.casefold())
    if several and not (n_inputs == 1 and is_file):
        if is_file:
            said = f"-o {output}: {format} holds one recording a file, and there are {n_inputs}: name a folder"
            raise UsageError(said)
        return FolderDestination(writer, path, keeps_journal=keep_journal, by_stem=by_stem)
    if by_stem:
        raise UsageError(f"--naming stem names files in a folder, and -o {output} is none: write -o {output}/")
    if keep_journal and not is_device(path):
        return JournalDestination(writer, path, kind)
    return FileDestination(writer, path)


class StreamDestination(Destination):
    """One stream for all."""

    def __init__(self, writer: Writer, stream: IO[Any] | None) -> None:
        super().__init__(writer)
        self._stream: Any = stream

    @contextmanager
    def open(self, inputs: Sequence[Input], history: History = NO_HISTORY) -> Iterator[None]:
        self.pending = list(inputs)
        self._writer.begin(self._stream)
        try:
            yield
        except StdoutError:
            raise
        except BaseException:
            self._writer.end(self._stream)  # also after an interrupt: what is there can be read
            raise
        self._writer.end(self._stream)

    def write(self, result: Result, relative: Path) -> None:
        """Write and flush: whoever reads a pipe gets each result as it comes."""
        self._writer.write(result, self._stream)
        self._stream.flush()
        self.n_written += 1


class FileDestination(StreamDestination):
    """One file for all, written as the results come; without a journal."""

    def __init__(self, writer: Writer, path: Path) -> None:
        super().__init__(writer, None)
        self.file = path

    @contextmanager
    def open(self, inputs: Sequence[Input], history: History = NO_HISTORY) -> Iterator[None]:
        assert self.file is not None
        self.pending = list(inputs)
        with atomic_write(self.file, self._writer.binary) as self._stream:
            self._writer.begin(self._stream)
            yield
            self._writer.end(self._stream)


class FolderDestination(Destination):
    """A file for each input, and a journal of the recordings that these results are of.

    An input is done if the journal has it with the same facts, and its file is unchanged since it was written. Threads
    write the files, because most of that time is spent waiting for the disk.
    """

    def __init__(self, writer: Writer, folder: Path, *, keeps_journal: bool, by_stem: bool = False) -> None:
        super().__init__(writer)
        # Beside recordings there may be work of people by the names of results: the journal tells which are ours.
        self.keeps_journal = keeps_journal or by_stem
        self._by_stem = by_stem
        self._folder = folder
        self._journal: Journal | None = None
        self._inputs: dict[Path, str] = {}  # absolute path of an input's recording, by the input's relative path
        self._paths: dict[Path, Path] = {}  # path of an input's result, by the same
        self._history = NO_HISTORY
        self._stale: list[str] = []  # results that were moved away
        self._threads = ThreadPoolExecutor(_WRITING_THREADS, thread_name_prefix="framecls-write")
        self._waiting: deque[tuple[str, Future[None]]] = deque()  # names of recordings whose files are being written

    @contextmanager
    def open(self, inputs: Sequence[Input], history: History = NO_HISTORY) -> Iterator[None]:
        self._assign_paths(inputs)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"-o {self._folder}: the folder cannot be made: {error.strerror}") from error
        with ExitStack() as stack:
            if self.keeps_journal:
                self._journal = stack.enter_context(open_journal(self._folder / _JOURNAL, exclusive=False))
                self._history = history
            stack.callback(self._close)
            if self._by_stem:
                self._refuse_foreign()
            remove_leftovers(path.parent for path in self._paths.values())
            self.pending = [item for item in inputs if not (history.resume and self._is_done(item.relative))]
            yield
            if history.resume and inputs:
                self._retire_vanished()

    def _assign_paths(self, inputs: Sequence[Input]) -> None:
        """Give each input a file of its own; the second of two with one name gets none.

        Raises:
            UsageError: by stem, two have one name.
        """
        taken: dict[Path, str] = {}
        for item in inputs:
            path = mirrored_path(self._folder, self._mirrored(item), self._writer.suffix)
            if path not in taken:
                taken[path] = item.name
                self._paths[item.relative] = path
            elif self._by_stem:
                said = f"{taken[path]} and {item.name} would both become {path}"
                raise UsageError(f"--naming stem: {said}: leave --naming out")
            if item.path is not None:
                self._inputs[item.relative] = os.path.abspath(item.path)

    def _mirrored(self, item: Input) -> Path:
        """Return the path of an input's result in the folder, before a suffix is added."""
        if not self._by_stem:
            return item.relative
        number = "" if item.channel is None else f".{item.channel}"
        return item.relative.with_name(PurePath(item.relative.name.removesuffix(number)).stem + number)

    def _refuse_foreign(self) -> None:
        """Refuse to write over files that no run wrote, or that somebody changed since.

        Raises:
            UsageError: there are such files.
        """
        foreign = [path for path in self._paths.values() if os.path.lexists(path) and self._record_of(path) is None]
        if foreign:
            others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            said = f"{foreign[0]}{others} would be overwritten, and framecls did not write what is there"
            raise UsageError(f"--naming stem: {said}: move it away, or name another folder")

    def write(self, result: Result, relative: Path) -> None:
        """Write the input's own file, in a thread."""
        self._settle(_MOST_WAITING - 1)
        path = self._paths.get(relative)
        if path is None:
            path = mirrored_path(self._folder, relative, self._writer.suffix)
            said = f"{path} already holds the result of another input of this run"
            self.failures.append((result.file, FrameclsError(said)))
        else:
            self._waiting.append((result.file, self._threads.submit(self._write, result, relative, path)))

    def discard(self, relative: Path) -> None:
        """Move the old result of an input away, if it is of another state of the input and nobody changed it since."""
        path = self._paths.get(relative)
        record = self._record_of(path) if path is not None else None
        if record is not None and record["facts"] != self._history.facts.get(relative):
            self._retire(record)

    def _close(self) -> None:
        """Wait until all is written."""
        try:
            self._settle(0)
        finally:
            self._threads.shutdown(cancel_futures=True)
            if self._stale:
                shown = ", ".join(self._stale[:_MOST_NAMED]) + (", …" if len(self._stale) > _MOST_NAMED else "")
                said = "%s: %d old results of recordings that fail now or are gone were moved to %s: %s"
                _log.warning(said, self._folder, len(self._stale), _STALE, shown)

    def _retire_vanished(self) -> None:
        """Move away the results of recordings that are gone, if the arguments of this run name them."""
        self._settle(0)
        if self._journal is None:
            return
        places = {os.path.abspath(argument) for argument in self._history.arguments}
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
        writer = copy.copy(self._writer)  # its state is of one stream
        with atomic_write(path, writer.binary) as stream:
            writer.begin(stream)
            writer.write(result, stream)
            writer.end(stream)
        written = _size_and_mtime(path)
        if self._journal is not None and relative in self._history.facts and written is not None:
            output = self._name_in_folder(path)
            values = {
                "output": output,
                "file": result.file,
                "model": result.model,
                "input": self._inputs[relative],
                "facts": self._history.facts[relative],
                "written": written,
            }
            self._journal.add(key_of_output(output), Record(values))

    def _name_in_folder(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _record_of(self, path: Path) -> dict[str, Any] | None:
        """Return the journal's record of a result, if the file is unchanged since a run wrote it."""
        output = self._name_in_folder(path)
        record = _check_record(self._journal.get(key_of_output(output))) if self._journal is not None else None
        written = _size_and_mtime(path)
        is_current = record is not None and record["output"] == output and record["written"] == written
        return record if is_current and written is not None else None

    def _is_done(self, relative: Path) -> bool:
        path = self._paths.get(relative)
        record = self._record_of(path) if path is not None and relative in self._history.facts else None
        return record is not None and record["facts"] == self._history.facts[relative]

    def _retire(self, record: dict[str, Any]) -> None:
        assert self._journal is not None
        output = record["output"]
        path = self._folder / output
        if _size_and_mtime(path) == record["written"]:
            with contextlib.suppress(OSError):  # then it stays where it is
                (self._folder / _STALE / output).parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, self._folder / _STALE / output)
                self._stale.append(output)
        self._journal.remove(key_of_output(output))


class JournalDestination(Destination):
    """One file for all, written at the end from the results in a journal, in the order of the inputs.

    A run that was killed and resumed gives the same bytes as one that was not.
    """

    keeps_journal = True

    def __init__(self, writer: Writer, path: Path, kind: type[Result] | None = None) -> None:
        super().__init__(writer)
        self.file: Path = path
        self._kind = kind
        self._keys: dict[Path, str] = {}  # of the journal's records, by the relative paths of inputs
        self._names: dict[Path, str] = {}
        self._done: set[Path] = set()

    @contextmanager
    def open(self, inputs: Sequence[Input], history: History = NO_HISTORY) -> Iterator[None]:
        # Behind a link: the journal is beside the file itself.
        target = Path(os.path.realpath(self.file)) if os.path.islink(self.file) else self.file
        if os.path.isdir(target):
            raise FrameclsError(f"cannot write {self.file}: it is a folder")
        with open_journal(_journal_of(target), exclusive=True) as self._journal:
            remove_leftovers([target.parent])
            # An input without facts cannot be recognised by a later run: its record is for this run only.
            self._keys = {
                item.relative: history.facts.get(item.relative) or make_key(secrets.token_hex()) for item in inputs
            }
            self._names = {item.relative: item.name for item in inputs}
            if history.resume:
                self._find_done()
            self.pending = [item for item in inputs if item.relative not in self._done]
            yield
            self._publish()

    def _find_done(self) -> None:
        n_invalid = 0
        for relative, key in self._keys.items():
            if self._read(relative) is not None:
                self._done.add(relative)
            elif key in self._journal:
                n_invalid += 1
        if n_invalid:
            said = "%s: %d results in it are damaged: these recordings are done again"
            _log.warning(said, self._journal.path, n_invalid)

    def write(self, result: Result, relative: Path) -> None:
        """Add the result to the journal."""
        stored = to_record(result, frames=self._writer.frames, outline=self._writer.for_people)
        self._journal.add(self._keys[relative], stored)
        self._done.add(relative)
        self.n_written += 1

    def _publish(self) -> None:
        """Write the file, and remove from the journal what is not in it."""
        if not self._keys:
            return  # a mistyped name must not cost the results of another day
        done = [relative for relative in self._keys if relative in self._done]
        with atomic_write(self.file, self._writer.binary) as stream:
            self._writer.begin(stream)
            for relative in done:
                result = self._read(relative)
                if result is None:  # it was sound when the run began, or this run added it
                    raise FrameclsError(f"{self._journal.path}: somebody changed this journal: run again with --resume")
                self._writer.write(result, stream)
            self._writer.end(stream)
        with contextlib.suppress(FrameclsError):  # records too many do no harm
            self._journal.keep(self._keys[relative] for relative in done)

    def _read(self, relative: Path) -> Result | None:
        """Return the result of an input that is in the journal, if it is sound and complete."""
        record = self._journal.get(self._keys[relative])
        if record is None:
            return None
        try:
            result = from_record(record)
        except ValueError:
            return None
        is_whole = not (self._writer.frames and record.values.get("n_frames") is None)
        is_of_kind = self._kind is None or isinstance(result, self._kind)
        return result if is_whole and is_of_kind and result.file == self._names[relative] else None


def key_of_output(output: str) -> str:
    """Return the key of a result's record from its name in the folder."""
    return make_key("output", output)


def check_folder_record(record: Record) -> None:
    """Raise a ValueError for a record that no run writes into the journal of a folder."""
    values = record.values
    texts = ("output", "file", "model", "input", "facts")
    good = values.keys() == {*texts, "written"} and all(isinstance(values[name], str) for name in texts)
    good = good and isinstance(values["written"], list) and all(type(n) is int for n in values["written"])
    if not good or record.arrays or "\0" in values["output"] + values["input"]:
        raise ValueError("not a record of a result in a folder")
    parts = PurePath(values["output"]).parts
    if not parts or PurePath(values["output"]).is_absolute() or ".." in parts:
        raise ValueError("a result outside of the folder")


def _check_record(record: Record | None) -> dict[str, Any] | None:
    if record is None:
        return None
    try:
        check_folder_record(record)
    except ValueError:
        return None
    return record.values


def _size_and_mtime(path: Path) -> list[int] | None:
    """Return the size of a file in bytes and the time of its last change in ns, to tell whether it changed since."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _journal_of(target: Path) -> Path:
    name = f".{target.name}{_JOURNAL}"
    if len(os.fsencode(name)) + len("-journal") > _LONGEST_NAME:  # as SQLite names the file beside it
        name = f".{make_key(target.name)}{_JOURNAL}"
    return target.with_name(name)
