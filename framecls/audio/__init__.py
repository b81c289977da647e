"""Audio in: find the recordings that arguments name, decode them, mix to mono and resample, all as a stream.

No torch here, and no whole file in memory: an hour and a minute cost the same.
"""

from __future__ import annotations

from framecls.audio.inputs import AUDIO_SUFFIXES, Input, InputFailure, find_inputs
from framecls.audio.stream import AudioStream, Source, open_audio
from framecls.audio.vectors import open_vectors

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioStream",
    "Input",
    "InputFailure",
    "Source",
    "find_inputs",
    "open_audio",
    "open_vectors",
]
