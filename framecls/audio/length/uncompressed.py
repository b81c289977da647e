"""Compare the sample count in the header with the data of WAV, AIFF, AU, W64, CAF and VOC files."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import IO, Literal

from framecls.audio.header import MIN_OPEN_BYTES, WHOLE, FileLength, PcmFormat, parse_fmt_chunk, read_at
from framecls.errors import AudioError

_MAX_CHUNKS = 10_000
# What may follow the samples without a chunk around it.
_TEXT = bytes((*range(32, 127), 9, 10, 13))
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")


def _chunks(handle: IO[bytes], position: int, size: int, order: Literal["<", ">"]) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, first byte and length of each chunk of a RIFF or IFF file."""
    for _ in range(_MAX_CHUNKS):
        head = read_at(handle, position, 8)
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
    start = read_at(handle, position, 1 << 16)
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
    return FileLength(
        beyond_libsndfile=True, samples=samples, first_byte=first, promised_s=declared / frame_bytes / rate
    )


def measure_wav(handle: IO[bytes], size: int) -> FileLength:
    long_bytes: int | None = None
    fmt = b""
    n_frames = 0
    for name, first, length in _chunks(handle, 12, size, "<"):
        if name == b"fact":
            (n_frames,) = struct.unpack("<I", read_at(handle, first, 4).ljust(4, b"\0"))
        elif name == b"ds64":
            long_bytes = struct.unpack_from("<Q", read_at(handle, first, 16).ljust(16, b"\0"), 8)[0]
        elif name == b"fmt ":
            fmt = read_at(handle, first, min(length, 64))
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


def measure_aiff(handle: IO[bytes], size: int) -> FileLength:
    common = b""
    for name, first, length in _chunks(handle, 12, size, ">"):
        if name == b"COMM":
            common = read_at(handle, first, min(length, 64))
        elif name == b"SSND" and len(common) >= 18:
            channels, n_frames, bits = struct.unpack_from(">HIH", common)
            exponent, mantissa = struct.unpack_from(">HQ", common, 8)
            rate = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16446)
            if not channels or not 1 <= rate < 1e7 or length < 8:
                return WHOLE
            (offset,) = struct.unpack(">I", read_at(handle, first, 4).ljust(4, b"\0"))
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


def measure_au(handle: IO[bytes], size: int) -> FileLength:
    head = read_at(handle, 0, 24)
    if len(head) < 24:
        return WHOLE
    first, declared, encoding, rate, channels = struct.unpack(">5I", head[4:])
    kind = _AU_SUBTYPES.get(encoding)
    if kind is None or not 1 <= channels <= 1024 or not rate or first > size:
        return WHOLE
    frame_bytes = channels * kind[1]
    samples = PcmFormat(rate, channels, kind[0], frame_bytes, None, "BIG")
    return _compare(handle, size, first, declared, samples, rate, frame_bytes)


def measure_w64(handle: IO[bytes], size: int) -> FileLength:
    position, byte_rate = 40, 0
    for _ in range(_MAX_CHUNKS):
        head = read_at(handle, position, 24)
        if len(head) < 24:
            break
        (length,) = struct.unpack_from("<Q", head, 16)
        if head.startswith(b"fmt "):
            (byte_rate,) = struct.unpack_from("<I", read_at(handle, position + 32, 4).ljust(4, b"\0"))
        elif head.startswith(b"data"):
            available, declared = size - position - 24, length - 24
            is_cut = byte_rate and available < declared < 2**62
            return FileLength(promised_s=declared / byte_rate) if is_cut else WHOLE
        if length < 24:
            break
        position += -(-length // 8) * 8
    return WHOLE


def measure_caf(handle: IO[bytes], size: int) -> FileLength:
    position, rate, frame_bytes = 8, 0.0, 0.0
    n_frames = 0
    samples: PcmFormat | None = None
    for _ in range(_MAX_CHUNKS):
        head = read_at(handle, position, 12)
        if len(head) < 12:
            break
        name, length = struct.unpack(">4sq", head)
        if name == b"desc":
            desc = read_at(handle, position + 12, 32).ljust(32, b"\0")
            rate, packet_bytes, packet_frames = struct.unpack(">d8xII", desc[:8] + desc[8:24])
            frame_bytes = packet_bytes / packet_frames if packet_frames else 0.0
            samples = _caf_format(desc)
        elif name == b"pakt":
            (n_frames,) = struct.unpack(">8xq", read_at(handle, position + 12, 16).ljust(16, b"\0"))
        elif name == b"data":
            if length > size - position - 12 and rate >= 1:
                duration_s = (length - 4) / frame_bytes / rate if frame_bytes else n_frames / rate
                return FileLength(promised_s=duration_s) if duration_s > 0 else FileLength(is_cut=True)
            first, end = position + 12 + 4, position + 12 + length
            if samples is not None and length >= 4 and _caf_goes_on(handle, end, size):
                said_s = (length - 4) / samples.frame_bytes / samples.sample_rate
                return FileLength(beyond_libsndfile=True, samples=samples, first_byte=first, promised_s=said_s)
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
    head = read_at(handle, position, 12)
    if len(head) < 12 or not head.strip(b"\0"):
        return False
    name, length = struct.unpack(">4sq", head)
    return re.fullmatch(rb"[A-Za-z0-9_ ]{4}", name) is None or not 0 <= length <= size - position - 12


def measure_voc(handle: IO[bytes], size: int) -> FileLength:
    """Follow the blocks of a Creative voice file: each has a type and three bytes of length."""
    position = int.from_bytes(read_at(handle, 20, 2), "little")
    for _ in range(_MAX_CHUNKS):
        head = read_at(handle, position, 4)
        if len(head) < 4 or not head[0]:  # the last block is a lone zero, which some writers leave out
            return WHOLE
        position += 4 + int.from_bytes(head[1:], "little")
        if position > size:
            return FileLength(is_cut=True)
    return WHOLE
