"""What a file's header and data say of its length, before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from framecls.audio.wav import PcmFormat


@dataclass(frozen=True)
class FileLength:
    """What a file's header and data say of its length, where libsndfile alone would be wrong."""

    promised_s: float | None = None  # the length by the header, where the file has less or more
    is_cut: bool = False  # it ends within a packet, or without the mark of an end
    beyond_libsndfile: bool = False  # libsndfile would stop before its end, or say something of its own
    has_samples: bool = True
    links: tuple[int, ...] = ()  # first bytes of the files that were joined into this one
    # Where there are more samples than the header counts: how all of them are stored, and their first byte.
    samples: PcmFormat | None = None
    first_byte: int = 0


WHOLE = FileLength()


def read_at(handle: IO[bytes], position: int, n_bytes: int) -> bytes:
    """Return bytes of a file; fewer at its end, which a position from a header may be beyond."""
    if position >= 2**62:  # no system can seek there
        return b""
    handle.seek(position)
    parts = []
    while n_bytes > 0 and (part := handle.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)
