"""Read audio: find the recordings that arguments name, decode them, mix to mono and resample, all as a stream.

Nothing here imports torch or holds a whole file in memory.

`find` lists recordings, `stream.open_audio` opens one. `readers.opening` chooses the reader of a file (libsndfile, PyAV
in a process of its own, or plain PCM) by what `length` finds in its header and data; `levels` mixes and scales.
"""

from __future__ import annotations

from framecls.audio.arrays import as_array, is_array
from framecls.audio.channels import Channel
from framecls.audio.faults import explain_stall
from framecls.audio.find import AUDIO_SUFFIXES, Input, InputFailure, find_inputs
from framecls.audio.stream import AudioStream, Source, VectorStream, has_own_rate, is_stored, open_audio, split_channels

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioStream",
    "Channel",
    "Input",
    "InputFailure",
    "Source",
    "VectorStream",
    "as_array",
    "explain_stall",
    "find_inputs",
    "has_own_rate",
    "is_array",
    "is_stored",
    "open_audio",
    "split_channels",
]
