"""What `tag`, `tag --string`, `tag --align` and `identify` do with each input: one class each."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from framecls.cli import checks
from framecls.cli.options import IdentifyOptions, RunOptions, TagOptions
from framecls.cli.streaming import check_stream
from framecls.config import DEFAULT_BEAM, DecisionConfig, DecisionKeywords, ModelConfig
from framecls.errors import ConfigError, FrameclsError, TextError, UsageError
from framecls.output.formats import Result, make_writer
from framecls.results import Alignment, Identification, StringResult, TagResult
from framecls.textfiles import read_text

if TYPE_CHECKING:
    from framecls.audio import Source
    from framecls.cluster import ClusterModel
    from framecls.inference.words import Word
    from framecls.model import Model
    from framecls.speakers.recognition import Enrolled

    AnyModel: TypeAlias = Model | ClusterModel
    Results: TypeAlias = (
        Generator[TagResult | Exception, None, None] | Generator[Identification | Exception, None, None]
    )


class Operation(ABC):
    """What one command does with each input, by its options."""

    task: ClassVar[Literal["pooled"] | None] = None  # of the models that it takes; None: any
    result: ClassVar[type[Result]]  # what `run` gives

    def __init__(self, options: RunOptions, *, frames: bool = False, totals: bool = False) -> None:
        """Read the options.

        Args:
            options: of the command.
            frames: write the scores of every frame.
            totals: write the time of each label.

        Raises:
            UsageError: an option is wrong, or two do not go together.
        """
        self.options = options
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

    def find(self, name: str) -> tuple[Path, ModelConfig]:
        """Return the file and the settings of the model of that name.

        Raises:
            UsageError: there is none, or it is not for this operation.
        """
        return checks.find_model(name, self.task)

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

    def shape(self, result: TagResult) -> TagResult:
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
        super().__init__(options, frames=options.frames, totals=options.totals)
        if options.stream:
            check_stream(options, self.writer)
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
        super().check(config)
        if not config.embedding and (self._options.gallery is not None or self._speakers is not None):
            option = "--gallery" if self._options.gallery is not None else "--speakers"
            raise UsageError(f"{option} goes with a model of voices, such as -m speaker, not with {config.name}")
        # Of voices only the recording tells which there are.
        self._labels = checks.parse_labels("--labels", self._options.labels, config.labels or None)
        checks.check_ipa(self._options, config.name, config.labels)
        if self._options.coarse:  # what blocks are made of is decided as ever
            self._decision = checks.change_decision(config, {"--threshold": self.rules["--threshold"]})
        if config.task == "frame":
            if self._options.among:
                raise UsageError(f"--among goes with a model such as -m language, not with {config.name}")
            return
        if self._options.stream:
            raise UsageError(f"--stream wants a model that gives labels to frames, such as -m sound, not {config.name}")
        if not config.embedding:
            self._among = checks.parse_labels("--among", self._options.among, config.labels)

    def prepare(self, model: AnyModel) -> AnyModel:
        model = super().prepare(model)
        if model.config.embedding:
            self._enrolled = model.enrolled(self._options.gallery, anybody=False)
            self._among = checks.parse_names(self._options.among, self._enrolled.names)
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
        return super().shape(result)

    def run(self, model: AnyModel, sources: Iterable[Source], progress: Callable[[float], None]) -> Results:
        return model.tag_many(
            sources,
            among=self._among,
            speakers=self._speakers,
            enrolled=self._enrolled,
            keep_scores=self.writer.frames,
            progress=progress,
            **self.reading,
        )


class StringOperation(Operation):
    """`framecls tag --string`: any model with a phone head will do."""

    result = StringResult

    def __init__(self, options: TagOptions) -> None:
        checks.check_count("--beam", options.beam)
        _refuse_label_options(options, "--string")
        super().__init__(options, frames=options.frames)
        self._beam = DEFAULT_BEAM if options.beam is None else options.beam

    def find(self, name: str) -> tuple[Path, ModelConfig]:
        return checks.find_string_model(name)

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
        super().__init__(options, frames=options.frames)
        self._text = options.align or ""
        self._beside = self._text if re.fullmatch(r"\.\w+", self._text) else ""  # the suffix of texts beside recordings
        self._words: list[Word] = []  # of one text for all
        if self._beside and "-" in options.inputs:
            raise UsageError(f"--align {self._text}: beside standard input there is no file: give the text or @FILE")

    def check(self, config: ModelConfig) -> None:
        from framecls.inference.align import check_phones  # numpy: only once the options are right
        from framecls.inference.words import find_words

        super().check(config)
        try:
            check_phones(config.labels, config.name)
            if not self._beside:
                is_file = self._text.startswith("@")
                text = read_text(Path(self._text[1:]), "a text") if is_file else self._text
                self._words = find_words(text)
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
            if self._beside:
                words = find_words(read_text(Path(result.file).with_suffix(self._beside), "a text"))
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

    task = "pooled"
    result = Identification

    def __init__(self, options: IdentifyOptions) -> None:
        super().__init__(options)
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
            self._among = checks.parse_names(self._among_text, self._enrolled.names)
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
