"""Errors of the operating system and of decoders, as one line that a user can act on."""

from __future__ import annotations

import os
import re

from framecls.errors import AudioError
from framecls.text import one_line

_ADDRESS = re.compile("[a-z][a-z0-9+.-]+:/")  # longer than the letter of a drive


def explain_os_error(error: OSError | ValueError) -> AudioError:
    """Return the failure to look at, open or read a file as an AudioError; a ValueError is a name no file can have."""
    if isinstance(error, FileNotFoundError):
        name = error.filename
        if isinstance(name, str | bytes | os.PathLike) and os.path.islink(name):
            return AudioError("it is a symbolic link to a file that does not exist")
        if isinstance(name, str | os.PathLike) and _ADDRESS.match(os.fspath(name)):
            return AudioError("this is an address, and only files are read: download it, or pipe it in, as -")
        return AudioError("there is no such file or folder")
    if isinstance(error, PermissionError):
        return AudioError("no permission to read it")
    if isinstance(error, OSError):
        return AudioError(f"it cannot be read: {one_line(error.strerror or str(error))}")
    return AudioError("this is not a name that a file can have")


def explain_stall(timeout_s: float) -> AudioError:
    """Return the failure of a file of which nothing came for so long."""
    return AudioError(f"its decoder gave nothing for {timeout_s:g} s and was stopped (--timeout)")
