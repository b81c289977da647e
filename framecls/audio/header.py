"""What the header of a file says: how its samples are stored, and how many there are."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Literal

MAX_CHANNELS = 1024  # libsndfile's limit
MAX_DAMAGED = 1000  # pages that are counted: each may cost the checksum of 64 KiB, and be 5 bytes long


@dataclass(frozen=True)
class PcmFormat:
    """How samples are stored that lie one after the other."""

    sample_rate: int
    channels: int
    subtype: str  # libsndfile's name
    frame_bytes: int
    n_frames: int | None  # None: until the stream ends
    endian: Literal["LITTLE", "BIG"] = "LITTLE"


@dataclass(frozen=True)
class FileLength:
    """What a file's header and data say of its length, where libsndfile alone would be wrong."""

    promised_s: float | None = None  # the length by the header, where the file has less or more
    is_cut: bool = False  # it ends within a packet, or without the mark of an end
    n_damaged: int = 0  # pages of an Ogg file whose checksums do not fit, or with bytes before them that are in none
    beyond_libsndfile: bool = False  # libsndfile would stop before its end, or say something of its own
    has_samples: bool = True
    links: tuple[int, ...] = ()  # first bytes of the files that were joined into this one
    end: int = 0  # the byte behind the last link; 0: the end of the file
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


# (format code, bits) to libsndfile's name
_WAV_SUBTYPES = {
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
_EXTENSIBLE = 0xFFFE
_MAX_CHUNK_BYTES = 1 << 20
# Programs that write into a pipe cannot go back to fill in the length: ffmpeg leaves 2^32 - 1, sox and arecord about
# 2^31, others 0.
MIN_OPEN_BYTES = 0x7FFF0000


def parse_wav_header(read: Callable[[int], bytes]) -> PcmFormat | None:
    """Read a RIFF/WAVE header up to the first sample.

    Args:
        read: returns that many bytes, or fewer at the end of the stream.

    Returns:
        the format, or None where this is no WAV stream of a kind that has one sample after the other.
    """
    head = read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    fmt = b""
    while len(chunk := read(8)) == 8:
        name, n_bytes = struct.unpack("<4sI", chunk)
        if name == b"data":
            return parse_fmt_chunk(fmt, n_bytes)
        if n_bytes > _MAX_CHUNK_BYTES:
            return None
        body = read(n_bytes + n_bytes % 2)  # chunks begin at even places
        if name == b"fmt ":
            fmt = body
    return None


def parse_fmt_chunk(fmt: bytes, data_bytes: int) -> PcmFormat | None:
    """Return what a `fmt ` chunk says, and the length of the samples; None: they do not lie one after the other."""
    if len(fmt) < 16:
        return None
    code, channels, sample_rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", fmt)
    if code == _EXTENSIBLE and len(fmt) >= 26:
        (code,) = struct.unpack_from("<H", fmt, 24)  # the sub-format begins with what the code would have been
    subtype = _WAV_SUBTYPES.get((code, bits))
    if subtype is None or not 1 <= channels <= MAX_CHANNELS or sample_rate < 1 or frame_bytes != channels * bits // 8:
        return None
    is_open = data_bytes == 0 or data_bytes >= MIN_OPEN_BYTES
    return PcmFormat(sample_rate, channels, subtype, frame_bytes, None if is_open else data_bytes // frame_bytes)
