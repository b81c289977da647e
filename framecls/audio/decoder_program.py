"""Decode recordings with PyAV, one after another: a program that `readers.decoder` runs in a process of its own.

A decoder that crashes, hangs or is misled by a hostile file costs that recording and nothing else. The program imports
nothing of this package, and no numpy, so that it starts fast.

Each line of stdin is a request, `{"path": PATH, "track": N}` in JSON; N is the number of an audio track, from 1, or 0
to choose one. The answer on stdout is a sequence of messages: one byte that says the kind, four bytes with the length
(little-endian), and so many bytes.

    H  JSON, once: sample rate, channels, duration, and whether samples are planar
    A  float32 samples: if planar all of the first channel, then all of the second …; otherwise interleaved
    E  JSON, last: why the recording ended

The program ends when stdin does, so it cannot outlive the process that started it, and after a while without requests.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

# What is tried on a file. No demuxer is among them that opens other files or addresses: HLS, DASH, concat, image2, sdp
# and the like would let whoever made a file read other files, or reach the network.
FORMATS = [
    "mov", "matroska", "webm", "ogg", "mp3", "aac", "ac3", "eac3", "ac4", "flac", "wav", "w64", "aiff", "au", "caf",
    "amr", "amrnb", "amrwb", "asf", "asf_o", "avi", "flv", "live_flv", "mpeg", "mpegts", "mpegtsraw", "rm", "ivr",
    "ape", "mpc", "mpc8", "tta", "wv", "tak", "dts", "dtshd", "truehd", "mlp", "voc", "nut", "gxf", "mxf", "dv",
    "wtv", "nsv", "loas", "latm", "spdif", "shn", "oma", "aea", "qcp", "sox", "ircam", "paf", "epaf", "nistsphere",
    "avr", "xwma", "rso", "dsf", "iff", "act", "adx", "ast", "bonk", "osq", "vqf", "xa", "sln", "qoa", "g722", "g726",
    "g729", "gsm", "codec2", "sbc", "aptx", "lc3", "aa", "hca", "ea", "mmf", "smjpeg", "4xm", "bink", "smk", "swf",
    "nuv", "pva", "pmp", "lxf", "ty", "iamf", "rka", "laf", "wsd", "wve",
]  # fmt: skip
# Containers whose packets carry times that a player goes by; the times of others follow from their samples alone. Times
# of ogg and flac tell how much is lost where they are damaged.
_TIMED = {
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "mpeg", "asf", "asf_o", "avi", "flv", "live_flv", "nut", "rm",
    "ivr", "gxf", "mxf", "wtv", "nsv", "nuv", "ogg", "flac",
}  # fmt: skip
# Headers that say how long the recording is, where others let the decoder guess from the bit rate or the last page.
_PROMISING = {
    "matroska,webm", "avi", "flv", "rm", "flac", "wav", "w64", "aiff", "au", "caf", "ape", "tta", "wv", "tak",
    "mpc", "mpc8", "nut", "dsf", "gxf", "mxf",
}  # fmt: skip
_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
# Times are rounded, and the first frames of a codec may be cut: less than this is no gap.
_LEAST_GAP_S = 0.06
# A longer jump, unless the header knows of so much time, or a jump back is a damaged time and not silence; nor is more
# than so much in all.
_LONGEST_GAP_S, _LONGEST_JUMP_BACK_S, _MOST_SILENCE_S = 3600.0, 1.0, 12 * 3600.0
_LEAST_MISSING_S = 0.25  # padding, and what rounding makes of a length
# What FFmpeg logs on an incomplete packet.
_COMPLAINTS = ("PES packet size mismatch", "ended prematurely", "runcated", "Packet corrupt", "partial file")
_MESSAGE_BYTES = 1 << 20
_MAX_PLANES = 7  # PyAV follows the list of planes to a NULL, for which FFmpeg has no room after eight
_IDLE_S = 60.0  # without a request, after which the program ends
# To find out which track is not silent, each is decoded so far.
_SILENCE, _SEARCH_S, _SEARCH_CLOCK_S = 2.0**-13, 1800.0, 15.0


class RefusalError(Exception):
    """The reason why a recording cannot be read, to be shown to the user."""


class MessageWriter:
    """Messages on a binary stream; samples are collected into large ones."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._planes: list[bytearray] = []

    def send(self, kind: bytes, payload: dict[str, Any]) -> None:
        self.flush()
        self._write(kind, json.dumps(payload).encode())

    def add(self, planes: list[Any]) -> None:
        """Add samples: a buffer a channel, or one of interleaved samples."""
        if not self._planes:
            self._planes = [bytearray() for _ in planes]
        for plane, more in zip(self._planes, planes, strict=True):
            plane += more
        if len(self._planes[0]) * len(planes) >= _MESSAGE_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._planes:
            self._write(b"A", b"".join(self._planes))
            self._planes = []

    def _write(self, kind: bytes, payload: bytes) -> None:
        for part in (kind + struct.pack("<I", len(payload)), payload):
            left = memoryview(part)
            while left:
                left = left[self._stream.write(left) :]


class Track:
    """Decodes one audio track to samples of one rate and number of channels, each placed at its time."""

    def __init__(self, container: Any, stream: Any, output: MessageWriter) -> None:
        name = container.format.name
        self.format = name
        self.end_s = 0.0  # of the last packet of any track, by its time
        self.n_damaged = 0  # packets that did not decode
        self.damaged_s = 0.0  # where the first of them was
        self.cut = False  # the last packet is not whole
        self.complaint_s = -1.0  # where the demuxer last found a packet that is not whole
        self.jumps: list[float] = []  # where times jumped and were ignored
        self.has_frames = False
        self._times = name in _TIMED
        self._zero_s = 0.0 if name in (_MOV, "flac") else (container.start_time or 0) / 1_000_000
        self._header_s = container.duration / 1_000_000 if container.duration else 0.0
        self._container, self._stream, self._output = container, stream, output
        self._index: int = stream.index
        # (numerator, denominator) of the time base of the streams whose ends count
        self._ticks: dict[int, tuple[int, int]] = {
            s.index: (s.time_base.numerator, s.time_base.denominator)
            for s in container.streams
            if s.type in ("audio", "video") and s.time_base is not None
        }
        self._rate, self._channels = 0, 0
        self._layout: Any = None
        self._format, self._n_planes = "fltp", 0
        self._n_written = 0
        self._offset_s = 0.0  # of times that jumped
        self._silence_s = 0.0
        self._first_s: float | None = None  # the time of the first packet
        self._resampler: Any = None
        self._shape: tuple[Any, ...] = ()

    @property
    def position_s(self) -> float:
        """Seconds that were written."""
        return self._n_written / self._rate if self._rate else 0.0

    def decode(self, log: list[tuple[int, str, str]]) -> None:
        """Write the whole track.

        Args:
            log: what the libraries say meanwhile.
        """
        for packet in _packets(self._container, self._stream):
            self._note_complaints(log)
            index = packet.stream.index
            if index != self._index:
                self._note_end(packet, index)
                continue
            if packet.size:
                self.cut = bool(packet.is_corrupt)
            for frame in self._frames(packet):
                self._place(frame)
        self._flush_resampler()
        self._note_complaints(log)
        self.cut |= self.complaint_s > self.position_s - _LEAST_MISSING_S

    def _note_complaints(self, log: list[tuple[int, str, str]]) -> None:
        if log:
            if any(part in message for _, _, message in log for part in _COMPLAINTS):
                self.complaint_s = self.position_s
            log.clear()

    def _seconds(self, index: int, ticks: int) -> float:
        numerator, denominator = self._ticks[index]
        return ticks * numerator / denominator

    def _frames(self, packet: Any) -> Iterator[Any]:
        from av.error import FFmpegError

        try:
            frames = packet.decode()
        except FFmpegError:
            if packet.size:
                self.n_damaged += 1
                self.cut = True  # if nothing follows
                if self.n_damaged == 1:
                    self.damaged_s = self.position_s
            return
        if packet.size:
            self._note_end(packet, self._index)
            if self._first_s is None and packet.pts is not None and self._index in self._ticks:
                self._first_s = self._seconds(self._index, packet.pts)
        if self.format == "flac" and len(frames) > 1 and frames[0].pts is not None:
            # Around damage a packet can have several frames in it. Its time is that of the last.
            frames[0].pts -= sum(frame.samples for frame in frames[:-1])
        yield from frames

    def _note_end(self, packet: Any, index: int) -> None:
        pts = packet.pts
        if pts is not None and index in self._ticks:
            self.end_s = max(self.end_s, self._seconds(index, pts + (packet.duration or 0)) - self._zero_s)

    def _place(self, frame: Any) -> None:
        """Write a frame where its time says, with silence before it where there is a gap."""
        import av

        if not frame.samples:
            return
        if not self.has_frames:
            self.has_frames = True
            self._rate, self._layout, self._channels = frame.sample_rate, frame.layout, frame.layout.nb_channels
            if self._channels > _MAX_PLANES:
                self._format, self._n_planes = "flt", 1
            else:
                self._format, self._n_planes = "fltp", self._channels
            self._send_header()
            self._skip_delay(frame)
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self._flush_resampler()
            if shape != (self._format, self._layout.name, self._rate):
                self._resampler = av.AudioResampler(format=self._format, layout=self._layout, rate=self._rate)
            self._shape = shape
        pts = frame.pts
        if self._times and pts is not None and self._index in self._ticks:
            self._close_gap(self._seconds(self._index, pts))
        if self._resampler is None:
            self._write(frame)
            return
        frame.pts = None  # the resampler would react to a jump
        for converted in self._resampler.resample(frame):
            self._write(converted)

    def _flush_resampler(self) -> None:
        if self._resampler is not None:
            for frame in self._resampler.resample(None):
                if frame is not None:
                    self._write(frame)
        self._resampler = None

    def _skip_delay(self, frame: Any) -> None:
        """Align the first frame with the first packet: a decoder may give nothing for some packets at the start."""
        if self._first_s is not None and frame.pts is not None:
            delay_s = self._seconds(self._index, frame.pts) - self._first_s
            self._offset_s = delay_s if delay_s > _LEAST_GAP_S else 0.0

    def _close_gap(self, time_s: float) -> None:
        ahead_s = time_s - self._zero_s - self._offset_s - self.position_s
        if -_LONGEST_JUMP_BACK_S <= ahead_s <= _LEAST_GAP_S:
            return
        known = time_s - self._zero_s <= self._header_s + 1 if self.format in _PROMISING | {_MOV} else False
        fits = ahead_s <= _LONGEST_GAP_S or known
        if ahead_s < 0 or not fits or self._silence_s + ahead_s > _MOST_SILENCE_S:
            self._offset_s += ahead_s
            self.jumps.append(self.position_s)
            return
        self._silence_s += ahead_s
        n_left = round(ahead_s * self._rate)
        self._n_written += n_left
        while n_left:
            n_now = min(n_left, max(1, _MESSAGE_BYTES // (4 * self._channels)))
            self._output.add([bytes(4 * n_now * self._channels // self._n_planes)] * self._n_planes)
            n_left -= n_now

    def _write(self, frame: Any) -> None:
        if frame.samples:
            self._output.add(_samples(frame, self._channels // self._n_planes))
            self._n_written += frame.samples

    def _send_header(self) -> None:
        stream = self._stream
        duration_s = self._header_s
        if self.format == _MOV and stream.duration and stream.time_base:
            duration_s = float((stream.duration + (stream.start_time or 0)) * stream.time_base)
        facts = {"rate": self._rate, "channels": self._channels, "duration_s": duration_s or None}
        self._output.send(b"H", {**facts, "is_planar": self._n_planes == self._channels})

    def promised_s(self, size_bytes: int) -> float | None:
        """Return what the header said of the length, where less has come.

        Args:
            size_bytes: of the file.
        """
        if self.format == _MOV:
            last = _last_entry(self._stream)
            if last is None or last.pos + last.size <= size_bytes:
                return None
            stream = self._stream
            return float(((stream.duration or 0) + (stream.start_time or 0)) * stream.time_base)
        if self.format not in _PROMISING:
            return None
        # Video may go on after the last sound.
        came_s = max(self.position_s, self.end_s)
        return self._header_s if came_s < self._header_s - _LEAST_MISSING_S else None


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of the stream, and of others where their times tell the length of the recording."""
    from av.error import FFmpegError
    from av.stream import Discard

    others = [s for s in container.streams if s.type == "video" and not _is_picture(s)]
    wanted = [stream] if container.format.name not in _PROMISING else [stream, *others]
    for other in container.streams:
        if other not in wanted:
            other.discard = Discard.all
    packets = container.demux(*wanted)
    n_failures = 0
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except FFmpegError:
            # The demuxer may continue after the damage; a new iterator continues where it is.
            n_failures += 1
            if n_failures > 100:
                return
            packets = container.demux(*wanted)


def _is_picture(stream: Any) -> bool:
    """Tell whether a video stream is cover art."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _last_entry(stream: Any) -> Any:
    entries = stream.index_entries
    return entries[len(entries) - 1] if len(entries) else None


def _describe(streams: list[Any]) -> str:
    """Return the tracks in words: their numbers, languages and titles."""
    names = []
    for number, stream in enumerate(streams, start=1):
        known = [stream.metadata.get("language", ""), stream.metadata.get("title", ""), stream.codec_context.name]
        names.append(f"{number} ({', '.join(word for word in known if word and word != 'und')})")
    return ", ".join(names)


def choose(path: str, streams: list[Any], track: int) -> tuple[int, str]:
    """Return the number, from 1, of the track to read, and a note on the choice.

    Raises:
        RefusalError: there is no such track.
    """
    said = f"it has {len(streams)} audio track{'s' if len(streams) > 1 else ''}: {_describe(streams)}"
    if track > len(streams):
        raise RefusalError(f"there is no audio track {track}: {said}")
    if track or len(streams) == 1:
        return track or 1, ""
    usual = next((n for n, s in enumerate(streams, 1) if s.disposition & type(s.disposition).default), 1)
    order = [usual, *(n for n in range(1, len(streams) + 1) if n != usual)]
    deadline = time.monotonic() + _SEARCH_CLOCK_S
    chosen = next((n for n in order if _is_heard(path, n, deadline)), usual)
    silent = f"track {usual} is silent, " if chosen != usual else ""
    return chosen, f"{said}; {silent}track {chosen} is read; --track N chooses another"


def _samples(frame: Any, n_interleaved: int) -> list[memoryview]:
    """Return the 32-bit samples of each plane of a frame, without what pads a plane: that was never written.

    Args:
        n_interleaved: channels in a plane.
    """
    return [memoryview(plane)[: 4 * frame.samples * n_interleaved] for plane in frame.planes]


def _is_heard(path: str, track: int, deadline: float) -> bool:
    """Tell whether a track is not silent, as far as it is decoded in limited time."""
    import av
    import numpy as np
    from av.error import FFmpegError

    with _open(path) as container:
        stream = container.streams.audio[track - 1]
        resampler = None
        searched_s = 0.0
        for packet in _packets(container, stream):
            if packet.stream.index != stream.index:
                continue
            try:
                frames = packet.decode()
            except FFmpegError:
                continue
            for frame in frames:
                if resampler is None:
                    resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
                searched_s += frame.samples / frame.sample_rate
                try:
                    planes = [_samples(part, part.layout.nb_channels)[0] for part in resampler.resample(frame)]
                except ValueError:  # of another rate from here on
                    resampler = None
                    continue
                if any(len(plane) and np.abs(np.frombuffer(plane, np.float32)).max() > _SILENCE for plane in planes):
                    return True
            if searched_s > _SEARCH_S or time.monotonic() > deadline:
                return False
    return False


def _open(path: str) -> Any:
    import av

    # By a descriptor: no demuxer can open anything else, and none is chosen by the name, which lets a huge file of
    # anything pass for an mp3.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    options = {"protocol_whitelist": "fd", "format_whitelist": ",".join(FORMATS), "fd": str(descriptor)}
    return av.open("fd:", options=options, metadata_errors="replace")


def run(path: str, track: int, output: MessageWriter) -> dict[str, Any]:
    """Decode one track to the output and return how it ended.

    Raises:
        RefusalError: it is not audio that can be read.
    """
    import av.logging
    from av.error import FFmpegError

    try:
        container = _open(path)
    except (FFmpegError, ValueError) as error:
        raise RefusalError(_explain(path, error)) from error
    with container:
        streams = [s for s in container.streams.audio if s.codec_context is not None]
        if not streams:
            raise RefusalError("there is no audio in it")
        number, note = choose(path, streams, track)
        stream = streams[number - 1]
        stream.codec_context.thread_count = 1
        reading = Track(container, stream, output)
        av.logging.set_level(av.logging.WARNING)
        with av.logging.Capture() as log:
            reading.decode(log)
        av.logging.set_level(None)
        if not reading.has_frames:
            broken = reading.n_damaged or reading.cut
            raise RefusalError("nothing in it can be decoded" if broken else "there is no audio in it")
        return {
            "note": note,
            "end_s": reading.position_s,
            "promised_s": reading.promised_s(os.path.getsize(path)),
            "cut": reading.cut,
            "n_damaged": reading.n_damaged,
            "damaged_s": reading.damaged_s,
            "jumps_s": reading.jumps[:10],
        }


def _explain(path: str, error: Exception) -> str:
    with open(path, "rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    lists = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<?xml", b"<MPD", b"<smil", b"<asx", b"v=0\r\n", b"v=0\n")
    if head.lower().startswith(tuple(start.lower() for start in lists)):
        return "a playlist, not a recording"
    if head[4:8] == b"ftyp":
        return "it was cut off before its index (moov), without which nothing in it can be found"
    reason = getattr(error, "strerror", None) or str(error)
    return f"not audio that can be read ({reason})"


def _read_requests(requests: queue.SimpleQueue[bytes]) -> None:
    """Pass the lines of stdin on, and end the program with them."""
    with os.fdopen(0, "rb", closefd=False) as stdin:
        for line in stdin:
            requests.put(line)
    os._exit(0)


def _answer(request: dict[str, Any], output: MessageWriter) -> bool:
    """Decode a recording; False: the libraries may be in a bad state, so the program must end."""
    try:
        end = run(request["path"], request["track"], output)
    except RefusalError as refusal:
        end = {"error": str(refusal)}
    except BrokenPipeError:
        return False
    except Exception as error:
        end = {"error": f"decoding broke: {type(error).__name__}: {error}"}
    output.send(b"E", end)
    return not ("error" in end or end["cut"] or end["n_damaged"])


def main() -> None:
    """Run the program."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    output = MessageWriter(os.fdopen(os.dup(1), "wb", buffering=0))
    os.dup2(2, 1)  # whatever a C library prints must not get between the messages
    try:
        import av.logging
    except ImportError as error:
        output.send(b"E", {"missing": str(error)})
        return
    av.logging.set_level(None)
    try:
        while _answer(json.loads(requests.get(timeout=_IDLE_S)), output):
            pass
    except queue.Empty:
        return


if __name__ == "__main__":
    main()
    os._exit(0)  # at once: a thread still waits for stdin
