"""Find the recordings that the arguments of a command name: files, folders, lists of paths, standard input."""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from framecls.audio.channels import Channel
from framecls.audio.faults import explain_os_error
from framecls.errors import AudioError

_SOUND = "aac ac3 aif aifc aiff amr ape au avr caf dts eac3 flac m4a m4b mka mp2 mp3 mpc mpga nist oga ogg opus ra"
_MORE_SOUND = "rf64 snd sph spx tta voc w64 wav wave wma wv"
_VIDEO = "3g2 3gp asf avi flv m4v mkv mov mp4 mpeg mpg ogv rm webm wmv"
# Files that a search of a folder finds; a file that is named itself is opened whatever its suffix.
AUDIO_SUFFIXES = frozenset(f".{name}" for name in f"{_SOUND} {_MORE_SOUND} {_VIDEO}".split())
# Enough for a million long paths; a pipe that never ends is longer.
_MAX_LIST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Input:
    """One recording to read."""

    path: Path | None  # None: standard input
    name: str  # for people and results: the path as it was given, "-" for standard input
    # Where this recording's output goes under an output folder, before a suffix is added; no two inputs share one.
    relative: Path
    channel: int | None = None  # the one that is meant, counted from 1; None: the recording as a whole

    @property
    def source(self) -> Path | BinaryIO | Channel:
        """What `open_audio` opens.

        Raises:
            AudioError: it is standard input, and that is closed.
        """
        if self.path is not None:
            return self.path if self.channel is None else Channel(self.path, self.channel)
        if sys.stdin is None:
            raise AudioError("standard input is closed: pipe audio into it, or give a file")
        # Unbuffered: a thread that waits in a buffered read holds the buffer's lock, and Python aborts when it cannot
        # take that lock on its way out, as after Ctrl-C while a live source is silent.
        return cast(BinaryIO, getattr(sys.stdin.buffer, "raw", sys.stdin.buffer))


@dataclass(frozen=True)
class InputFailure:
    """One argument, folder or list that gave no recordings."""

    name: str
    error: AudioError


def find_inputs(arguments: Sequence[str]) -> Iterator[Input | InputFailure]:
    """Yield the recordings that the arguments name, in their order, each once.

    An argument is a file, a folder (every file in it whose suffix is one of AUDIO_SUFFIXES, recursively, sorted, hidden
    ones left out), `-` (standard input) or `@LIST`, a text file of paths, one a line; blank lines are skipped, and
    those that begin with `#` unless there is such a file; paths are relative to the current folder. What is wrong with
    one does not stop the others.

    `relative` of a file in a folder is its path under that folder; of a file that is named itself, the path as given,
    or the bare name where that leads out of the current folder. Should two clash, the later one gets more of its
    parents.
    """
    seen: set[str] = set()
    taken: set[str] = set()
    for found in itertools.chain.from_iterable(_expand(argument) for argument in arguments):
        key = _identity(found)
        if key in seen:
            continue
        seen.add(key)
        if isinstance(found, Input):
            relative = next(r for r in _relatives(found) if os.path.normcase(r) not in taken)
            taken.add(os.path.normcase(relative))
            found = dataclasses.replace(found, relative=relative)
        yield found


def _identity(found: Input | InputFailure) -> str:
    """Return a key that two names of one file share; a symbolic link is a recording of its own."""
    if isinstance(found, InputFailure):
        return f"failure {found.name}"
    if found.path is None:
        return "-"
    return os.path.join(os.path.realpath(found.path.parent), found.path.name)


def _relatives(found: Input) -> Iterator[Path]:
    """Yield the relative path to use, then ever longer ones for when it is taken."""
    yield found.relative
    if found.path is not None:
        parts = (*Path(os.path.realpath(found.path.parent)).parts[1:], found.path.name)
        for n_parts in range(len(found.relative.parts) + 1, len(parts) + 1):
            yield Path(*parts[-n_parts:])
    for number in itertools.count(2):
        yield Path(str(number)) / found.relative


def _expand(argument: str) -> Iterator[Input | InputFailure]:
    if argument == "-":
        yield Input(None, "-", Path("stdin"))
    elif argument.startswith("@"):
        yield from _expand_list(argument)
    else:
        yield from _expand_path(argument)


def _expand_path(name: str) -> Iterator[Input | InputFailure]:
    if not name:
        yield InputFailure(name, AudioError("an empty name: give a file or a folder"))
        return
    path = Path(name)
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        yield InputFailure(name, explain_os_error(error))
        return
    if not is_folder:
        leads_out = path.is_absolute() or ".." in path.parts
        yield Input(path, name, Path(path.name) if leads_out else path)
        return
    empty = True
    for found in _walk(path):
        empty = False
        yield found
    if empty:
        yield InputFailure(name, AudioError("there is no audio file in this folder"))


def _expand_list(argument: str) -> Iterator[Input | InputFailure]:
    try:
        mode = os.stat(argument[1:]).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise AudioError("a list must be a text file of paths, one a line")
        with open(argument[1:], "rb") as file:
            # surrogateescape: the bytes of a name need not be valid UTF-8
            data = file.read(_MAX_LIST_BYTES + 1)
        if len(data) > _MAX_LIST_BYTES:
            raise AudioError(f"a list of more than {_MAX_LIST_BYTES >> 20} MB: split it")
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        if "\0" in text:
            raise AudioError("a list must be a text file of paths, one a line; this is no text")
        lines = [line.strip() for line in text.split("\n")]
        names = [line for line in lines if line and not (line.startswith("#") and not os.path.lexists(line))]
        if not names:
            raise AudioError("there are no paths in this list")
    except (OSError, ValueError) as error:
        yield InputFailure(argument, explain_os_error(error))
    except AudioError as error:
        yield InputFailure(argument, error)
    else:
        for name in names:
            yield from _expand_path(name)


def _walk(folder: Path) -> Iterator[Input | InputFailure]:
    """Yield the audio files under a folder, sorted by path, and the folders that cannot be read.

    Links to folders are followed, but no folder is entered twice: a link to a parent would never end.
    """
    entered: set[tuple[int, int]] = set()
    todo = [folder]
    while todo:
        path = todo.pop()
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) not in entered:
                    entered.add((status.st_dev, status.st_ino))
                    names = sorted(name for name in os.listdir(path) if not name.startswith("."))
                    todo += [path / name for name in reversed(names)]
            elif stat.S_ISREG(status.st_mode) and path.suffix.lower() in AUDIO_SUFFIXES:
                yield Input(path, str(path), path.relative_to(folder))
        except OSError as error:
            # A dead link is no failure unless it is named like audio.
            if not os.path.islink(path) or path.suffix.lower() in AUDIO_SUFFIXES:
                yield InputFailure(str(path), explain_os_error(error))
