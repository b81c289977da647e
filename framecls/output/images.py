"""Pictures of arrays: spectrograms and heat maps, as colours and as PNG files in a data URI."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from framecls.config import UNKNOWN

# Of labels: those of the 256 colours of a terminal that have contrast to a black and to a white background.
PALETTE = ("#0087ff", "#d75f00", "#00875f", "#d7005f", "#875fd7", "#878700", "#008787", "#af5f5f")
# Labels that get no colour of their own: nothing, or nobody known, is there.
QUIET_LABELS = frozenset({"silence", "sil", "none", "background", UNKNOWN})
# Points of the colour map "magma" (Smith and van der Walt 2015), which rises in lightness evenly.
_MAGMA = ((0, 0, 4), (40, 17, 89), (101, 26, 128), (159, 47, 127), (213, 74, 111), (247, 118, 92), (254, 176, 120),
          (252, 253, 191))  # fmt: skip
_N_COLOURS = 32  # an eye tells no more of them apart, and a page takes a third of the bytes
_N_MELS = 80
_RANGE_DB = 70.0  # below the loudest, what is shown as black


def mel_levels(samples: NDArray[np.float32], sample_rate: int, n_columns: int = 600) -> NDArray[np.float32]:
    """Return (mel, column) levels 0..1 of a spectrogram, low frequencies first.

    Args:
        samples: (sample,).
        sample_rate: Hz.
        n_columns: about as many, if there are samples for them.
    """
    import librosa

    hop = max(64, len(samples) // n_columns)
    n_fft = 1 << max(9, (sample_rate // 32).bit_length())  # 32 ms at least
    n_mels = min(_N_MELS, n_fft // 16)
    power = librosa.feature.melspectrogram(y=samples, sr=sample_rate, n_fft=n_fft, hop_length=hop, n_mels=n_mels)
    decibels = librosa.power_to_db(power, ref=max(float(power.max(initial=0.0)), 1e-10), top_db=_RANGE_DB)
    return np.asarray(1 + decibels / _RANGE_DB, np.float32)


def png(levels: NDArray[np.floating]) -> bytes:
    """Return (row, column) levels 0..1 as a PNG file of few colours (W3C, "Portable Network Graphics").

    The first row is at the bottom.
    """
    steps = np.rint(np.clip(np.nan_to_num(levels[::-1]), 0, 1) * (_N_COLOURS - 1)).astype(np.uint8)
    height, width = steps.shape
    points = np.linspace(0, 1, len(_MAGMA))
    channels = [np.interp(np.linspace(0, 1, _N_COLOURS), points, channel) for channel in zip(*_MAGMA, strict=True)]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), steps], axis=1)  # 0: no filter
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    colours = chunk(b"PLTE", np.rint(np.stack(channels, axis=1)).astype(np.uint8).tobytes())
    data = chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + header + colours + data + chunk(b"IEND", b"")


def data_uri(kind: str, data: bytes) -> str:
    """Return bytes as a URI of a media type, to stand in a page."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def heat_uri(levels: NDArray[np.floating]) -> str:
    """Return (row, column) levels 0..1 as a picture in a URI, the first row at the bottom."""
    return data_uri("image/png", png(levels))
