"""A model that is loaded and ready: paths, files or arrays in, results out."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from framecls.audio import Channel, Source
from framecls.config import (
    DEFAULT_BEAM,
    DEFAULT_TOP_K,
    EACH,
    Configured,
    DecisionConfig,
    DecisionKeywords,
    ModelConfig,
    ReadKeywords,
    ReadOptions,
)
from framecls.errors import ConfigError, UsageError, suggest
from framecls.inference.align import check_phones, place_words
from framecls.inference.batching import Request
from framecls.inference.engine import Engine, EngineGroup, load_engine, name_source
from framecls.inference.explain import attend, explain
from framecls.inference.identify import check_among, choose_candidates, decide, find_several, pool_windows, rank
from framecls.inference.phones import phone_engine, spell_recording
from framecls.inference.tag import make_segmenter, tag_recording, to_probabilities
from framecls.inference.timeline import TimelineEngine, tag_timeline
from framecls.inference.together import answer_together
from framecls.inference.windows import stitch_parts
from framecls.inference.words import find_words
from framecls.report import TrainingReport
from framecls.results import (
    Alignment,
    Attention,
    Explanation,
    Identification,
    Remarks,
    Segment,
    StringResult,
    TagResult,
    TieredResult,
)
from framecls.speakers.diarization import Count, tag_speakers
from framecls.speakers.gallery import check_name
from framecls.speakers.listening import ListeningEngine
from framecls.speakers.recognition import Enrolled, embed_recording, enroll, identity, load_enrolled, pool_embedding

R = TypeVar("R")
Progress = Callable[[float], None]

# What is decoded at once of a live source.
STREAM_BLOCK_S = 0.5


class Model(Configured):
    """One model on one device. Make it with `framecls.load`.

    Arguments that several methods share:
        source: a path, a binary file object, an array of (sample,) or (channel, sample) floats in -1..1 or of integers
            (NumPy's, PyTorch's, a list, …), or an iterator of arrays that follow each other.
        progress: told the seconds of audio that are done.
        reading: how recordings are read, the fields of `ReadOptions`: sample_rate (Hz, which arrays need), raw, track,
            channel, timeout_s, max_duration_s, strict.

    A method on one recording raises AudioError where it cannot be read or there is nothing in it; its twin for many,
    which decodes ahead and batches short recordings together, gives that error in its place. A result is the same
    either way.
    """

    def __init__(self, engine: Engine, config: ModelConfig | None = None) -> None:
        self._engine = engine
        self.config = config or engine.config
        self.report: TrainingReport | None = None  # of `framecls.train`

    def __repr__(self) -> str:
        return f"<framecls model {self.name} on {self.device}>"

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
        """What tells this model's embeddings from those of any other: its name, and a digest of its weights."""
        return identity(self._engine)

    def with_decision(self, decision: DecisionConfig | None = None, **rules: Unpack[DecisionKeywords]) -> Model:
        """Return the same model with other rules from probabilities to labels; the weights are shared.

        Args:
            decision: all of the rules; None: the model's own.
            rules: some of them, as `ModelConfig.with_decision` takes them: thresholds, min_duration_s, min_gap_s.

        Raises:
            ConfigError: a label that the model does not have, or a number out of range.
        """
        return Model(self._engine, self.config.with_decision(decision, **rules))

    def tag(
        self,
        source: Source,
        *,
        among: Sequence[str] | None = None,
        speakers: int | tuple[int, int | None] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        keep_scores: bool = True,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> TagResult:
        """Say what is heard when in one recording; with a model of languages or voices, which or whose.

        Voices that nobody is enrolled with are "speaker 1", "speaker 2", …, in the order in which they are first heard.

        Args:
            source, progress, reading: see `Model`.
            among: as of `identify`; not for a model that gives its labels to frames.
            speakers: how many voices there are, or the least and the most (None: any number); None: as many as there
                seem to be.
            enrolled: as of `identify`, but that nobody need be enrolled.
            keep_scores: keep the probabilities of every frame; without, a day needs no more memory than a minute.

        Raises:
            UsageError: this model can choose among all of its labels only, or is none of voices.
            ConfigError: `among` names a label that the model does not have; there cannot be so many speakers.
            GalleryError: the gallery cannot be used with this model.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        _refuse_each(source, _reading_of(reading))
        results = self.tag_many(
            [source],
            among=among,
            speakers=speakers,
            enrolled=enrolled,
            keep_scores=keep_scores,
            progress=progress,
            **reading,
        )
        return _only(results)

    def tag_many(
        self,
        sources: Iterable[Source],
        *,
        among: Sequence[str] | None = None,
        speakers: int | tuple[int, int | None] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        keep_scores: bool = True,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[TagResult | Exception, None, None]:
        """Say what is heard when in many recordings; arguments and errors are those of `tag`.

        An iterator of sources is advanced some recordings ahead, in the thread that reads the results; what it raises
        is raised there, and closing the results closes a generator.

        Yields:
            in the order of the sources a result, or for one that failed the error that `tag` would have raised; with
            `channel="each"` as many for a source as it has channels.
        """
        engine, answer = self.tagger(among=among, speakers=speakers, enrolled=enrolled, keep_scores=keep_scores)
        return self._run(sources, reading, progress, answer, engine)

    def tagger(
        self,
        *,
        among: Sequence[str] | None = None,
        speakers: int | tuple[int, int | None] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        keep_scores: bool = True,
    ) -> tuple[Engine, Callable[[Request], TagResult]]:
        """Return what runs over recordings to tag them, and what turns its outputs into a result; see `tag_many`."""
        if self.config.embedding:
            known = enrolled if isinstance(enrolled, Enrolled) else self.enrolled(enrolled, anybody=False)
            known = known if among is None else known.among(check_among(among))
            listening, count = ListeningEngine(self._engine, self.config), Count.of(speakers)
            answer = partial(tag_speakers, engine=listening, enrolled=known, count=count, keep_scores=keep_scores)
            return listening, answer
        if speakers is not None or enrolled is not None:
            raise UsageError(f"speakers and enrolled go with a model of voices, not with {self.name}")
        if self.config.task == "frame":
            if among is not None:
                raise UsageError(f"among goes with a model of languages or voices, not with {self.name}")
            return self._engine, partial(tag_recording, config=self.config, keep_scores=keep_scores)
        engine, choice = TimelineEngine(self._engine, self.config), choose_candidates(self.config, among)
        return engine, partial(tag_timeline, engine=engine, choice=choice, keep_scores=keep_scores)

    def stream(
        self, source: Source, *, remark: Callable[[Remarks], None] | None = None, **reading: Unpack[ReadKeywords]
    ) -> Generator[Segment, None, None]:
        """Yield the segments of one recording, live or not, each as soon as no later audio can change it.

        They come roughly in the order in which they end: a long one follows the short ones that it spans. A segment
        is given at most the model's window, its `min_gap_s` and half a second of audio after its end; where labels
        tile the recording, that is after the end of the first one to follow that lasts `min_duration_s`.

        Args:
            source, reading: see `Model`; from a microphone, say, an iterator of blocks.
            remark: told, once the recording is over, what is to be said of it.

        Raises:
            UsageError: this model gives one label a recording, not one a frame.
            AudioError: the recording cannot be read, or there is nothing in it; after the segments before.
        """
        self._check_frame_task()
        options = _reading_of(reading)
        _refuse_each(source, options)
        return self._stream(source, options, remark)

    def _stream(
        self, source: Source, options: ReadOptions, remark: Callable[[Remarks], None] | None
    ) -> Generator[Segment, None, None]:
        segmenter = make_segmenter(self.config)
        with closing(self._engine.run([source], options, block_s=STREAM_BLOCK_S)) as recordings:
            recording = next(recordings)
            for logits in stitch_parts(recording, self.config.overlap_frames):
                yield from segmenter.push(to_probabilities(logits, self.config))
            yield from segmenter.finish(recording.duration_s)
            if remark is not None:
                remark(recording.remarks)

    def align(
        self, source: Source, text: str, *, progress: Progress | None = None, **reading: Unpack[ReadKeywords]
    ) -> Alignment:
        """Say when the words of a text are said in one recording, and their phones.

        Args:
            source, progress, reading: see `Model`.
            text: English; behind a word that is not in the dictionary stand its phones, as in `Ada[ey d ah]`.

        Raises:
            UsageError: this model does not hear the phones of English.
            PackageError: pocketsphinx, which has the dictionary, is not installed or does not load.
            TextError: a word is not in the dictionary, or the text does not fit the recording.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        words = find_words(text)
        check_phones(self.config.labels, self.name)
        return place_words(self.tag(source, progress=progress, **reading), words)

    def tag_string(
        self,
        source: Source,
        *,
        beam: int = DEFAULT_BEAM,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> StringResult:
        """Say which phones are heard in one recording, in order: as many as there are.

        Args:
            source, progress, reading: see `Model`.
            beam: strings that the search keeps from frame to frame; 1 takes the best phone of each frame.

        Raises:
            UsageError: this model hears no phones.
            ConfigError: `beam` is not positive.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        _refuse_each(source, _reading_of(reading))
        return _only(self.tag_string_many([source], beam=beam, progress=progress, **reading))

    def tag_string_many(
        self,
        sources: Iterable[Source],
        *,
        beam: int = DEFAULT_BEAM,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[StringResult | Exception, None, None]:
        """Say which phones are heard in many recordings; arguments and errors are those of `tag_string`.

        Yields:
            in the order of the sources a result, or for one that failed the error that `tag_string` would have raised.
        """
        engine = phone_engine(self._engine)
        if beam < 1:
            raise ConfigError(f"beam {beam}: at least 1")
        return self._run(
            sources, reading, progress, lambda recording: spell_recording(recording, self.config, beam), engine
        )

    def identify(
        self,
        source: Source,
        *,
        top_k: int = DEFAULT_TOP_K,
        among: Sequence[str] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Identification:
        """Give one recording one label.

        Args:
            source, progress, reading: see `Model`.
            top_k: how many labels to rank.
            among: only these labels can be the answer, or none of them; None: those that the model trusts itself with.
            enrolled: whom a model of voices can name: what `enrolled` returned, or the file of a gallery; None: the
                user's own gallery.

        Raises:
            UsageError: this model gives one label a frame.
            ConfigError: `among` names a label that the model does not have, or top_k is not positive.
            GalleryError: nobody is enrolled, or the gallery cannot be used with this model.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        _refuse_each(source, _reading_of(reading))
        results = self.identify_many(
            [source], top_k=top_k, among=among, enrolled=enrolled, progress=progress, **reading
        )
        return _only(results)

    def identify_many(
        self,
        sources: Iterable[Source],
        *,
        top_k: int = DEFAULT_TOP_K,
        among: Sequence[str] | None = None,
        enrolled: Enrolled | str | Path | None = None,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[Identification | Exception, None, None]:
        """Give each of many recordings one label; arguments and errors are those of `identify`.

        Yields:
            in the order of the sources a result, or for one that failed the error that `identify` would have raised.
        """
        if self.config.task != "pooled":
            raise UsageError(f"the model {self.name} gives one label a frame: use tag")
        _refuse_single(sources)
        if top_k < 1:
            raise ConfigError(f"top_k {top_k}: at least 1")
        if self.config.embedding:
            known = enrolled if isinstance(enrolled, Enrolled) else self.enrolled(enrolled)
            known = known if among is None else known.among(check_among(among))
            return self._run(sources, reading, progress, lambda recording: self._recognise(recording, known, top_k))
        choice = choose_candidates(self.config, among)

        def identify(recording: Request) -> Identification:
            outputs = list(recording)
            logits, heard_s = pool_windows(outputs)
            found = decide(recording, rank(logits, self.config, choice, top_k), heard_s, self.config)
            several = find_several(outputs, self.config, choice)
            return found if several is None else replace(found, notes=(*found.notes, several))

        return self._run(sources, reading, progress, identify)

    def _recognise(self, recording: Request, enrolled: Enrolled, top_k: int) -> Identification:
        voice = pool_embedding(recording, self.config)
        return decide(recording, enrolled.rank(voice.vector, self.config, top_k), voice.heard_s, self.config)

    def embed(
        self, source: Source, *, progress: Progress | None = None, **reading: Unpack[ReadKeywords]
    ) -> NDArray[np.float32]:
        """Return (number,) the unit vector of the voice in one recording; two of one voice have a large product.

        Args:
            source, progress, reading: see `Model`.

        Raises:
            UsageError: this model does not answer with an embedding.
            AudioError: the recording cannot be read, or there is too little speech in it.
        """
        options = _reading_of(reading)
        _refuse_each(source, options)
        return embed_recording(self._engine, source, options, progress).vector

    def attention(self, source: Source, at: float = 0.0, **reading: Unpack[ReadKeywords]) -> Attention:
        """Return what the frames around a moment of a recording attended to, as arrays.

        Args:
            source, reading: see `Model`.
            at: seconds from the start; the window that the model read around it is the one that is returned.

        Raises:
            UsageError: the recording does not last so long.
            AudioError: it cannot be read.
        """
        options = _reading_of(reading)
        _refuse_each(source, options)
        return attend(self._engine, source, at, options)

    def explain(
        self,
        source: Source,
        at: float | None = None,
        *,
        segment: int | None = None,
        label: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Explanation:
        """Say what an answer drew on: attention, and beside it what hiding frames does to the answer.

        Args:
            source, reading: see `Model`; with `segment` nothing that can be read only once.
            at: seconds from the start; of a model with one label a recording any time in the window to explain.
            segment: in place of `at` the number of a segment that `tag` gives, from 1.
            label: to explain; None: that of the segment, or else the likeliest.
            progress: called with how often the window was read with frames hidden, and how often it will be.

        Raises:
            UsageError: neither `at` nor `segment` where frames have labels, or what the recording does not have.
            ConfigError: the model has no such label.
            AudioError: the recording cannot be read.
        """
        options = _reading_of(reading)
        _refuse_each(source, options)
        if self.config.task == "pooled":
            at = at or 0.0
        if (segment is None and at is None) or (segment is not None and at is not None):
            raise UsageError("explain a moment or a segment: give at or segment, one of the two")
        span = Segment(at or 0.0, at or 0.0, "", 0.0)
        if segment is not None:
            segments = self.tag(source, keep_scores=False, **reading).segments
            if not 1 <= segment <= len(segments):
                raise UsageError(f"segment {segment}: {name_source(source)} has {len(segments)}")
            span = segments[segment - 1]
            label = label or span.label
        return explain(self._engine, source, span, label, options, progress)

    def enrolled(self, gallery: str | Path | None = None, *, anybody: bool = True) -> Enrolled:
        """Read whom this model can name from a gallery, once for many recordings; None: the user's own.

        Args:
            gallery: the file.
            anybody: somebody must be enrolled; without, there may be nobody, and no gallery of the user's own.

        Raises:
            GalleryError: nobody is enrolled, or the gallery cannot be used with this model.
        """
        return load_enrolled(self._engine, Path(gallery) if gallery is not None else None, anybody=anybody)

    def enroll(
        self,
        name: str,
        sources: Sequence[Source],
        *,
        gallery: str | Path | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> list[str]:
        """Enroll somebody's voice in a gallery; None: the user's own.

        Args:
            name: who speaks.
            sources: recordings in which nobody else does.
            gallery: the file, made if it is not there.
            reading: see `Model`.

        Returns:
            warnings, such as that a clip does not sound like the others of this person; empty is good.

        Raises:
            UsageError: that is no name, or this model does not answer with an embedding.
            GalleryError: the gallery cannot be used with this model.
            AudioError: a recording cannot be read, or there is too little speech in it; nothing is enrolled then.
        """
        person = check_name(name)
        _refuse_single(sources)
        if not len(sources):
            raise UsageError(f"there is no recording to know {person} by")
        options = _reading_of(reading)
        for source in sources:
            _refuse_each(source, options)
        voices = [(name_source(source), embed_recording(self._engine, source, options)) for source in sources]
        warnings = [f"{clip}: {text}" for clip, voice in voices for text in voice.remarks.warnings]
        return warnings + enroll(self._engine, person, voices, Path(gallery) if gallery is not None else None).warnings

    def _check_frame_task(self) -> None:
        if self.config.task != "frame":
            raise UsageError(f"the model {self.name} wants the whole recording: use tag or identify")

    def _run(
        self,
        sources: Iterable[Source],
        reading: ReadKeywords,
        progress: Progress | None,
        answer: Callable[[Request], R],
        engine: Engine | None = None,
    ) -> Generator[R | Exception, None, None]:
        """Return the results of recordings; wrong arguments raise at once, not where the first result is asked for."""
        _refuse_single(sources)
        return _answer_each((engine or self._engine).run(sources, _reading_of(reading), progress=progress), answer)


class ModelGroup:
    """Several models on one device, which tag recordings together: each is decoded once. Make it with `load_group`."""

    def __init__(self, models: Sequence[Model]) -> None:
        """Take models with names of their own.

        Raises:
            UsageError: there is none, or two of them have one name.
        """
        names = [model.name for model in models]
        if not names or len(set(names)) < len(names):
            raise UsageError(
                f"models are tagged with by name, so these must differ: {', '.join(names) or 'none given'}"
            )
        self.models = tuple(models)

    def tag(
        self,
        source: Source,
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        keep_scores: bool = True,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> TieredResult:
        """Say what each model hears when in one recording.

        Args:
            source, progress, reading: see `Model`.
            options: by a model's name, those that `Model.tag` takes of it, such as among.
            keep_scores: as of `Model.tag`.

        Raises:
            UsageError: the models do not go together, or an option does not go with its model.
            AudioError: the recording cannot be read, or there is nothing in it.
        """
        _refuse_each(source, _reading_of(reading))
        results = self.tag_many([source], options=options, keep_scores=keep_scores, progress=progress, **reading)
        return _only(results)

    def tag_many(
        self,
        sources: Iterable[Source],
        *,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        keep_scores: bool = True,
        progress: Progress | None = None,
        **reading: Unpack[ReadKeywords],
    ) -> Generator[TieredResult | Exception, None, None]:
        """Say what each model hears when in many recordings; arguments and errors are those of `tag`.

        Yields:
            in the order of the sources a result, or for one that failed the error that `tag` would have raised.
        """
        _refuse_single(sources)
        given = options or {}
        taggers = [model.tagger(keep_scores=keep_scores, **given.get(model.name, {})) for model in self.models]
        group = EngineGroup([engine for engine, _ in taggers])
        answers = [answer for _, answer in taggers]

        def answer(recording: Request) -> TieredResult:
            tiers = answer_together(recording, answers)
            return TieredResult(tiers[0].file, tiers[0].duration, tuple(tiers))

        return _answer_each(group.run(sources, _reading_of(reading), progress=progress), answer)


def _answer_each(
    running: Generator[Request, None, None], answer: Callable[[Request], R]
) -> Generator[R | Exception, None, None]:
    with closing(running) as recordings:
        for recording in recordings:
            try:
                result: R | Exception = answer(recording)
            except Exception as error:
                result = error
            yield result


def _reading_of(reading: ReadKeywords) -> ReadOptions:
    """Return how a recording is read.

    Raises:
        UsageError: there is no such option.
    """
    known = [field.name for field in fields(ReadOptions)]
    for name in reading:
        if name not in known:
            near = suggest(name, known) or f"; how a recording is read: {', '.join(known)}"
            raise UsageError(f"there is no option {name!r}{near} (thresholds and the like: with_decision)")
    return ReadOptions(**reading)


def _refuse_each(source: Source, options: ReadOptions) -> None:
    """Refuse options that give a result for each channel where one is wanted.

    Raises:
        UsageError: they do.
    """
    if options.channel == EACH and not isinstance(source, Channel):
        raise UsageError("each channel has a result of its own: use tag_many or identify_many, or choose one channel")


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
    model: str | Path = "sound",
    *,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
) -> Model:
    """Load a model by name or path; the arguments are those of `engine.load_engine`."""
    return Model(load_engine(model, device=device, threads=threads, batch_size=batch_size, precision=precision))


def load_group(
    models: Sequence[str | Path],
    *,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
) -> ModelGroup:
    """Load several models by name or path, to tag recordings with together; see `load`."""
    _refuse_single(models)
    return ModelGroup(
        [load(model, device=device, threads=threads, batch_size=batch_size, precision=precision) for model in models]
    )
