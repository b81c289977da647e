"""Bytes that no recorder would write: WAV files that lie, and the beginnings of other formats."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from support.signals import RATE, make_tone


def pcm(duration_s: float = 0.5, channels: int = 1) -> bytes:
    """Return 16-bit samples of a tone, the same in each channel."""
    samples = (make_tone(duration_s) * 32767).astype("<i2")
    return np.repeat(samples, channels).tobytes()


def chunk(name: bytes, body: bytes, n_bytes: int | None = None) -> bytes:
    """Return a RIFF chunk, padded to an even length; n_bytes: what it says of its length in place of the truth."""
    size = len(body) if n_bytes is None else n_bytes
    return name + struct.pack("<I", size) + body + b"\0" * (len(body) % 2)


def fmt(code: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, block: int | None = None) -> bytes:
    """Return a WAV format chunk."""
    frame_bytes = channels * bits // 8 if block is None else block
    body = struct.pack("<HHIIHH", code, channels, rate, rate * frame_bytes % 2**32, frame_bytes % 2**16, bits)
    return chunk(b"fmt ", body)


def riff(*chunks: bytes, n_bytes: int | None = None) -> bytes:
    """Return a WAV file of these chunks; n_bytes: what it says of its length in place of the truth."""
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if n_bytes is None else n_bytes) + body


def wav(data: bytes | None = None, data_bytes: int | None = None, **format: Any) -> bytes:
    """Return a WAV file; by default half a second of a tone."""
    return riff(fmt(**format), chunk(b"data", pcm() if data is None else data, data_bytes))


def encoded(container: str, subtype: str | None = None, samples: NDArray[Any] | None = None, rate: int = RATE) -> bytes:
    """Return (sample,) or (sample, channel) samples as a file of a format of libsndfile's."""
    file = io.BytesIO()
    soundfile.write(file, make_tone(1.0) if samples is None else samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def floats(*values: float, n_samples: int = 8000) -> bytes:
    """Return a WAV file of 32-bit floats that are zero but for these in the middle."""
    samples = np.zeros(n_samples, "<f4")
    samples[n_samples // 2 : n_samples // 2 + len(values)] = values
    return wav(samples.tobytes(), code=3, bits=32)


def save(path: Path, data: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(data)
    return path
