"""What every reader of samples offers, and what several of them need."""

from __future__ import annotations

import select
import time
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from framecls.audio.faults import explain_os_error
from framecls.audio.header import MAX_DAMAGED, FileLength
from framecls.results import AudioInfo, Remarks

NO_AUDIO = "there is no audio in it"
LEAST_MISSING_S = 0.25  # padding, and what rounding makes of a length, is less


class Reader(Protocol):
    """Samples in order, once."""

    @property
    def info(self) -> AudioInfo:
        """Sample rate and channels."""

    @property
    def duration_s(self) -> float | None:
        """What the header says of the length, if anything: an estimate for some formats."""

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """Return (frame, channel) the next samples, at most `n_frames` of each channel and none at the end.

        Raises:
            AudioError: decoding broke.
        """

    def close(self) -> None:
        """Stop; a second call does nothing."""


def remark_end(remarks: Remarks, came_s: float, promised_s: float | None, is_cut: bool) -> None:
    """Remark where a recording ended, if it is not whole.

    Args:
        remarks: of the recording.
        came_s: its length in seconds.
        promised_s: what its header says of that; None: nothing.
        is_cut: its last packet is not whole, or not marked as the last.
    """
    if promised_s is not None and promised_s - came_s > LEAST_MISSING_S:
        reason = f"but its header says {promised_s:.1f} s"
    elif is_cut:
        reason = "in the middle of its data"
    else:
        return
    remarks.truncated = True
    remarks.warnings.append(f"it ends after {came_s:.1f} s, {reason}: it was cut off")


def remark_damage(remarks: Remarks, length: FileLength) -> None:
    """Remark pages that are damaged, where the decoder has nothing to say of it."""
    if length.n_damaged and not remarks.warnings:
        more = " or more" if length.n_damaged == MAX_DAMAGED else ""
        pages = "a page of it is" if length.n_damaged == 1 else f"{length.n_damaged}{more} pages of it are"
        remarks.warnings.append(f"{pages} damaged: what is heard there may be wrong, or missing")


def read_exactly(handle: IO[bytes], n_bytes: int) -> bytes:
    """Return the next `n_bytes` of a stream, which may hand out fewer at a time, or what is left of it."""
    parts: list[bytes] = []
    try:
        while n_bytes > 0:
            part = handle.read(n_bytes)
            if part is None:  # in non-blocking mode, where nothing has come yet
                _wait_for(handle)
                continue
            if not part:
                break
            parts.append(part)
            n_bytes -= len(part)
    except OSError as error:
        raise explain_os_error(error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _wait_for(handle: IO[bytes]) -> None:
    """Wait until something can be read, or the other end is closed; return after a second at the latest."""
    try:
        select.select([handle], [], [], 1.0)
    except (OSError, ValueError):  # nothing that a system can wait for
        time.sleep(0.01)
