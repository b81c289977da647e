"""Whether libsndfile reads a file to its end, and whether the file is all that its header says.

libsndfile believes a header: it stops where that says, though samples go on behind it, and says nothing where they stop
before.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

from framecls.audio.mpeg_frames import measure_mpeg
from framecls.audio.wav import MIN_OPEN_BYTES, PcmFormat, parse_fmt_chunk
from framecls.errors import AudioError

_MAX_CHUNKS = 10_000
_MAX_LINKS = 100_000
# What may follow the samples without a chunk around it.
_TEXT = bytes((*range(32, 127), 9, 10, 13))
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")


@dataclass(frozen=True)
class FileLength:
    """What is known of the length of a file, beside what libsndfile makes of it."""

    promised_s: float | None = None  # what the header says, where the file has less
    is_cut: bool = False  # it ends within a packet, or without the mark of an end
    is_longer: bool = False  # libsndfile would stop before the end
    has_samples: bool = True
    links: tuple[int, ...] = ()  # where each of several files begins that were joined
    # Where samples go on after those that the header counts: all of them, from this byte on.
    samples: PcmFormat | None = None
    first_byte: int = 0


WHOLE = FileLength()
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def measure_length(handle: IO[bytes]) -> FileLength:
    """Look at a seekable file, and leave it at its start.

    Raises:
        AudioError: its samples lie in a way that cannot be told from the header.
        OSError: it cannot be read.
    """
    size = handle.seek(0, os.SEEK_END)
    try:
        head = _read(handle, 0, 256)
        for start, measure in _MEASURES:
            if re.match(start, head, re.DOTALL):
                return measure(handle, size)
        return WHOLE
    finally:
        handle.seek(0)


def _read(handle: IO[bytes], position: int, n_bytes: int) -> bytes:
    if position >= 2**62:  # no place that a file has
        return b""
    handle.seek(position)
    parts = []
    while n_bytes > 0 and (part := handle.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _chunks(handle: IO[bytes], position: int, size: int, order: Literal["<", ">"]) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, first byte and length of each chunk of a RIFF or IFF file."""
    for _ in range(_MAX_CHUNKS):
        head = _read(handle, position, 8)
        if len(head) < 8:
            return
        name, length = struct.unpack(f"{order}4sI", head)
        yield name, position + 8, length
        position += 8 + length + length % 2
        if position > size:
            return


def _goes_on(handle: IO[bytes], position: int, size: int, frame_bytes: int, order: Literal["<", ">"]) -> bool:
    """Tell whether what is from `position` on looks like samples: not like chunks, tags or padding."""
    if size - position < max(8, frame_bytes):
        return False
    start = _read(handle, position, 1 << 16)
    is_padding = size - position <= len(start) and not start.strip(b"\0")
    if start.startswith(_TAGS) or is_padding or not start.translate(None, _TEXT):
        return False
    # Some writers forget that chunks begin at even places.
    return not any(_is_chunk_list(handle, position + skip, size, order) for skip in (0, 1))


def _is_chunk_list(handle: IO[bytes], position: int, size: int, order: Literal["<", ">"]) -> bool:
    for name, first, length in _chunks(handle, position, size, order):
        if not re.fullmatch(rb"[A-Za-z0-9_ ()\xa9-]{3}[A-Za-z0-9_ ()\x00-]", name):
            return False
        # One chunk that claims more than there is ends a file that was cut in its tail.
        if first + length + length % 2 >= size - 8:
            return first + length <= size + 1 or name in (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX")
    return False


def _compare(
    handle: IO[bytes], size: int, first: int, declared: int, samples: PcmFormat | None, rate: float, frame_bytes: float
) -> FileLength:
    """Compare how many bytes of samples a header declares with what there is.

    Args:
        handle: the file.
        size: of the file, in bytes.
        first: the first byte of the samples.
        declared: bytes of samples.
        samples: how they are stored, where they can be read without libsndfile's help; None: it knows alone.
        rate: Hz.
        frame_bytes: of one sample of all channels, on average.
    """
    available = size - first
    order: Literal["<", ">"] = ">" if samples is not None and samples.endian == "BIG" else "<"
    if declared > available:
        is_open = declared >= MIN_OPEN_BYTES
        missing_s = (declared - available) / frame_bytes / rate
        return WHOLE if is_open or missing_s <= 0 else FileLength(promised_s=declared / frame_bytes / rate)
    if not _goes_on(handle, first + declared + declared % 2, size, round(frame_bytes), order):
        return WHOLE if declared else FileLength(has_samples=False)
    return FileLength(is_longer=True, samples=samples, first_byte=first, promised_s=declared / frame_bytes / rate)


def _measure_wav(handle: IO[bytes], size: int) -> FileLength:
    long_bytes: int | None = None
    fmt = b""
    n_frames = 0
    for name, first, length in _chunks(handle, 12, size, "<"):
        if name == b"fact":
            (n_frames,) = struct.unpack("<I", _read(handle, first, 4).ljust(4, b"\0"))
        elif name == b"ds64":
            long_bytes = struct.unpack_from("<Q", _read(handle, first, 16).ljust(16, b"\0"), 8)[0]
        elif name == b"fmt ":
            fmt = _read(handle, first, min(length, 64))
        elif name == b"data":
            if len(fmt) < 16:
                return WHOLE
            declared = long_bytes if long_bytes and length == 0xFFFFFFFF else length
            return _compare_wav(handle, size, first, declared, fmt, n_frames)
    return WHOLE


def _compare_wav(handle: IO[bytes], size: int, first: int, declared: int, fmt: bytes, n_frames: int) -> FileLength:
    code, channels, rate, byte_rate, frame_bytes, bits = struct.unpack_from("<HHIIHH", fmt)
    if code == 0xFFFE and len(fmt) >= 26:
        (code,) = struct.unpack_from("<H", fmt, 24)
    if code == 1 and channels and frame_bytes % channels == 0 and frame_bytes > channels * -(-bits // 8):
        raise AudioError(
            f"its header says samples of {bits} bits in {frame_bytes // channels} bytes each, which can be read in "
            "two ways: convert it to the usual kind"
        )
    samples = parse_fmt_chunk(fmt, 0)
    if not byte_rate or not rate:
        return WHOLE
    frame_bytes = samples.frame_bytes if samples else declared / n_frames if n_frames else byte_rate / rate
    return _compare(handle, size, first, declared, samples, rate, frame_bytes)


# Type of compression -> libsndfile's name, byte order
_AIFF_SUBTYPES: dict[tuple[bytes, int], tuple[str, Literal["LITTLE", "BIG"]]] = {
    **{(b"NONE", bits): (f"PCM_{bits}", "BIG") for bits in (16, 24, 32)},
    **{(b"twos", bits): (f"PCM_{bits}", "BIG") for bits in (16, 24, 32)},
    **{(b"sowt", bits): (f"PCM_{bits}", "LITTLE") for bits in (16, 24, 32)},
    (b"NONE", 8): ("PCM_S8", "BIG"),
    (b"fl32", 32): ("FLOAT", "BIG"),
    (b"FL32", 32): ("FLOAT", "BIG"),
    (b"fl64", 64): ("DOUBLE", "BIG"),
}


def _measure_aiff(handle: IO[bytes], size: int) -> FileLength:
    common = b""
    for name, first, length in _chunks(handle, 12, size, ">"):
        if name == b"COMM":
            common = _read(handle, first, min(length, 64))
        elif name == b"SSND" and len(common) >= 18:
            channels, n_frames, bits = struct.unpack_from(">HIH", common)
            exponent, mantissa = struct.unpack_from(">HQ", common, 8)
            rate = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16446)
            if not channels or not 1 <= rate < 1e7 or length < 8:
                return WHOLE
            (offset,) = struct.unpack(">I", _read(handle, first, 4).ljust(4, b"\0"))
            kind = _AIFF_SUBTYPES.get((common[18:22] or b"NONE", bits))
            frame_bytes = channels * -(-bits // 8)
            samples = PcmFormat(round(rate), channels, kind[0], frame_bytes, None, kind[1]) if kind else None
            mean_bytes = frame_bytes if kind else max(1, length - 8) / max(1, n_frames)
            first += 8 + offset
            return _compare(handle, size, first, max(0, length - 8 - offset), samples, rate, mean_bytes)
    return WHOLE


# Encoding of an au file -> libsndfile's name, bytes of a sample
_AU_SUBTYPES = {
    1: ("ULAW", 1), 2: ("PCM_S8", 1), 3: ("PCM_16", 2), 4: ("PCM_24", 3), 5: ("PCM_32", 4), 6: ("FLOAT", 4),
    7: ("DOUBLE", 8), 27: ("ALAW", 1),
}  # fmt: skip


def _measure_au(handle: IO[bytes], size: int) -> FileLength:
    head = _read(handle, 0, 24)
    if len(head) < 24:
        return WHOLE
    first, declared, encoding, rate, channels = struct.unpack(">5I", head[4:])
    kind = _AU_SUBTYPES.get(encoding)
    if kind is None or not 1 <= channels <= 1024 or not rate or first > size:
        return WHOLE
    frame_bytes = channels * kind[1]
    samples = PcmFormat(rate, channels, kind[0], frame_bytes, None, "BIG")
    return _compare(handle, size, first, declared, samples, rate, frame_bytes)


def _measure_w64(handle: IO[bytes], size: int) -> FileLength:
    position, byte_rate = 40, 0
    for _ in range(_MAX_CHUNKS):
        head = _read(handle, position, 24)
        if len(head) < 24:
            break
        (length,) = struct.unpack_from("<Q", head, 16)
        if head.startswith(b"fmt "):
            (byte_rate,) = struct.unpack_from("<I", _read(handle, position + 32, 4).ljust(4, b"\0"))
        elif head.startswith(b"data"):
            available, declared = size - position - 24, length - 24
            is_cut = byte_rate and available < declared < 2**62
            return FileLength(promised_s=declared / byte_rate) if is_cut else WHOLE
        if length < 24:
            break
        position += -(-length // 8) * 8
    return WHOLE


def _measure_caf(handle: IO[bytes], size: int) -> FileLength:
    position, rate, frame_bytes = 8, 0.0, 0.0
    n_frames = 0
    samples: PcmFormat | None = None
    for _ in range(_MAX_CHUNKS):
        head = _read(handle, position, 12)
        if len(head) < 12:
            break
        name, length = struct.unpack(">4sq", head)
        if name == b"desc":
            desc = _read(handle, position + 12, 32).ljust(32, b"\0")
            rate, packet_bytes, packet_frames = struct.unpack(">d8xII", desc[:8] + desc[8:24])
            frame_bytes = packet_bytes / packet_frames if packet_frames else 0.0
            samples = _caf_format(desc)
        elif name == b"pakt":
            (n_frames,) = struct.unpack(">8xq", _read(handle, position + 12, 16).ljust(16, b"\0"))
        elif name == b"data":
            if length > size - position - 12 and rate >= 1:
                duration_s = (length - 4) / frame_bytes / rate if frame_bytes else n_frames / rate
                return FileLength(promised_s=duration_s) if duration_s > 0 else FileLength(is_cut=True)
            first, end = position + 12 + 4, position + 12 + length
            if samples is not None and length >= 4 and _caf_goes_on(handle, end, size):
                said_s = (length - 4) / samples.frame_bytes / samples.sample_rate
                return FileLength(is_longer=True, samples=samples, first_byte=first, promised_s=said_s)
            break
        if length < 0:
            break
        position += 12 + length
    return WHOLE


def _caf_format(desc: bytes) -> PcmFormat | None:
    """Return what a `desc` chunk says; None: the samples do not lie one after the other."""
    rate, kind, flags, packet_bytes, _, channels, bits = struct.unpack(">d4sIIIII", desc)
    if kind != b"lpcm" or not 1 <= channels <= 1024 or packet_bytes * 8 != channels * bits or not 1 <= rate < 1e7:
        return None
    subtypes = {32: "FLOAT", 64: "DOUBLE"} if flags & 1 else {16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}
    endian: Literal["LITTLE", "BIG"] = "LITTLE" if flags & 2 else "BIG"
    return PcmFormat(round(rate), channels, subtypes[bits], packet_bytes, None, endian) if bits in subtypes else None


def _caf_goes_on(handle: IO[bytes], position: int, size: int) -> bool:
    head = _read(handle, position, 12)
    if len(head) < 12 or not head.strip(b"\0"):
        return False
    name, length = struct.unpack(">4sq", head)
    return re.fullmatch(rb"[A-Za-z0-9_ ]{4}", name) is None or not 0 <= length <= size - position - 12


def _measure_flac(handle: IO[bytes], size: int) -> FileLength:
    # libsndfile knows how many samples the header promises. A second stream begins with another one.
    return _make_chain(_find(handle, 4, size, re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")), False)


def _make_chain(further: Iterator[int], is_cut: bool) -> FileLength:
    links = (0, *itertools.islice(further, _MAX_LINKS))
    return FileLength(is_longer=len(links) > 1, links=links if len(links) > 1 else (), is_cut=is_cut)


def _measure_ogg(handle: IO[bytes], size: int) -> FileLength:
    first_pages = 0
    position = 0
    while True:
        head = _read(handle, position, 27 + 255)
        if len(head) < 27 or head[:4] != b"OggS" or not head[5] & 2:
            break
        first_pages += 1
        position += 27 + head[26] + sum(head[27 : 27 + head[26]])
        if first_pages > 64:
            break
    # Several streams side by side are a film, or the like; one that begins further on is a link of a chain.
    is_cut = not _ends_ogg(handle, size)
    if first_pages > 1:
        return FileLength(is_longer=True, is_cut=is_cut)
    return _make_chain(_find(handle, position, size, re.compile(rb"OggS\x00[\x02\x03\x06\x07]")), is_cut)


def _ends_ogg(handle: IO[bytes], size: int) -> bool:
    """Tell whether the last page is whole and marked as the last."""
    start = max(0, size - (1 << 17))
    tail = _read(handle, start, size - start)
    at = tail.rfind(b"OggS\0")
    while at >= 0:
        head = tail[at : at + 27 + 255]
        if len(head) >= 27:
            length = 27 + head[26] + sum(head[27 : 27 + head[26]])
            return at + length <= len(tail) and bool(head[5] & 4)
        at = tail.rfind(b"OggS\0", 0, at)
    return False


def _measure_avi(handle: IO[bytes], size: int) -> FileLength:
    head = _read(handle, 0, 64).ljust(64, b"\0")
    (length,) = struct.unpack_from("<I", head, 4)
    if length + 8 <= size or head[24:28] != b"avih":
        return WHOLE
    frame_us, n_frames = struct.unpack_from("<I12xI", head, 32)
    return FileLength(promised_s=frame_us * n_frames / 1e6 or None, is_cut=True)


def _measure_asf(handle: IO[bytes], size: int) -> FileLength:
    head = _read(handle, 0, 1 << 16)
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or len(head) < at + 88:
        return WHOLE
    (length,) = struct.unpack_from("<Q", head, at + 40)
    duration, preroll_ms = struct.unpack_from("<Q8xQ", head, at + 64)
    is_cut = size < length < 2**62
    return FileLength(promised_s=duration / 1e7 - preroll_ms / 1e3, is_cut=True) if is_cut else WHOLE


def _measure_adts(handle: IO[bytes], size: int) -> FileLength:
    """Go from frame to frame of an AAC stream."""
    position, start, data = 0, 0, b""
    while position + 7 <= size:
        if position + 7 > start + len(data):
            start, data = position, _read(handle, position, 1 << 20)
        head = data[position - start : position - start + 7]
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or length < 7:
            return WHOLE  # tags, or not what it seemed
        position += length
    return FileLength(is_cut=position != size)


def _measure_transport(handle: IO[bytes], size: int) -> FileLength:
    for length in (188, 204):
        if all(_read(handle, length * n, 1) == b"G" for n in range(min(4, size // length))):
            return FileLength(is_cut=size % length != 0)
    return WHOLE


def _measure_program(handle: IO[bytes], size: int) -> FileLength:
    """Look whether the last packet of an MPEG program stream is whole."""
    start = max(0, size - (1 << 18))
    tail = _read(handle, start, size - start)
    at = tail.rfind(b"\x00\x00\x01\xba")
    if at < 0:
        return WHOLE
    at += 14 + (tail[at + 13] & 7) if len(tail) > at + 13 and tail[at + 4] >> 6 == 1 else 12
    while at + 6 <= len(tail) and tail[at : at + 3] == b"\x00\x00\x01" and tail[at + 3] >= 0xBB:
        at += 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
    # What is left may be the mark of the end, four bytes, or padding; not the start of another packet.
    return FileLength(is_cut=at > len(tail) or 0 < len(tail) - at < 4)


def _find(handle: IO[bytes], position: int, size: int, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Yield where a pattern of at most 8 bytes is found."""
    handle.seek(position)
    tail = b""
    while position < size and (part := handle.read(1 << 20)):
        data = tail + part
        for found in pattern.finditer(data):
            yield position - len(tail) + found.start()
        position += len(part)
        tail = data[-7:]  # too short for what was found already


def _measure_mp3(handle: IO[bytes], size: int) -> FileLength:
    seen = measure_mpeg(handle, size)
    if seen is None:
        return WHOLE
    return FileLength(promised_s=seen.promised_s, is_cut=seen.is_cut, is_longer=not seen.is_plain)


_MEASURES = (
    (rb"(RIFF|RF64|BW64)....WAVE", _measure_wav),
    (rb"FORM....AIF[FC]", _measure_aiff),
    (rb"\.snd", _measure_au),
    (rb"riff\x2e\x91\xcf\x11", _measure_w64),
    (rb"caff", _measure_caf),
    (rb"RIFF....AVI ", _measure_avi),
    (re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")), _measure_asf),
    (rb"\xff[\xf0\xf1\xf8\xf9]", _measure_adts),
    (rb"G.{187}G", _measure_transport),
    (rb"\x00\x00\x01\xba", _measure_program),
    (rb"fLaC", _measure_flac),
    (rb"OggS", _measure_ogg),
    (rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", _measure_mp3),
)
