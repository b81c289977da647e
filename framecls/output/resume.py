"""What an earlier run has done: whether an input, and all that decides its result, are as they were then."""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from framecls.output.journal import make_key

if TYPE_CHECKING:
    from framecls.audio import Input


@dataclass(frozen=True)
class InputState:
    """A recording as it was when the run began."""

    path: str  # absolute
    size_bytes: int
    mtime_ns: int
    ctime_ns: int  # a change that somebody hid by setting the other time back shows here
    inode: int


def observe(inputs: Sequence[Input]) -> dict[Path, InputState]:
    """Return the state of every input that is a regular file, by its `relative` path, which no two inputs share."""
    states: dict[Path, InputState] = {}
    for item in inputs:
        if item.path is None:
            continue
        try:
            status = os.stat(item.path)
        except OSError:  # the failure is reported when it is read
            continue
        if stat.S_ISREG(status.st_mode):
            path = os.path.abspath(item.path)
            states[item.relative] = InputState(
                path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            )
    return states


def collect_facts(
    inputs: Sequence[Input], states: Mapping[Path, InputState], fingerprint: str, beside: str = ""
) -> dict[Path, str]:
    """Return a key of all that decides an input's result, by relative path, for the inputs whose state is known.

    Args:
        inputs: of the run.
        states: of those inputs that are regular files.
        fingerprint: of what holds for all of them: options, model, version.
        beside: suffix of the file beside each recording that decides, too; empty: there is none.
    """
    facts: dict[Path, str] = {}
    for item in inputs:
        state = states.get(item.relative)
        if state is not None:
            others = observe([dataclasses.replace(item, path=Path(state.path).with_suffix(beside))]) if beside else {}
            decides = [value for known in (state, *others.values()) for value in dataclasses.astuple(known)]
            facts[item.relative] = make_key(fingerprint, item.name, item.channel or 0, *decides)
    return facts


@dataclass(frozen=True)
class History:
    """What tells a destination which inputs an earlier run has done."""

    facts: Mapping[Path, str] = field(default_factory=dict)  # see `collect_facts`; an input without any is always done
    resume: bool = False  # leave out what a run with the same facts has done
    arguments: Sequence[str] = ()  # of the command line: files, folders, and files of lists


NO_HISTORY = History()
