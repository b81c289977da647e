"""Read audio: find the recordings that arguments name, decode them, mix to mono and resample, all as a stream.

Nothing here imports torch or holds a whole file in memory.

`find` lists recordings, `stream.open_audio` opens one. `readers.opening` chooses the reader of a file (libsndfile, PyAV
in a process of its own, or plain PCM) by what `length` finds in its header and data; `levels` mixes and scales.
"""

from __future__ import annotations

from framecls.audio.arrays import as_array, is_array
from framecls.audio.channels import Channel
from framecls.audio.find import AUDIO_SUFFIXES, Input, InputFailure, find_inputs
from framecls.audio.precomputed import open_vectors
from framecls.audio.stream import AudioStream, Source, has_own_rate, open_audio, split_channels

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioStream",
    "Channel",
    "Input",
    "InputFailure",
    "Source",
    "as_array",
    "find_inputs",
    "has_own_rate",
    "is_array",
    "open_audio",
    "open_vectors",
    "split_channels",
]
