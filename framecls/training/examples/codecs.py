"""Lossy codecs as augmentation: encode a recording in memory with libsndfile, and decode it again."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from framecls.training.choices import CODECS

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class _Codec:
    """The parameters of libsndfile for one codec."""

    format: str
    subtype: str
    rates_hz: tuple[int, ...]
    levels: tuple[float, float] | None = None  # of libsndfile's compression level, 0 (best) to 1 (smallest)


_MP3_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_VORBIS_RATES_HZ = (8000, 11025, 16000, 22050, 32000, 44100, 48000)
# Levels from transparent to barely intelligible: at 16 kHz, 50 to 20 kbit/s of mp3 and 30 to 6 kbit/s of opus.
_CODECS = {
    "mulaw": _Codec("WAV", "ULAW", (8000,)),
    "gsm": _Codec("WAV", "GSM610", (8000,)),
    "mp3": _Codec("MP3", "MPEG_LAYER_III", _MP3_RATES_HZ, (0.0, 0.95)),
    "opus": _Codec("OGG", "OPUS", (8000, 12000, 16000, 24000, 48000), (0.9, 1.0)),
    "vorbis": _Codec("OGG", "VORBIS", _VORBIS_RATES_HZ, (0.3, 1.0)),
}
assert tuple(_CODECS) == CODECS


def apply_codec(samples: Samples, sample_rate: int, name: str, level: float = 0.5) -> Samples:
    """Encode and decode (sample,); the result has the same length and alignment.

    Args:
        samples: -1..1.
        sample_rate: Hz; the codec runs at its greatest rate up to this one.
        name: one of `choices.CODECS`.
        level: of compression, 0 (best) to 1 (smallest), within the useful range of the codec.
    """
    codec = _CODECS[name]
    rate = max((hz for hz in codec.rates_hz if hz <= sample_rate), default=codec.rates_hz[0])
    coded = soxr.resample(samples, sample_rate, rate, quality="LQ") if rate != sample_rate else samples
    settings: dict[str, Any] = {"format": codec.format, "subtype": codec.subtype}
    if codec.levels is not None:
        low, high = codec.levels
        settings["compression_level"] = low + level * (high - low)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(coded, -1, 1), rate, **settings)
    buffer.seek(0)
    decoded: Samples = soundfile.read(buffer, dtype="float32")[0]
    if rate != sample_rate:
        decoded = soxr.resample(decoded, rate, sample_rate, quality="LQ")
    result = np.zeros(len(samples), np.float32)
    n = min(len(samples), len(decoded))
    result[:n] = np.clip(decoded[:n], -1, 1)
    return result
