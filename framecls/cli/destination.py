"""Where results go: stdout, one file, or a folder with a file for each input."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from framecls.cli.formats import FOR_EYES, SUFFIXES, SVG
from framecls.errors import FrameclsError, UsageError
from framecls.output.frames import make_frame_writer
from framecls.output.writers import WRITERS, Result, atomic_write, make_writer, mirrored_path


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

    def accepts(self, kind: type[Result]) -> bool:
        """Whether the form has a place for results of a kind."""
        return self.format in FOR_EYES or issubclass(kind, WRITERS[self.format].accepts)

    @property
    def is_binary(self) -> bool:
        """Whether the stream is one of bytes."""
        return self.format not in FOR_EYES and WRITERS[self.format].binary


class Destination(ABC):
    """Takes results one by one; `relative` is the input's path as results mirror it."""

    @abstractmethod
    def write(self, result: Result, relative: Path) -> None:
        """Write one result, so that a reader gets it at once where the form allows.

        Raises:
            FrameclsError: this result could not be written, others may.
        """


class StreamDestination(Destination):
    """One stream for all."""

    def __init__(self, writer: StreamWriter, stream: IO[Any]) -> None:
        self._writer = writer
        self._stream = stream

    def write(self, result: Result, relative: Path) -> None:
        """Write and flush: whoever reads a pipe gets each result as it comes."""
        self._writer.write(result, self._stream)
        self._stream.flush()


class FolderDestination(Destination):
    """A file for each input."""

    def __init__(self, form: Form, folder: Path) -> None:
        self._form = form
        self._folder = folder
        self._written: set[Path] = set()

    def write(self, result: Result, relative: Path) -> None:
        """Write the input's own file, whole or not at all."""
        path = mirrored_path(self._folder, relative, self._form.suffix)
        if path in self._written:
            raise FrameclsError(f"{path} already holds the result of another input of this run")
        self._written.add(path)
        writer = self._form.make_writer()
        with atomic_write(path, self._form.is_binary) as stream:
            writer.begin(stream)
            writer.write(result, stream)
            writer.end(stream)


@dataclass(frozen=True)
class Plan:
    """Where results will go: `open` gives a context manager around a `Destination`.

    A file appears only when the block ends well; what went to stdout or to a folder stays.
    """

    open: Callable[[], AbstractContextManager[Destination]]
    file: Path | None = None  # the one file for all


def plan_destination(form: Form, output: str | None, n_inputs: int) -> Plan:
    """Choose where results go.

    Raises:
        UsageError: the form cannot hold several inputs, and -o names no folder.
    """
    several = n_inputs > 1 and not form.joins
    if output is None:
        if several:
            raise UsageError(f"-f {form.format} holds one recording, and there are {n_inputs}: name a folder with -o")
        return Plan(lambda: _open_stdout(form))
    path = Path(output)
    if path.is_dir() or output.endswith("/"):
        return Plan(lambda: _open_folder(form, path))
    if several:
        if path.exists() or path.suffix.casefold() == form.suffix.casefold():
            raise UsageError(
                f"-o {output}: {form.format} holds one recording a file, and there are {n_inputs}: name a folder"
            )
        return Plan(lambda: _open_folder(form, path))
    return Plan(lambda: _open_file(form, path), path)


@contextmanager
def _open_stdout(form: Form) -> Iterator[Destination]:
    stream = sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if form.format not in FOR_EYES and reconfigure is not None:
        # Machine output is the same bytes everywhere, whatever the locale or the system.
        reconfigure(encoding="utf-8", newline="\n")
    writer = form.make_writer()
    writer.begin(stream)
    try:
        yield StreamDestination(writer, stream)
    except BrokenPipeError:
        raise
    except BaseException:
        writer.end(stream)  # also after an interrupt: what is there can be read
        raise
    writer.end(stream)


@contextmanager
def _open_file(form: Form, path: Path) -> Iterator[Destination]:
    writer = form.make_writer()
    with atomic_write(path, form.is_binary) as stream:
        writer.begin(stream)
        yield StreamDestination(writer, stream)
        writer.end(stream)


@contextmanager
def _open_folder(form: Form, folder: Path) -> Iterator[Destination]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FrameclsError(f"-o {folder}: the folder cannot be made: {error.strerror}") from error
    yield FolderDestination(form, folder)
