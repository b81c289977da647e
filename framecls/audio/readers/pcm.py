"""Read uncompressed samples: of a pipe, of a raw file, or of a file that is longer than its header says."""

from __future__ import annotations

import io
import re
from typing import IO

import numpy as np
import soundfile
from numpy.typing import NDArray

from framecls.audio.header import PcmFormat
from framecls.audio.readers.base import read_exactly, remark_end
from framecls.results import AudioInfo, Remarks


class PcmReader:
    """Samples from the position of a stream on; it need not be seekable.

    Args:
        handle: binary, which stays open.
        wav: what its header said.
        remarks: is told if less comes than that.
    """

    def __init__(self, handle: IO[bytes], wav: PcmFormat, remarks: Remarks) -> None:
        self._remarks: Remarks | None = remarks
        self._n_read = 0
        self._handle = handle
        self._wav = wav
        self._left = wav.n_frames
        self._ahead = b""  # read already, to see whether samples go on
        self.info = AudioInfo(wav.sample_rate, wav.channels)
        self.duration_s: float | None = None if wav.n_frames is None else wav.n_frames / wav.sample_rate

    def read(self, n_frames: int) -> NDArray[np.float32]:
        """See Reader."""
        if self._left == 0 and self._goes_on():
            self._left = None
        if self._left is not None:
            n_frames = min(n_frames, self._left)
        n_bytes = n_frames * self._wav.frame_bytes
        data = self._ahead[:n_bytes] + read_exactly(self._handle, max(0, n_bytes - len(self._ahead)))
        self._ahead = self._ahead[n_bytes:]
        n_frames = len(data) // self._wav.frame_bytes
        if self._left is not None:
            self._left -= n_frames
        self._n_read += n_frames
        if n_frames == 0:
            if self._remarks is not None:
                remark_end(self._remarks, self._n_read / self._wav.sample_rate, self.duration_s, False)
                self._remarks = None
            return np.zeros((0, self._wav.channels), np.float32)
        # libsndfile knows A-law and the rest; to it this is a small file without a header.
        decoded: NDArray[np.float32] = soundfile.read(
            io.BytesIO(data[: n_frames * self._wav.frame_bytes]),
            dtype="float32",
            always_2d=True,
            samplerate=self._wav.sample_rate,
            channels=self._wav.channels,
            format="RAW",
            subtype=self._wav.subtype,
            endian=self._wav.endian,
        )[0]
        return decoded

    def _goes_on(self) -> bool:
        """Tell whether more samples follow those that the header counted, and no chunk."""
        ahead = read_exactly(self._handle, 9)
        if len(ahead) < 8 or not ahead.strip(b"\0"):
            return False
        # Chunks begin at even places, or right behind the samples where a writer forgot that.
        if any(re.match(rb"[A-Za-z0-9_]{3}[A-Za-z0-9_ \0]|ID3|TAG", ahead[skip:]) for skip in (0, 1)):
            return False
        assert self.duration_s is not None
        if self._remarks is not None:
            self._remarks.notes.append(f"its header says {self.duration_s:.1f} s, and samples go on: all are read")
        self._ahead = ahead
        return True

    def close(self) -> None:
        """See Reader."""
