"""What `tag`, `tag --string`, `tag --align` and `identify` do with each input: one class each."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from framecls.cli import checks
from framecls.cli.classify import classify
from framecls.cli.options import LOCAL, IdentifyOptions, RunOptions, TagOptions
from framecls.cli.streaming import check_stream
from framecls.config import DEFAULT_BEAM, UNKNOWN, DecisionConfig, DecisionKeywords, ModelConfig
from framecls.errors import ConfigError, FrameclsError, PackageError, TextError, UsageError
from framecls.output.formats import Result, make_writer
from framecls.results import Alignment, Identification, StringResult, TagResult, TieredResult
from framecls.textfiles import read_text

if TYPE_CHECKING:
    from framecls.audio import Source
    from framecls.cluster import ClusterModel
    from framecls.inference.words import Word
    from framecls.model import Model
    from framecls.speakers.recognition import Enrolled

    AnyModel: TypeAlias = Model | ClusterModel
    Results: TypeAlias = (
        Generator[TagResult | Exception, None, None]
        | Generator[Identification | Exception, None, None]
        | Generator[TieredResult | Exception, None, None]
    )


class Operation(ABC):
    """What one command does with each input, by its options."""

    wants: ClassVar[Literal["pooled", "phones"] | None] = None  # of a model, see `checks.find_model`
    result: ClassVar[type[Result]]  # what `run` gives

    def __init__(
        self, options: RunOptions, models: Sequence[str], *, frames: bool = False, totals: bool = False
    ) -> None:
        """Read the options.

        Args:
            options: of the command.
            models: by name or path.
            frames: write the scores of every frame.
            totals: write the time of each label.

        Raises:
            UsageError: an option is wrong, or two do not go together.
        """
        self.options = options
        self.models = tuple(models)
        self.beside = ""  # suffix of the files beside recordings that are read, too
        # Of decision, by the options that give them.
        self.rules: dict[str, DecisionKeywords] = {
            "--threshold": {"thresholds": checks.parse_thresholds(options.threshold)}
        }
        self.reading = checks.parse_reading(options)
        self._decision: DecisionConfig | None = None
        self.format = checks.choose_format(options.format, options.output, frames=frames, totals=totals)
        self.writer = make_writer(self.format, frames=frames, totals=totals)
        if not issubclass(self.result, self.writer.accepts):
            raise UsageError(f"-f {self.writer.refusal}")

    def open(self) -> list[tuple[Path, ModelConfig]]:
        """Return the files and the settings of the models, once these go with the options.

        Raises:
            UsageError: they do not.
        """
        found = [checks.find_model(name, self.wants) for name in self.models]
        self.check(*(config for _, config in found))
        return found

    def check(self, config: ModelConfig) -> None:
        """Set the model's rules of decision to those of the options.

        Raises:
            UsageError: the model has no such rule, or it would decide nothing.
        """
        self._decision = checks.change_decision(config, self.rules)

    def prepare(self, model: AnyModel) -> AnyModel:
        """Return the model with the rules of this run."""
        return model.with_decision(self._decision)

    @abstractmethod
    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        """Classify recordings, in order; yield the error for one that fails.

        Args:
            model: as `prepare` returned it.
            sources: the recordings.
            progress: called with the seconds of the present recording that are done.
        """

    def shape(self, result: Any) -> Any:
        """Return what is written of what was found."""
        if getattr(self.options, "ipa", False):
            from framecls import shapes

            return shapes.to_ipa(result)
        return result


class TagOperation(Operation):
    """`framecls tag`."""

    result = TagResult

    def __init__(self, options: TagOptions) -> None:
        if options.beam is not None:
            raise UsageError("--beam goes with --string: add that, or leave it out")
        super().__init__(options, options.model, frames=options.frames, totals=options.totals)
        self._options = options
        self._among: tuple[str, ...] | None = None
        self._labels: tuple[str, ...] | None = None  # None: all
        duration_s, durations_s = checks.parse_lengths("--min-duration", options.min_duration)
        gap_s, gaps_s = checks.parse_lengths("--min-gap", options.min_gap)
        if options.coarse and gaps_s:
            raise UsageError("--coarse has one --min-gap, for stretches without any label: leave LABEL= out")
        self._durations, self._gap_s = (duration_s, durations_s), gap_s
        self.rules["--min-duration"] = {"min_duration_s": duration_s, "min_durations_s": durations_s}
        self.rules["--min-gap"] = {"min_gap_s": gap_s, "min_gaps_s": gaps_s}
        self._enrolled: Enrolled | None = None
        self._speakers = checks.choose_speakers(options.speakers, options.min_speakers, options.max_speakers)

    def check(self, config: ModelConfig) -> None:
        if self._options.stream:
            if config.task != "frame":
                wanted = "a model that gives labels to frames, such as -m sound"
                raise UsageError(f"--stream wants {wanted}, not {config.name}")
            check_stream(self._options, self.writer)
        super().check(config)
        if not config.embedding and (self._options.gallery is not None or self._speakers is not None):
            option = "--gallery" if self._options.gallery is not None else "--speakers"
            raise UsageError(f"{option} goes with a model of voices, such as -m speaker, not with {config.name}")
        if self._options.coarse and config.embedding:
            raise UsageError(f"--coarse makes blocks of talk and music, such as -m sound hears, not {config.name}")
        if not config.embedding:  # of voices, who can be found is known once the gallery has been read
            known = (*config.labels, UNKNOWN) if config.task == "pooled" else config.labels
            self._labels = checks.parse_labels("--labels", self._options.labels, known)
        checks.check_ipa(self._options, config.name, config.labels)
        if self._options.coarse:  # what blocks are made of is decided as ever
            self._decision = checks.change_decision(config, {"--threshold": self.rules["--threshold"]})
        if config.task == "frame":
            if self._options.among:
                raise UsageError(f"--among goes with a model such as -m language, not with {config.name}")
            return
        if not config.embedding:
            self._among = checks.parse_labels("--among", self._options.among, config.labels)

    def prepare(self, model: AnyModel) -> AnyModel:
        model = super().prepare(model)
        if model.config.embedding:
            self._enrolled = model.enrolled(self._options.gallery, anybody=False)
            self._among = checks.parse_names("--among", self._options.among, self._enrolled.names)
            self._labels = checks.parse_found("--labels", self._options.labels, self._enrolled.names)
        return model

    def shape(self, result: TagResult) -> TagResult:
        from framecls import shapes  # numpy: only once the options are right

        decision = self._decision or DecisionConfig()
        if self._labels is not None:
            result = shapes.keep_labels(result, [label for label in self._labels if label in result.labels])
        if self._options.coarse:
            result = shapes.make_coarse(result, self._gap_s, *self._durations)
        elif self._options.exclusive:
            result = shapes.make_exclusive(result, decision.min_duration_s, decision.min_durations_s)
        shaped: TagResult = super().shape(result)
        return shaped

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        choices = self.choices()
        return model.tag_many(sources, **choices, keep_scores=self.writer.frames, progress=progress, **self.reading)

    def choices(self) -> dict[str, Any]:
        """Return what can be found, as arguments of `Model.tag`."""
        return {"among": self._among, "speakers": self._speakers, "enrolled": self._enrolled}


class TiersOperation(Operation):
    """`framecls tag` with several models: a `TagOperation` each, with the options that go with that model."""

    result = TieredResult

    def __init__(self, options: TagOptions) -> None:
        for option, given in (
            ("--string", options.string),
            ("--beam", options.beam is not None),
            ("--align", options.align is not None),
            ("--stream", options.stream),
            (f"--engine {options.engine}", options.engine != LOCAL),
        ):
            if given:
                raise UsageError(f"{option} takes one model, and -m names {len(options.model)}: leave one of them out")
        super().__init__(options, options.model, frames=options.frames, totals=options.totals)
        if options.frames and self.format not in _FRAMES_OF_SEVERAL:
            able = ", ".join(_FRAMES_OF_SEVERAL)
            raise UsageError(f"--frames of several models does not go with -f {self.format}: choose {able}")
        self._options = options
        self._parts: list[TagOperation] = []

    def check(self, *configs: ModelConfig) -> None:
        names = [config.name for config in configs]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"-m names two models that are called {name}: a tier each needs a name of its own")
        self._parts = [TagOperation(options) for options in share_options(self._options, configs)]
        for part, config in zip(self._parts, configs, strict=True):
            part.check(config)

    def prepare(self, model: Any) -> Any:
        return type(model)([part.prepare(each) for part, each in zip(self._parts, model.models, strict=True)])

    def run(self, model: Any, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        options = {each.name: part.choices() for part, each in zip(self._parts, model.models, strict=True)}
        found: Results = model.tag_many(
            sources, options=options, keep_scores=self.writer.frames, progress=progress, **self.reading
        )
        return found

    def shape(self, result: TieredResult) -> TieredResult:
        tiers = [part.shape(tier) for part, tier in zip(self._parts, result.tiers, strict=True)]
        return replace(result, tiers=tuple(tiers))


# Formats in which the frames of several models have a place.
_FRAMES_OF_SEVERAL = ("json", "jsonl", "npz")
# Options that are for those of several models that know the label in them, and which the others are spared.
_SHARED = ("threshold", "min_duration", "min_gap", "labels", "among")
_OF_VOICES = ("gallery", "speakers", "min_speakers", "max_speakers")


def share_options(options: TagOptions, configs: Sequence[ModelConfig]) -> list[TagOptions]:
    """Return for each model the options that go with it.

    Raises:
        UsageError: one goes with none of them.
    """
    from framecls.shapes import COARSE_LABELS, IPA  # numpy: only once the options are right

    bare: dict[str, Any] = {name: [] for name in _SHARED}
    of_voices: dict[str, Any] = {name: getattr(options, name) for name in _OF_VOICES}
    hears_voices = any(config.embedding for config in configs)
    called = ", ".join(config.name for config in configs)
    shares = []
    for name, config in zip(options.model, configs, strict=True):
        # Where no model is one of voices, it is for all of them to refuse these.
        own = of_voices if config.embedding or not hears_voices else dict.fromkeys(_OF_VOICES)
        labels = {*config.labels}
        fits = {"coarse": {*COARSE_LABELS} <= labels, "ipa": bool(labels) and labels <= {*IPA}}
        flags: dict[str, Any] = {flag: getattr(options, flag) and fits[flag] for flag in fits}
        shares.append(replace(options, model=[name], **{**bare, **own, **flags}))
    for flag in ("coarse", "ipa"):
        if getattr(options, flag) and not any(getattr(share, flag) for share in shares):
            raise UsageError(f"--{flag}: this goes with none of {called}")
    for name in _SHARED:
        for text in getattr(options, name):
            takers = _find_takers(shares, configs, name, text)
            # Labels of several models may stand in one list.
            words = {text: takers} if takers else {w: _find_takers(shares, configs, name, w) for w in text.split(",")}
            for word, those in words.items():
                if not those:
                    raise UsageError(f"--{name.replace('_', '-')} {word}: this goes with none of {called}")
                for index in those:
                    shares[index] = _with_text(shares[index], name, [*getattr(shares[index], name), word])
    return shares


def _with_text(options: TagOptions, name: str, texts: list[str]) -> TagOptions:
    changed: dict[str, Any] = {name: texts}
    return replace(options, **changed)


def _find_takers(shares: Sequence[TagOptions], configs: Sequence[ModelConfig], name: str, text: str) -> list[int]:
    """Return the models that an option goes with: one of voices, whose labels are not known, where no other does."""
    takers = []
    for index, (options, config) in enumerate(zip(shares, configs, strict=True)):
        with contextlib.suppress(UsageError):
            TagOperation(_with_text(options, name, [text])).check(config)
            takers.append(index)
    named = [index for index in takers if not configs[index].embedding]
    is_of_label = "=" in text or name in ("labels", "among")
    return named if named and is_of_label else takers


class StringOperation(Operation):
    """`framecls tag --string`: any model with a phone head will do."""

    wants = "phones"
    result = StringResult

    def __init__(self, options: TagOptions) -> None:
        checks.check_count("--beam", options.beam)
        _refuse_label_options(options, "--string")
        super().__init__(options, options.model, frames=options.frames)
        self._beam = DEFAULT_BEAM if options.beam is None else options.beam

    def check(self, config: ModelConfig) -> None:
        super().check(config)
        assert isinstance(self.options, TagOptions)
        checks.check_ipa(self.options, config.name, config.phones)

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        return model.tag_string_many(sources, beam=self._beam, progress=progress, **self.reading)


class AlignOperation(Operation):
    """`framecls tag --align`: where the words of a text are said."""

    result = Alignment

    def __init__(self, options: TagOptions) -> None:
        if options.string or options.beam is not None:
            raise UsageError("--string is about phones that are not known, --align about a text: leave one of them out")
        _refuse_label_options(options, "--align")
        super().__init__(options, options.model, frames=options.frames)
        self._text = options.align or ""
        self.beside = self._text if re.fullmatch(r"\.\w+", self._text) else ""  # the suffix of texts beside recordings
        self._words: list[Word] = []  # of one text for all
        if self.beside and "-" in options.inputs:
            raise UsageError(f"--align {self._text}: beside standard input there is no file: give the text or @FILE")

    def check(self, config: ModelConfig) -> None:
        from framecls.inference.align import check_phones  # numpy: only once the options are right
        from framecls.inference.words import find_words

        super().check(config)
        try:
            check_phones(config.labels, config.name)
            if not self.beside:
                is_file = self._text.startswith("@")
                text = read_text(Path(self._text[1:]), "a text") if is_file else self._text
                self._words = find_words(text)
        except PackageError:  # its message says what needs the package
            raise
        except (ConfigError, TextError, UsageError) as error:
            raise UsageError(f"--align: {error}") from error

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        with closing(model.tag_many(sources, keep_scores=True, progress=progress, **self.reading)) as results:
            for result in results:
                yield result if isinstance(result, Exception) else self._place(result)

    def _place(self, result: TagResult) -> Alignment | FrameclsError:
        from framecls.inference.align import place_words
        from framecls.inference.words import find_words

        try:
            words = self._words
            if self.beside:
                words = find_words(read_text(Path(result.file).with_suffix(self.beside), "a text"))
            return place_words(result, words)
        except FrameclsError as error:
            return error


# Options that are about labels of frames.
_OF_LABELS = (
    "threshold", "min_duration", "min_gap", "labels", "exclusive", "coarse", "totals", "stream", "among", "gallery",
    "speakers", "min_speakers", "max_speakers",
)  # fmt: skip


def _refuse_label_options(options: TagOptions, option: str) -> None:
    """Refuse options about labels beside one that is about phones in order.

    Raises:
        UsageError: there is one.
    """
    for name in _OF_LABELS:
        if getattr(options, name) not in (None, False, []):
            other = f"--{name.replace('_', '-')}"
            raise UsageError(f"{other} is about labels and does not go with {option}: leave one of them out")


class IdentifyOperation(Operation):
    """`framecls identify`."""

    wants = "pooled"
    result = Identification

    def __init__(self, options: IdentifyOptions) -> None:
        super().__init__(options, [options.model])
        checks.check_count("--top-k", options.top_k)
        self._top_k = options.top_k
        self._among_text = options.among
        self._among: tuple[str, ...] | None = None
        self._gallery = options.gallery
        self._enrolled: Enrolled | None = None

    def check(self, config: ModelConfig) -> None:
        super().check(config)
        if not config.embedding:
            if self._gallery is not None:
                raise UsageError(f"--gallery goes with a model of voices, such as -m speaker, not with {config.name}")
            self._among = checks.parse_labels("--among", self._among_text, config.labels)

    def prepare(self, model: AnyModel) -> AnyModel:
        model = super().prepare(model)
        if model.config.embedding:
            self._enrolled = model.enrolled(self._gallery)
            self._among = checks.parse_names("--among", self._among_text, self._enrolled.names)
        return model

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        return model.identify_many(
            sources,
            top_k=self._top_k,
            among=self._among,
            enrolled=self._enrolled,
            progress=progress,
            **self.reading,
        )


def tag(options: TagOptions) -> int:
    """Run `framecls tag` and return the exit status; see `classify` for what it raises."""
    if len(options.model) > 1:
        return classify(TiersOperation(options))
    if options.align is not None:
        return classify(AlignOperation(options))
    return classify(StringOperation(options) if options.string else TagOperation(options))


def identify(options: IdentifyOptions) -> int:
    """Run `framecls identify` and return the exit status; see `classify` for what it raises."""
    return classify(IdentifyOperation(options))
