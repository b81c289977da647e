"""A cache of decoded recordings: one flat file on disk, mapped into memory, so that no epoch decodes anything.

It holds 16-bit samples, or precomputed feature vectors, which take the place of samples throughout.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from framecls.audio import open_audio
from framecls.config import ModelConfig
from framecls.errors import AudioError, ManifestError, OutputError
from framecls.replacing import remove_leftovers, replacing
from framecls.training.data.labels.arrays import load_vectors
from framecls.training.data.labels.rows import ARRAY_SUFFIXES
from framecls.training.data.manifest import Recording, Section
from framecls.training.examples.codecs import apply_codec

_log = logging.getLogger(__name__)

_BLOCK_S = 30.0
_SLACK_S = 0.1  # lengths of lossy files are known to about a codec frame


class ClipStore:
    """Samples of many recordings at one rate, mapped into memory.

    Args:
        samples: (sample,) 16-bit, or (vector, feature) floats, of all recordings one after the other.
        offsets: of each recording, the first and one after the last.
        sample_rate: Hz; vectors a second of precomputed features.
    """

    def __init__(
        self, samples: NDArray[np.int16 | np.float32], offsets: dict[Path, tuple[int, int]], sample_rate: int
    ) -> None:
        self._samples = samples
        self._offsets = offsets
        self.sample_rate = sample_rate

    def n_samples(self, file: Path) -> int:
        """Return the length of a recording."""
        first, last = self._offsets[file]
        return last - first

    def read(self, file: Path, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Return (sample,) the samples `[start, stop)` of a recording, -1..1; or (vector, feature)."""
        first, last = self._offsets[file]
        stop = last if stop is None else min(first + stop, last)
        samples = self._samples[first + start : stop].astype(np.float32)
        return samples / np.float32(32768) if self._samples.ndim == 1 else samples


class CodecStore(ClipStore):
    """The recordings of another store, encoded and decoded by a codec."""

    def __init__(self, store: ClipStore, codec: str) -> None:
        super().__init__(store._samples, store._offsets, store.sample_rate)
        self._codec = codec

    def read(self, file: Path, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """See `ClipStore.read`; the samples are encoded and decoded."""
        samples = super().read(file, start, stop)
        return apply_codec(samples, self.sample_rate, self._codec) if len(samples) else samples


def open_clips(
    recordings: Sequence[Recording],
    sample_rate: int,
    cache: Path,
    progress: Callable[[int, int], None] | None = None,
) -> ClipStore:
    """Decode recordings into a cache folder, or map the file that is there already.

    Args:
        recordings: to decode; the cache is keyed by their paths, sizes and modification times.
        sample_rate: Hz; vectors a second of precomputed features.
        cache: folder for the decoded samples: 115 MB an hour at 16 kHz.
        progress: called with the number of files done, and of all.

    Raises:
        ManifestError: some recordings cannot be decoded, or some spans lie beyond the end; the message lists them.
        OutputError: the cache folder cannot be written.
    """
    check_kind(recordings)
    files = sorted({recording.audio for recording in recordings})
    n_features = array_size(recordings)
    key = hashlib.sha256(str(sample_rate).encode())
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise ManifestError(f"{file}: cannot be read: {error.strerror}") from error
        key.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    data, index = cache / f"{key.hexdigest()[:20]}.pcm", cache / f"{key.hexdigest()[:20]}.json"
    try:
        if not os.path.exists(index):
            cache.mkdir(parents=True, exist_ok=True)
            with _locked(cache):
                if not index.exists():  # no other process has made it meanwhile
                    remove_leftovers(data)  # gigabytes, maybe
                    lengths = _decode_all(files, sample_rate, data, progress)
                    with replacing(index) as temporary:
                        temporary.write_text(json.dumps(lengths), encoding="utf-8")
        lengths = json.loads(index.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{cache}: decoded recordings cannot be kept here: {error.strerror or error}") from error
    ends = np.cumsum(lengths).tolist()
    offsets = {file: (end - length, end) for file, end, length in zip(files, ends, lengths, strict=True)}
    offsets |= {r.file: _section_bounds(offsets[r.audio], r.section, sample_rate) for r in recordings if r.section}
    samples: NDArray[np.int16 | np.float32] = (
        np.memmap(data, np.float32, "r", shape=(ends[-1], n_features)) if n_features else np.memmap(data, np.int16, "r")
    )
    if late := late_spans(
        recordings, {file: length / sample_rate for file, length in zip(files, lengths, strict=True)}
    ):
        raise ManifestError("labels beyond the end of their recordings", late)
    return ClipStore(samples, offsets, sample_rate)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder; without locks, the last process to rename its files wins."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network disk may have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_kind(recordings: Sequence[Recording]) -> None:
    """Refuse sound and precomputed features in one manifest.

    Raises:
        ManifestError: with a list of the rarer kind.
    """
    arrays = [str(recording.audio) for recording in recordings if recording.is_array]
    sounds = [str(recording.audio) for recording in recordings if not recording.is_array]
    if arrays and sounds:
        odd, what = (arrays, "feature arrays") if len(arrays) < len(sounds) else (sounds, "recordings")
        raise ManifestError(f"sound and features computed elsewhere cannot be mixed: there are {len(odd)} {what}", odd)


def array_size(recordings: Sequence[Recording]) -> int:
    """Return the size of precomputed vectors, by the first array; 0: recordings are sound.

    Raises:
        ManifestError: the first array cannot be read.
    """
    first = next((recording.audio for recording in recordings if recording.is_array), None)
    if first is None:
        return 0
    try:
        return int(load_vectors(first).shape[1])
    except ManifestError as error:
        raise ManifestError(f"{first}: {error}") from error


def check_features(recordings: Sequence[Recording], config: ModelConfig) -> None:
    """Check that a model takes this kind of recordings: sound, or precomputed vectors of a size.

    Raises:
        ManifestError: it takes another kind.
    """
    size, wanted = array_size(recordings), config.features.precomputed_dim
    if size != wanted:
        kinds = [f"vectors of {n} numbers" if n else "sound" for n in (wanted, size)]
        raise ManifestError(f"the model {config.name} takes {kinds[0]}, and here is {kinds[1]}")


def _section_bounds(bounds: tuple[int, int], section: Section, sample_rate: int) -> tuple[int, int]:
    first, last = bounds
    start = min(first + round(section.start_s * sample_rate), last)
    return start, last if section.end_s is None else max(start, min(first + round(section.end_s * sample_rate), last))


def _decode_all(
    files: Sequence[Path], sample_rate: int, data: Path, progress: Callable[[int, int], None] | None
) -> list[int]:
    lengths, problems = [], []
    decode = _Decoder(sample_rate)
    with replacing(data) as temporary:
        with temporary.open("wb") as out:
            for number, file in enumerate(files, start=1):
                try:
                    lengths.append(decode(file, out.write))
                except (AudioError, ManifestError) as error:
                    problems.append(f"{file}: {error}")
                if progress is not None:
                    progress(number, len(files))
        if problems:
            raise ManifestError(f"{len(problems)} of {len(files)} files cannot be read: leave them out", problems)
    return lengths


def measure_lengths(
    recordings: Sequence[Recording], sample_rate: int, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[Path, float], list[str]]:
    """Decode recordings to measure their lengths.

    Returns:
        the length of each file in seconds, and a line for each that cannot be read.
    """
    files = sorted({recording.audio for recording in recordings})
    lengths_s, problems = {}, []
    decode = _Decoder(sample_rate)
    for number, file in enumerate(files, start=1):
        try:
            lengths_s[file] = decode(file, lambda _: None) / sample_rate
        except (AudioError, ManifestError) as error:
            problems.append(f"{file}: {error}")
        if progress is not None:
            progress(number, len(files))
    return lengths_s, problems


class _Decoder:
    """Write files as one flat array, and check that vectors have one size."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._n_features = 0

    def __call__(self, file: Path, write: Callable[[bytes], object]) -> int:
        """Write the samples or vectors of a file and return how many there are."""
        if file.suffix.lower() not in ARRAY_SUFFIXES:
            return _decode(file, self._sample_rate, write)
        vectors = load_vectors(file)
        self._n_features = self._n_features or vectors.shape[1]
        if vectors.shape[1] != self._n_features:
            raise ManifestError(f"vectors of {vectors.shape[1]} numbers, those before have {self._n_features}")
        write(np.ascontiguousarray(vectors).tobytes())
        return len(vectors)


def _decode(file: Path, sample_rate: int, write: Callable[[bytes], object]) -> int:
    n_samples = 0
    with open_audio(file, sample_rate) as stream:
        for block in stream.blocks(_BLOCK_S):
            write(np.clip(block * 32768, -32768, 32767).astype(np.int16).tobytes())
            n_samples += len(block)
    for warning in stream.remarks.warnings:
        _log.warning("%s: %s", file, warning)
    return n_samples


def late_spans(recordings: Sequence[Recording], lengths_s: Mapping[Path, float]) -> list[str]:
    """Return a line for each span that passes the end of its file.

    Args:
        recordings: whose spans to look at.
        lengths_s: length of each file in seconds.
    """
    late = []
    for recording in recordings:
        length_s = lengths_s[recording.audio]
        # Spans of a section count from where it starts.
        offset_s = recording.section.start_s if recording.section else 0.0
        for span in recording.spans:
            last_s = offset_s + max(span.start_s, span.end_s or 0.0)
            if last_s > length_s + _SLACK_S:
                name = f"{span.where}: {recording.audio.name}"
                late.append(f"{name}: {span.label} ends at {last_s:.2f} s, the file at {length_s:.2f} s")
    return late
