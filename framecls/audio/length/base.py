"""What is known of the length of a file, before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from framecls.audio.wav import PcmFormat


@dataclass(frozen=True)
class FileLength:
    """What is known of the length of a file, beside what libsndfile makes of it."""

    promised_s: float | None = None  # what the header says, where the file has less
    is_cut: bool = False  # it ends within a packet, or without the mark of an end
    beyond_libsndfile: bool = False  # libsndfile would stop before its end, or say something of its own
    has_samples: bool = True
    links: tuple[int, ...] = ()  # first bytes of the files that were joined into this one
    # Where samples go on after those that the header counts: all of them, from this byte on.
    samples: PcmFormat | None = None
    first_byte: int = 0


WHOLE = FileLength()


def read_at(handle: IO[bytes], position: int, n_bytes: int) -> bytes:
    if position >= 2**62:  # no place that a file has
        return b""
    handle.seek(position)
    parts = []
    while n_bytes > 0 and (part := handle.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)
