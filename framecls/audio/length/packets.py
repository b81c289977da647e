"""Tell whether files of packets end with a whole one: Ogg, FLAC, AAC, MP2, AC-3, and containers of audio and video."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO

from framecls.audio.header import MAX_DAMAGED, WHOLE, FileLength, read_at

_MAX_LINKS = 100_000
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def measure_flac(handle: IO[bytes], size: int) -> FileLength:
    # libsndfile knows how many samples the header promises. A second stream begins with another one.
    return _make_chain(_find(handle, 4, size, re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")), False)


def _make_chain(further: Iterator[int], is_cut: bool) -> FileLength:
    links = (0, *itertools.islice(further, _MAX_LINKS))
    return FileLength(beyond_libsndfile=len(links) > 1, links=links if len(links) > 1 else (), is_cut=is_cut)


def measure_ogg(handle: IO[bytes], size: int) -> FileLength:
    """Walk the pages (RFC 3533): where each stream begins, which pages are damaged, whether the last is whole."""
    starts: list[int] = []
    n_pages, n_first, n_damaged, end, is_last = 0, 0, 0, 0, False
    for position, page, fits in _walk_ogg(handle, size):
        n_damaged += position > end or not fits
        if fits and page[5] & 2:
            starts.append(position)
            n_first += len(starts) == n_pages + 1
        n_pages, end, is_last = n_pages + 1, position + len(page), bool(page[5] & 4)
        if n_damaged == MAX_DAMAGED:  # whether the last page is whole matters no more
            is_last = True
            break
    # Several streams at the start are multiplexed, as in video; one that begins further on is a link of a chain.
    if n_first > 1 or (n_damaged and len(starts) == n_first):
        # Of a damaged page libsndfile leaves out all, and what follows would be heard too early.
        return FileLength(beyond_libsndfile=True, is_cut=not is_last, n_damaged=n_damaged)
    return replace(_make_chain((start for start in starts if start), not is_last), n_damaged=n_damaged)


def _walk_ogg(handle: IO[bytes], size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Yield where each page begins, its bytes, and whether its checksum fits."""
    position = 0
    while position < size:
        head = read_at(handle, position, 27 + 255)
        is_page = len(head) >= 27 and head[:5] == b"OggS\0"
        length = 27 + head[26] + sum(head[27 : 27 + head[26]]) if is_page else 0
        fits = False
        if is_page and position + length <= size:
            page = read_at(handle, position, length)
            fits = _ogg_checksum(page) == page[22:26]
            yield position, page, fits
        if fits:
            position += length
        else:  # the next may begin within this one, of which an end is missing or which has a wrong length
            position = next(_find(handle, position + 1, size, re.compile(rb"OggS\x00")), size)


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> bytes:
    """Return what the bytes 22 to 26 of a page should be: zlib's CRC-32 from 0, with all bits in the other order."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    crc = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_MIRRORED)


def _find(handle: IO[bytes], position: int, size: int, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where a pattern of at most 8 bytes is found."""
    handle.seek(position)
    tail = b""
    while position < size and (part := handle.read(1 << 16)):
        data = tail + part
        for found in pattern.finditer(data):
            yield position - len(tail) + found.start()
        position += len(part)
        tail = data[-7:]  # too short for what was found already


def _measure_frames(handle: IO[bytes], size: int, parse: Callable[[bytes], int]) -> FileLength:
    """Follow the frames of a stream without a container to its end.

    Args:
        handle: the file.
        size: of the file, in bytes.
        parse: returns the bytes of a frame that begins with these 7; 0: none does.
    """
    position, start, data = 0, 0, b""
    while position + 7 <= size:
        if position + 7 > start + len(data):
            start, data = position, read_at(handle, position, 1 << 20)
        n_bytes = parse(data[position - start : position - start + 7])
        if n_bytes < 7:
            return WHOLE  # tags, or not what it seemed
        position += n_bytes
    return FileLength(is_cut=position != size)


_MP2_KILOBITS = {
    True: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),  # MPEG-1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2
}


def measure_mp2(handle: IO[bytes], size: int) -> FileLength:
    def parse(head: bytes) -> int:
        is_mpeg_1 = bool(head[1] & 0x08)
        row, column = head[2] >> 4, head[2] >> 2 & 3
        if head[0] != 0xFF or head[1] & 0xF6 != 0xF4 or row == 15 or column == 3:
            return 0
        rate = (44100, 48000, 32000)[column] // (1 if is_mpeg_1 else 2)
        return 144_000 * _MP2_KILOBITS[is_mpeg_1][row] // rate + (head[2] >> 1 & 1)

    return _measure_frames(handle, size, parse)


_AC3_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)


def measure_ac3(handle: IO[bytes], size: int) -> FileLength:
    """Follow the frames of AC-3 or E-AC-3, whose headers differ."""

    def parse(head: bytes) -> int:
        if head[:2] != b"\x0b\x77":
            return 0
        if head[5] >> 3 > 10:  # E-AC-3
            return 2 * (((head[2] & 7) << 8 | head[3]) + 1)
        rate, code = head[4] >> 6, head[4] & 0x3F
        if rate == 3 or code >= 2 * len(_AC3_KILOBITS):
            return 0
        kilobits = _AC3_KILOBITS[code // 2]
        return 2 * (2 * kilobits, 320 * kilobits // 147 + code % 2, 3 * kilobits)[rate]

    return _measure_frames(handle, size, parse)


def measure_avi(handle: IO[bytes], size: int) -> FileLength:
    head = read_at(handle, 0, 64).ljust(64, b"\0")
    (length,) = struct.unpack_from("<I", head, 4)
    if length + 8 <= size or head[24:28] != b"avih":
        return WHOLE
    frame_us, n_frames = struct.unpack_from("<I12xI", head, 32)
    return FileLength(promised_s=frame_us * n_frames / 1e6 or None, is_cut=True)


def measure_asf(handle: IO[bytes], size: int) -> FileLength:
    head = read_at(handle, 0, 1 << 16)
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or len(head) < at + 88:
        return WHOLE
    (length,) = struct.unpack_from("<Q", head, at + 40)
    duration, preroll_ms = struct.unpack_from("<Q8xQ", head, at + 64)
    is_cut = size < length < 2**62
    return FileLength(promised_s=duration / 1e7 - preroll_ms / 1e3, is_cut=True) if is_cut else WHOLE


def measure_transport(handle: IO[bytes], size: int) -> FileLength:
    for length in (188, 204):
        if all(read_at(handle, length * n, 1) == b"G" for n in range(min(4, size // length))):
            return FileLength(is_cut=size % length != 0)
    return WHOLE


def measure_program(handle: IO[bytes], size: int) -> FileLength:
    """Look whether the last packet of an MPEG program stream is whole."""
    start = max(0, size - (1 << 18))
    tail = read_at(handle, start, size - start)
    at = tail.rfind(b"\x00\x00\x01\xba")
    if at < 0:
        return WHOLE
    at += 14 + (tail[at + 13] & 7) if len(tail) > at + 13 and tail[at + 4] >> 6 == 1 else 12
    while at + 6 <= len(tail) and tail[at : at + 3] == b"\x00\x00\x01" and tail[at + 3] >= 0xBB:
        at += 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
    # What is left may be the mark of the end, four bytes, or padding; not the start of another packet.
    return FileLength(is_cut=at > len(tail) or 0 < len(tail) - at < 4)
