"""Errors of the operating system and of decoders, as one line that a user can act on."""

from __future__ import annotations

import os

from framecls.errors import AudioError
from framecls.text import one_line


def explain_os_error(error: OSError | ValueError) -> AudioError:
    """Return the failure to look at, open or read a file as an AudioError; a ValueError is a name no file can have."""
    if isinstance(error, FileNotFoundError):
        name = error.filename
        if isinstance(name, str | bytes | os.PathLike) and os.path.islink(name):
            return AudioError("it is a symbolic link to a file that does not exist")
        return AudioError("there is no such file or folder")
    if isinstance(error, PermissionError):
        return AudioError("no permission to read it")
    if isinstance(error, OSError):
        return AudioError(f"it cannot be read: {one_line(error.strerror or str(error))}")
    return AudioError("this is not a name that a file can have")


def explain_stall(timeout_s: float) -> AudioError:
    """Return the failure of a file of which nothing came for so long."""
    return AudioError(f"its decoder gave nothing for {timeout_s:g} s and was stopped (--timeout)")
