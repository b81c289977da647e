"""Compare the length in a file's header with its data.

libsndfile believes a header: it stops where that says, though samples go on behind it, and says nothing where they stop
before.
"""

from __future__ import annotations

import os
import re
from typing import IO

from framecls.audio.header import WHOLE, FileLength, read_at
from framecls.audio.length import packets, uncompressed
from framecls.audio.length.mp3 import measure_mp3

_MEASURES = (
    (rb"(RIFF|RF64|BW64)....WAVE", uncompressed.measure_wav),
    (rb"FORM....AIF[FC]", uncompressed.measure_aiff),
    (rb"\.snd", uncompressed.measure_au),
    (rb"riff\x2e\x91\xcf\x11", uncompressed.measure_w64),
    (rb"caff", uncompressed.measure_caf),
    (rb"RIFF....AVI ", packets.measure_avi),
    (re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")), packets.measure_asf),
    (rb"\xff[\xf4\xf5\xfc\xfd]", packets.measure_mp2),
    (rb"\x0b\x77", packets.measure_ac3),
    (rb"Creative Voice File\x1a", uncompressed.measure_voc),
    (rb"G.{187}G", packets.measure_transport),
    (rb"\x00\x00\x01\xba", packets.measure_program),
    (rb"fLaC", packets.measure_flac),
    (rb"OggS", packets.measure_ogg),
    (rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", measure_mp3),
)


def measure_length(handle: IO[bytes]) -> FileLength:
    """Look at a seekable file, and leave it at its start.

    Raises:
        AudioError: its samples lie in a way that cannot be told from the header.
        OSError: it cannot be read.
    """
    size = handle.seek(0, os.SEEK_END)
    try:
        head = read_at(handle, 0, 256)
        for start, measure in _MEASURES:
            if re.match(start, head, re.DOTALL):
                return measure(handle, size)
        return WHOLE
    finally:
        handle.seek(0)
