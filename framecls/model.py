"""A model that is loaded and ready: paths, files or arrays in, results out."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from framecls.audio import Channel, Source, split_channels
from framecls.config import (
    DEFAULT_BEAM,
    DEFAULT_READING,
    DEFAULT_TOP_K,
    EACH,
    UNKNOWN,
    ModelConfig,
    ReadKeywords,
    ReadOptions,
)
from framecls.errors import AudioError, ConfigError, UsageError
from framecls.inference.batching import Opener
from framecls.inference.engine import Engine, RunningWindows, load_engine
from framecls.inference.identify import (
    Choice,
    Ranking,
    check_among,
    choose_candidates,
    find_rejection,
    pool_windows,
    rank,
)
from framecls.inference.phones import make_string, phone_engine, stitch_phones
from framecls.inference.tag import Tagger, make_segmenter, stitch_parts, to_probabilities
from framecls.results import AudioInfo, Identification, Remarks, Segment, StringResult, TagResult
from framecls.speakers.gallery import check_name
from framecls.speakers.recognition import Enrolled, embed_recording, enroll, identity, load_enrolled, pool_embedding

R = TypeVar("R")
Answer = TypeVar("Answer", TagResult, StringResult, Identification)

# What is decoded at once of a live source.
STREAM_BLOCK_S = 0.5


class Model:
    """One model on one device. Make it with `framecls.load`."""

    def __init__(self, engine: Engine, config: ModelConfig | None = None) -> None:
        self._engine = engine
        self.config = config or engine.config

    def __repr__(self) -> str:
        return f"<framecls model {self.name} on {self.device}>"

    @property
    def name(self) -> str:
        """The model's name, as results carry it."""
        return self.config.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that the model knows, in the order of score columns."""
        return self.config.labels

    @property
    def card(self) -> dict[str, Any]:
        """Data, licences, figures and date, as the model file states them."""
        return self.config.card

    @property
    def device(self) -> str:
        """Where the network runs."""
        return str(self._engine.device)

    @property
    def batch_size(self) -> int:
        """Windows of one forward pass."""
        return self._engine.batch_size

    @property
    def identity(self) -> str:
        """What tells this model's vectors from those of any other: its name, and a digest of its weights."""
        return identity(self._engine)

    def with_decision(
        self,
        *,
        thresholds: Mapping[str, float] | None = None,
        min_duration_s: float | None = None,
        min_gap_s: float | None = None,
    ) -> Model:
        """Return the same model with other rules, as `ModelConfig.with_decision` takes them; the weights are shared.

        Raises:
            ConfigError: a label that the model does not have, or a number out of range.
        """
        config = self.config.with_decision(thresholds=thresholds, min_duration_s=min_duration_s, min_gap_s=min_gap_s)
        return Model(self._engine, config)

    def tag(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        keep_scores: bool = True,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> TagResult:
        """Say what is heard when in one recording.

        Args:
            source: a path, a binary file object, an array of (sample,) or (channel, sample) floats in -1..1 or of
                integers (NumPy's, PyTorch's, a list, …), or an iterator of arrays that follow each other.
            sample_rate: Hz, of an array or of arrays.
            keep_scores: keep the probabilities of every frame; without, a day needs no more memory than a minute.
            progress: told the seconds of audio that are done.
            reading: how a recording is read, the fields of `ReadOptions`: raw, track, channel, timeout_s, ….

        Raises:
            UsageError: this model gives one label a recording, not one a frame.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        _refuse_each(source, ReadOptions(**reading))
        return _only(
            self.tag_many([source], sample_rate=sample_rate, keep_scores=keep_scores, progress=progress, **reading)
        )

    def tag_many(
        self,
        sources: Iterable[Source],
        *,
        sample_rate: int | None = None,
        keep_scores: bool = True,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[TagResult | Exception, None, None]:
        """Say what is heard when in many recordings: decoded ahead, and short ones batched together.

        Each result is what `tag` gives for that source alone. The arguments are those of `tag`. An iterator of sources
        is advanced some recordings ahead, in the thread that reads the results; what it raises is raised there, and
        closing the results closes a generator.

        Yields:
            in the order of the sources a result, or for one that failed the error that `tag` would have raised; with
            `channel="each"` as many for a source as it has channels.

        Raises:
            UsageError: this model gives one label a recording, not one a frame.
        """
        self._check_frame_task()
        _refuse_single(sources)
        options = _Reading(sample_rate, ReadOptions(**reading), progress)
        return self._each(sources, options, lambda windows, name: self._tag(windows, name, keep_scores))

    def stream(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        remark: Callable[[Remarks], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[Segment, None, None]:
        """Yield the segments of one recording, live or not, each as soon as nothing still to come can change it.

        They come in the order in which they end, near enough: a long one follows the short ones that it spans. A
        segment is given at most the model's window, its `min_gap_s` and half a second of audio after its end; where
        labels tile the recording, that is after the end of the first one to follow that lasts `min_duration_s`.

        Args:
            source: as for `tag`; from a microphone, say, an iterator of blocks.
            sample_rate: Hz, of an array or of arrays.
            remark: told, once the recording is over, what is to be said of it.
            reading: how a recording is read, the fields of `ReadOptions`: raw, track, channel, timeout_s, ….

        Raises:
            UsageError: this model gives one label a recording, not one a frame.
            AudioError: the recording cannot be read, or there is nothing in it; after the segments before.
        """
        self._check_frame_task()
        return self._stream(source, _Reading(sample_rate, _refuse_each(source, ReadOptions(**reading))), remark)

    def _stream(
        self, source: Source, reading: _Reading, remark: Callable[[Remarks], None] | None
    ) -> Generator[Segment, None, None]:
        segmenter = make_segmenter(self.config)
        openers = self._openers([source], reading, deque())
        with closing(self._engine.run_many(openers, block_s=STREAM_BLOCK_S)) as recordings:
            for windows in recordings:
                for logits in stitch_parts(windows, self.config.overlap_frames):
                    yield from segmenter.push(to_probabilities(logits, self.config))
                yield from segmenter.finish(self._duration(windows.n_samples))
                if remark is not None:
                    remark(windows.remarks)

    def tag_string(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        beam: int = DEFAULT_BEAM,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> StringResult:
        """Say which phones are heard in one recording, in order: as many as there are.

        Args:
            source: as for `tag`.
            sample_rate: Hz, of an array or of arrays.
            beam: strings that the search keeps from frame to frame; 1 takes the best phone of each frame.
            progress: told the seconds of audio that are done.
            reading: how a recording is read, the fields of `ReadOptions`: raw, track, channel, timeout_s, ….

        Raises:
            UsageError: this model hears no phones.
            ConfigError: `beam` is not positive.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        _refuse_each(source, ReadOptions(**reading))
        return _only(self.tag_string_many([source], sample_rate=sample_rate, beam=beam, progress=progress, **reading))

    def tag_string_many(
        self,
        sources: Iterable[Source],
        *,
        sample_rate: int | None = None,
        beam: int = DEFAULT_BEAM,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[StringResult | Exception, None, None]:
        """Say which phones are heard in many recordings: decoded ahead, and short ones batched together.

        Each result is what `tag_string` gives for that source alone. The arguments are those of `tag_string`.

        Yields:
            in the order of the sources a result, or for one that failed the error that `tag_string` would have raised.

        Raises:
            UsageError: this model hears no phones.
            ConfigError: `beam` is not positive.
        """
        engine = phone_engine(self._engine)
        _refuse_single(sources)
        if beam < 1:
            raise ConfigError(f"beam {beam}: at least 1")
        overlap = engine.config.overlap_frames
        options = _Reading(sample_rate, ReadOptions(**reading), progress)
        return self._each(sources, options, lambda windows, name: self._spell(windows, name, overlap, beam), engine)

    def identify(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        top_k: int = DEFAULT_TOP_K,
        among: Sequence[str] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Identification:
        """Give one recording one label.

        Args:
            source: as for `tag`.
            sample_rate: Hz, of an array or of arrays.
            top_k: how many labels to rank.
            among: only these labels can be the answer, or none of them; None: those that the model trusts itself with.
            enrolled: whom a model of voices can name: what `enrolled` returned, or the file of a gallery; None: the
                user's own gallery.
            progress: told the seconds of audio that are done.
            reading: how a recording is read, the fields of `ReadOptions`: raw, track, channel, timeout_s, ….

        Raises:
            UsageError: this model gives one label a frame.
            ConfigError: `among` names a label that the model does not have, or top_k is not positive.
            GalleryError: nobody is enrolled, or the gallery cannot be used with this model.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        _refuse_each(source, ReadOptions(**reading))
        return _only(
            self.identify_many(
                [source],
                sample_rate=sample_rate,
                top_k=top_k,
                among=among,
                enrolled=enrolled,
                progress=progress,
                **reading,
            )
        )

    def identify_many(
        self,
        sources: Iterable[Source],
        *,
        sample_rate: int | None = None,
        top_k: int = DEFAULT_TOP_K,
        among: Sequence[str] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[Identification | Exception, None, None]:
        """Give each of many recordings one label: decoded ahead, and short ones batched together.

        Each result is what `identify` gives for that source alone. The arguments are those of `identify`.

        Yields:
            in the order of the sources a result, or for one that failed the error that `identify` would have raised.

        Raises:
            UsageError: this model gives one label a frame.
            ConfigError: `among` names a label that the model does not have, or top_k is not positive.
            GalleryError: nobody is enrolled, or the gallery cannot be used with this model.
        """
        if self.config.task != "pooled":
            raise UsageError(f"the model {self.name} gives one label a frame: use tag")
        _refuse_single(sources)
        if top_k < 1:
            raise ConfigError(f"top_k {top_k}: at least 1")
        options = _Reading(sample_rate, ReadOptions(**reading), progress)
        if self.config.embedding:
            known = enrolled if isinstance(enrolled, Enrolled) else self.enrolled(enrolled)
            known = known if among is None else known.among(check_among(among))
            return self._each(sources, options, lambda windows, name: self._name_voice(windows, name, known, top_k))
        choice = choose_candidates(self.config, among)
        return self._each(sources, options, lambda windows, name: self._identify(windows, name, choice, top_k))

    def _check_frame_task(self) -> None:
        if self.config.task != "frame":
            raise UsageError(f"the model {self.name} gives one label a recording: use identify")

    def _each(
        self,
        sources: Iterable[Source],
        reading: _Reading,
        answer: Callable[[RunningWindows, str], Answer],
        engine: Engine | None = None,
    ) -> Generator[Answer | Exception, None, None]:
        begun: deque[tuple[str, int | None]] = deque()
        openers = self._openers(sources, reading, begun)
        running = (engine or self._engine).run_many(
            openers, progress=reading.progress, own_thread=isinstance(sources, QueuedSources)
        )
        with closing(running) as recordings:
            for windows in recordings:
                name, channel = begun.popleft()
                try:
                    result: Answer | Exception = _complete(answer(windows, name), windows.remarks, channel)
                except Exception as error:
                    result = error
                yield result

    def _openers(
        self, sources: Iterable[Source], reading: _Reading, begun: deque[tuple[str, int | None]]
    ) -> Generator[Opener, None, None]:
        """Yield what opens each source, and add its name and the channel to `begun`."""
        iterator = iter(sources)
        try:
            for source in iterator:
                try:
                    parts = _split(source, reading)
                except Exception as error:  # whoever reads its result is told, as of one that cannot be opened
                    begun.append((_name(source), None))
                    yield partial(_fail, error)
                    continue
                for part in parts:
                    number = part.number if isinstance(part, Channel) else reading.options.channel_number
                    begun.append((_name(part), number))
                    yield partial(self._engine.open, part, reading.sample_rate, reading.options)
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    def _tag(self, windows: RunningWindows, name: str, keep_scores: bool) -> TagResult:
        tagger = Tagger(self.config, keep_scores=keep_scores)
        for logits in stitch_parts(windows, self.config.overlap_frames):
            tagger.push(logits)
        return tagger.finish(name, self._duration(windows.n_samples), windows.info)

    def _spell(self, windows: RunningWindows, name: str, overlap: int, beam: int) -> StringResult:
        log_probs = stitch_phones(windows, overlap)
        return make_string(log_probs, self.config, beam, name, self._duration(windows.n_samples), windows.info)

    def _identify(self, windows: RunningWindows, name: str, choice: Choice, top_k: int) -> Identification:
        logits, heard_s = pool_windows(windows)
        ranking = rank(logits, self.config, choice, top_k)
        return self._answer(name, self._duration(windows.n_samples), ranking, heard_s, windows.info)

    def _answer(
        self, name: str, duration_s: float, ranking: Ranking, heard_s: float, info: AudioInfo | None
    ) -> Identification:
        best, doubt = ranking.top[0], find_rejection(ranking, heard_s, self.config)
        label, score = (best.label, best.score) if doubt is None else (UNKNOWN, None)
        return Identification(name, self.name, duration_s, label, score, ranking.top, info, doubt)

    def embed(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        progress: Callable[[float], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> NDArray[np.float32]:
        """Return (number,) the unit vector of the voice in one recording; two of one voice have a large product.

        Args:
            source: as for `tag`.
            sample_rate: Hz, of an array or of arrays.
            progress: told the seconds of audio that are done.
            reading: how a recording is read, the fields of `ReadOptions`: raw, track, channel, timeout_s, ….

        Raises:
            UsageError: this model does not answer with an embedding.
            AudioError: the recording cannot be read, or there is too little speech in it.
        """
        options = _refuse_each(source, ReadOptions(**reading))
        return embed_recording(self._engine, source, sample_rate, options, progress).vector

    def enrolled(self, gallery: str | Path | None = None) -> Enrolled:
        """Read whom this model can name from a gallery, once for many recordings; None: the user's own.

        Raises:
            GalleryError: nobody is enrolled, or the gallery cannot be used with this model.
        """
        return load_enrolled(self._engine, Path(gallery) if gallery is not None else None)

    def enroll(
        self,
        name: str,
        sources: Sequence[Source],
        *,
        sample_rate: int | None = None,
        gallery: str | Path | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> list[str]:
        """Enroll somebody's voice in a gallery; None: the user's own.

        Args:
            name: who speaks.
            sources: recordings in which nobody else does, each as for `tag`.
            sample_rate: Hz, of arrays.
            gallery: the file, made if it is not there.
            reading: how a recording is read, the fields of `ReadOptions`: raw, track, channel, timeout_s, ….

        Returns:
            what should make one look again, such as a clip that does not sound like the others; empty is good.

        Raises:
            UsageError: that is no name, or this model does not answer with an embedding.
            GalleryError: the gallery cannot be used with this model.
            AudioError: a recording cannot be read, or there is too little speech in it; nothing is enrolled then.
        """
        person = check_name(name)
        _refuse_single(sources)
        options = ReadOptions(**reading)
        for source in sources:
            _refuse_each(source, options)
        voices = [(_name(source), embed_recording(self._engine, source, sample_rate, options)) for source in sources]
        warnings = [f"{clip}: {text}" for clip, voice in voices for text in voice.remarks.warnings]
        return warnings + enroll(self._engine, person, voices, Path(gallery) if gallery is not None else None).warnings

    def _name_voice(self, windows: RunningWindows, name: str, enrolled: Enrolled, top_k: int) -> Identification:
        voice = pool_embedding(windows, self.config)
        ranking = enrolled.rank(voice.vector, self.config, top_k)
        return self._answer(name, voice.duration_s, ranking, voice.heard_s, voice.info)

    def _duration(self, n_samples: int) -> float:
        if not n_samples:
            raise AudioError("there is no audio in it")
        return round(n_samples / self.config.features.sample_rate, 6)


@dataclass(frozen=True)
class _Reading:
    """How the sources of a run are read."""

    sample_rate: int | None = None  # Hz, of arrays
    options: ReadOptions = DEFAULT_READING
    progress: Callable[[float], None] | None = None


class QueuedSources(Iterable[Source]):
    """Sources that come when they like, from a queue say: they are waited for in a thread of their own."""

    def __init__(self, sources: Iterator[Source]) -> None:
        self._sources = sources

    def __iter__(self) -> Iterator[Source]:
        return self._sources


def _split(source: Source, reading: _Reading) -> Sequence[Source]:
    """Return the channels of a source, where each is wanted as a recording of its own."""
    if reading.options.channel != EACH or isinstance(source, Channel):
        return [source]
    return split_channels(source, reading.sample_rate, reading.options)


def _fail(error: Exception) -> NoReturn:
    raise error


def _refuse_each(source: Source, options: ReadOptions) -> ReadOptions:
    """Return the options, if they give one result.

    Raises:
        UsageError: they give one for each channel.
    """
    if options.channel == EACH and not isinstance(source, Channel):
        raise UsageError("each channel has a result of its own: use tag_many or identify_many, or choose one channel")
    return options


def _complete(result: Answer, remarks: Remarks, channel: int | None) -> Answer:
    return dataclasses.replace(
        result,
        truncated=remarks.truncated,
        warnings=tuple(remarks.warnings),
        notes=tuple(remarks.notes),
        channel=channel,
    )


def _refuse_single(sources: object) -> None:
    """Refuse one path where many recordings are wanted: it would be taken letter by letter.

    Raises:
        UsageError: it is one.
    """
    if isinstance(sources, str | bytes | os.PathLike):
        raise UsageError(f"a list of recordings is wanted, and this is one {type(sources).__name__}: put it in a list")


def _only(results: Generator[R | Exception, None, None]) -> R:
    """Return the one result of a run, or raise what it failed with."""
    with closing(results):
        result = next(results)
    if isinstance(result, Exception):
        raise result
    return result


def load(
    model: str | Path = "sound", *, device: str = "auto", threads: int | None = None, batch_size: int | None = None
) -> Model:
    """Load a model by name or path; the arguments are those of `engine.load_engine`."""
    return Model(load_engine(model, device=device, threads=threads, batch_size=batch_size))


def _name(source: object) -> str:
    if isinstance(source, Channel):
        return _name(source.source)
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "-")) if hasattr(source, "read") else "array"
