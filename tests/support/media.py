"""Containers with sound made by PyAV: several tracks, sound that begins late, gaps, a picture."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Track:
    """Sound of one track, (sample,) or (sample, channel)."""

    samples: NDArray[Any]
    sample_rate: int
    codec: str
    start_s: float = 0.0
    gap_s: tuple[float, float] = (0.0, 0.0)  # packets that begin between these are left out


def write_media(path: Path, *tracks: Track, picture_s: float = 0.0, picture: str = "mpeg4", **options: str) -> Path:
    """Write tracks to a container of the kind that the name says, with a picture if that lasts for a time."""
    with av.open(str(path), "w", options=options) as container:
        streams = []
        if picture_s:
            video: Any = container.add_stream(picture, rate=25)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        for track in tracks:
            layout = "mono" if track.samples.ndim == 1 else "stereo"
            stream: Any = container.add_stream(track.codec, rate=track.sample_rate, layout=layout)
            if track.codec.startswith("wma"):  # which takes no rate for granted
                stream.bit_rate = 128_000
            streams.append(stream)
        if picture_s:
            black = np.zeros((64, 64, 3), np.uint8)
            for number in range(round(picture_s * 25)):
                frame = av.VideoFrame.from_ndarray(black, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        for stream, track in zip(streams, tracks, strict=True):
            _write_track(container, stream, track)
    return path


def _write_track(container: Any, stream: Any, track: Track) -> None:
    codec = stream.codec_context
    layout = codec.layout.name
    pcm = (np.clip(track.samples.reshape(len(track.samples), -1), -1, 1) * 32767).astype(np.int16)
    resampler = av.AudioResampler(format=codec.format.name, layout=layout, rate=track.sample_rate)
    size = 1024
    for first in range(0, len(pcm), size):
        part = np.ascontiguousarray(pcm[first : first + size])
        frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), format="s16", layout=layout)
        frame.sample_rate, frame.time_base = track.sample_rate, Fraction(1, track.sample_rate)
        frame.pts = first + round(track.start_s * track.sample_rate)
        for ready in resampler.resample(frame):
            _mux(container, stream.encode(ready), track)
    _mux(container, stream.encode(None), track)


def _mux(container: Any, packets: list[Any], track: Track) -> None:
    first_s, last_s = track.gap_s
    for packet in packets:
        if not first_s <= float(packet.pts * packet.time_base) < last_s:
            container.mux(packet)
