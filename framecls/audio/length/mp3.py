"""Count the frames of an mp3 file without decoding: libsndfile guesses their number where no header says it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO

from framecls.audio.header import WHOLE, FileLength, read_at

_BLOCK_BYTES = 1 << 20
_LOOK_BYTES = 1 << 16  # how far the first frame, and the next one after damage, are looked for
_LEAST_FRAMES = 5  # what follows the counted frames is more sound, and not a remainder, from so many on

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version, Hz
_KILOBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KILOBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


@dataclass(frozen=True)
class _Frame:
    n_bytes: int
    rate: int  # Hz
    n_samples: int
    kilobits: int
    is_mono: bool


def _parse(head: bytes) -> _Frame | None:
    """Return what the four bytes at the start of a layer III frame say; None: they are not that."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, row, column = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or column == 3 or row in (0, 15):
        return None
    rate = _RATES[version][column]
    kilobits = (_KILOBITS_1 if version == 3 else _KILOBITS_2)[row]
    n_samples = 1152 if version == 3 else 576
    n_bytes = n_samples * 125 * kilobits // rate + (head[2] >> 1 & 1)
    return _Frame(n_bytes, rate, n_samples, kilobits, head[3] >> 6 == 3)


class _Window:
    """A window on the bytes of a file, read in blocks."""

    def __init__(self, handle: IO[bytes], size: int) -> None:
        self._handle, self.size = handle, size
        self._first, self._data = 0, b""
        self._frames: dict[bytes, _Frame | None] = {}

    def read(self, position: int, n_bytes: int) -> bytes:
        start = position - self._first
        if start < 0 or start + n_bytes > len(self._data):
            self._first, self._data = position, read_at(self._handle, position, max(n_bytes, _BLOCK_BYTES))
            start = 0
        return self._data[start : start + n_bytes]

    def frame(self, position: int) -> _Frame | None:
        head = self.read(position, 4)
        if head not in self._frames:
            self._frames[head] = _parse(head)
        return self._frames[head]

    def find(self, position: int) -> int:
        """Return the position of the next frame that another one follows, or -1."""
        data = self.read(position, _LOOK_BYTES)
        at = data.find(b"\xff")
        while at >= 0:
            frame = self.frame(position + at)
            if frame is not None and self.frame(position + at + frame.n_bytes) is not None:
                return position + at
            at = data.find(b"\xff", at + 1)
        return -1

    def skip_tag(self, position: int) -> int:
        """Return where an ID3v2 tag at a place ends; the place itself where there is none."""
        head = self.read(position, 10)
        if len(head) < 10 or head[:3] != b"ID3":
            return position
        length = 0
        for byte in head[6:]:
            length = length << 7 | byte & 0x7F
        return position + 10 + length + (10 if head[5] & 0x10 else 0)


def measure_mp3(handle: IO[bytes], size: int) -> FileLength:
    """Compare the frames of an mp3 file with its header."""
    window = _Window(handle, size)
    first = window.find(window.skip_tag(0))
    frame = window.frame(first) if first >= 0 else None
    if frame is None:
        return FileLength(beyond_libsndfile=True)
    n_frames, n_bytes = _read_count(window, first, frame)
    if not n_frames or not n_bytes:
        return _count(window, first, frame)
    if first + n_bytes > size:
        return FileLength(beyond_libsndfile=True, promised_s=n_frames * frame.n_samples / frame.rate)
    # libsndfile gives a file up at once whose frames do not follow each other, and says so in words of its own.
    is_damaged = _end_of_run(window, first, first + n_bytes) < first + n_bytes
    if is_damaged or _has_frames(window, first + n_bytes):
        return FileLength(beyond_libsndfile=True)
    return _leave_tail(window, first + n_bytes)


def _leave_tail(window: _Window, end: int) -> FileLength:
    """Return the length of a file whose frames end at a byte.

    What follows is kept from libsndfile, unless it is a tag that it knows: it would give the file up, or say something
    of its own.
    """
    if end >= window.size or (window.size - end == 128 and window.read(end, 3) == b"TAG"):
        return WHOLE
    return FileLength(beyond_libsndfile=True, links=(0,), end=end)


def _read_count(window: _Window, first: int, frame: _Frame) -> tuple[int, int]:
    """Return how many frames and bytes a Xing, Info or VBRI header in the first frame says; 0: it does not."""
    body = window.read(first, min(frame.n_bytes, 200))
    for at in (36, 21, 13):  # behind the side information of its kind of frame
        if body[at : at + 4] in (b"Xing", b"Info") and len(body) >= at + 16:
            (flags,) = struct.unpack_from(">I", body, at + 4)
            if flags & 3 == 3:
                n_frames, n_bytes = struct.unpack_from(">II", body, at + 8)
                return n_frames, n_bytes
    if body[36:40] == b"VBRI" and len(body) >= 54:
        n_bytes, n_frames = struct.unpack_from(">II", body, 46)
        return n_frames, n_bytes
    return 0, 0


def _end_of_run(window: _Window, position: int, limit: int) -> int:
    """Return where frames that follow each other end, at the limit or beyond it where they go on so far."""
    while position < limit and (frame := window.frame(position)) is not None:
        position += frame.n_bytes
    return position


def _has_frames(window: _Window, position: int) -> bool:
    """Tell whether more sound follows."""
    at = window.find(window.skip_tag(position))
    for _ in range(_LEAST_FRAMES):
        frame = window.frame(at) if at >= 0 else None
        if frame is None:
            return False
        at += frame.n_bytes
    return True


def _count(window: _Window, first: int, like: _Frame) -> FileLength:
    """Go through all frames."""
    beyond_libsndfile = False
    position = first
    while position < window.size:
        frame = window.frame(position)
        if frame is None:
            found = window.find(window.skip_tag(position))
            if found < 0 or not _has_frames(window, found):
                # Tags, or what nobody can read.
                return FileLength(beyond_libsndfile=True) if beyond_libsndfile else _leave_tail(window, position)
            beyond_libsndfile = True
            position = found
            continue
        if (frame.rate, frame.kilobits, frame.is_mono) != (like.rate, like.kilobits, like.is_mono):
            beyond_libsndfile = True
        position += frame.n_bytes
    return FileLength(beyond_libsndfile=beyond_libsndfile, is_cut=position > window.size)
