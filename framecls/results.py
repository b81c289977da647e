"""What the use cases return and the writers write.

No torch here, and numpy only by name: a usage error must not wait for them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from framecls import packages

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# The label of what no label holds in, where a result tiles its recording all the same.
NONE = "none"


@dataclass(frozen=True)
class AudioInfo:
    """What a recording was before it became 16 kHz mono."""

    sample_rate: int  # Hz
    channels: int


@dataclass
class Remarks:
    """What is to be said of a recording that is being read; complete once it has been."""

    truncated: bool = False  # it ends before its header says
    warnings: list[str] = field(default_factory=list)  # what is wrong with it, and was read all the same
    notes: list[str] = field(default_factory=list)  # how it is read, where there was a choice


@dataclass(frozen=True)
class Segment:
    """One label over the half-open span `[start, end)`, in seconds from the start of the file."""

    start: float
    end: float
    label: str
    score: float  # mean probability of the label over the span, 0..1


@dataclass(frozen=True, eq=False)
class Outline:
    """The scores of a recording for a picture of it: a bounded number of columns, each of some frames in a row."""

    times: NDArray[np.float64]  # (column,) seconds at their middles
    means: NDArray[np.float32]  # (column, label) mean probability
    peaks: NDArray[np.float32]  # (column, label) greatest probability


class Shown:
    """What results have in common: a short name of what they are, a picture, a table, and a view in notebooks."""

    def plot(self, audio: Any = None, sample_rate: int | None = None) -> Any:
        """Return a matplotlib figure: the sound and, under it, what was said of it.

        Args:
            audio: in place of the file that the result names: a path, or (sample,) or (channel, sample) floats.
            sample_rate: Hz, of samples.

        Raises:
            PackageError: matplotlib is not installed.
        """
        from framecls.output.plots import plot

        return plot(self, audio, sample_rate)

    def _repr_html_(self) -> str:
        from framecls.output.notebook import result_html

        return result_html(self)


@dataclass(frozen=True, eq=False, repr=False)
class TagResult(Shown):
    """What `tag` found in one recording; `times` and `scores` are empty where nobody asked for the frames."""

    file: str
    model: str
    duration: float  # seconds
    hop: float  # seconds from one frame to the next
    labels: tuple[str, ...]
    segments: tuple[Segment, ...]
    times: NDArray[np.float64] = field(repr=False)  # (frame,) seconds at frame centres
    scores: NDArray[np.float32] = field(repr=False)  # (frame, label) probabilities
    overlapping: bool = False  # labels may hold at once, each has its own segments
    audio: AudioInfo | None = None
    outline: Outline | None = field(default=None, repr=False)  # where the frames were not kept
    truncated: bool = False  # the recording ends before its header says
    warnings: tuple[str, ...] = ()  # what is wrong with the recording, and was read all the same
    notes: tuple[str, ...] = ()  # how it was read, where there was a choice
    channel: int | None = None  # the only one that was heard, counted from 1
    band_hz: tuple[float, float] | None = None  # that the model hears, whatever lies beyond; None: not known

    def __repr__(self) -> str:
        n_segments = "1 segment" if len(self.segments) == 1 else f"{len(self.segments)} segments"
        return f"<{type(self).__name__} {self.file!r}: {n_segments} in {self.duration:.1f} s, {self.model}>"

    def to_dataframe(self, *, frames: bool = False) -> Any:
        """Return a pandas table: a row a segment, or, with `frames`, the probability of each label at each time.

        Raises:
            PackageError: pandas is not installed.
        """
        pandas = packages.load("to_dataframe", "pandas")
        if frames:
            return pandas.DataFrame(self.scores, pandas.Index(self.times, name="time"), list(self.labels))
        rows = [(s.start, s.end, s.label, s.score) for s in self.segments]
        return pandas.DataFrame(rows, columns=["start", "end", "label", "score"])


def add_up(result: TagResult | TieredResult) -> dict[str, float]:
    """Return for how many seconds each label holds; with several models a label has its model before it."""
    if isinstance(result, TieredResult):
        return {f"{tier.model}: {label}": s for tier in result.tiers for label, s in add_up(tier).items()}
    totals = dict.fromkeys(result.labels, 0.0)
    for segment in result.segments:
        totals[segment.label] = totals.get(segment.label, 0.0) + segment.end - segment.start
    return totals


def share_of(total_s: float, duration_s: float) -> float:
    """Return the share of a recording, 0..1; of one that has no length, 0."""
    return total_s / duration_s if duration_s else 0.0


@dataclass(frozen=True, eq=False, repr=False)
class StringResult(TagResult):
    """The phones of one recording, one segment each, in order; what is between them is said to be nobody's.

    `scores` are (frame, phone) probabilities; what is missing to one is that of no phone at all.
    """

    @property
    def phones(self) -> tuple[str, ...]:
        """What is said, phone by phone."""
        return tuple(segment.label for segment in self.segments)

    @property
    def string(self) -> str:
        """What is said, a space between the phones."""
        return " ".join(self.phones)


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(StringResult):
    """A text in a recording: `segments` are the phones of its words, and nothing is where nobody speaks."""

    words: tuple[Segment, ...] = ()  # as they are written; in order


@dataclass(frozen=True, eq=False, repr=False)
class TieredResult(Shown):
    """What several models found in one recording, which was read once: a tier each."""

    file: str
    duration: float  # seconds
    tiers: tuple[TagResult, ...]  # in the order in which the models were named; at least one

    @property
    def model(self) -> str:
        """The models' names."""
        return ", ".join(tier.model for tier in self.tiers)

    @property
    def audio(self) -> AudioInfo | None:
        """What the recording was."""
        return self.tiers[0].audio

    @property
    def truncated(self) -> bool:
        """Whether the recording ends before its header says."""
        return self.tiers[0].truncated

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the recording, and was read all the same."""
        return tuple(dict.fromkeys(warning for tier in self.tiers for warning in tier.warnings))

    @property
    def notes(self) -> tuple[str, ...]:
        """How it was read, where there was a choice."""
        return tuple(dict.fromkeys(note for tier in self.tiers for note in tier.notes))

    @property
    def channel(self) -> int | None:
        """The only one that was heard, counted from 1."""
        return self.tiers[0].channel

    def __repr__(self) -> str:
        return f"<TieredResult {self.file!r}: {self.model} in {self.duration:.1f} s>"

    def to_dataframe(self) -> Any:
        """Return a pandas table with a row a segment, and the model that gave it in the last column.

        Raises:
            PackageError: pandas is not installed.
        """
        pandas = packages.load("to_dataframe", "pandas")
        return pandas.concat([tier.to_dataframe().assign(model=tier.model) for tier in self.tiers], ignore_index=True)


@dataclass(frozen=True)
class Candidate:
    """One label that `identify` considered."""

    label: str
    score: float  # calibrated probability, 0..1


@dataclass(frozen=True, repr=False)
class Identification(Shown):
    """What `identify` says of one recording: `label` is the best of `top`, or "unknown"."""

    file: str
    model: str
    duration: float  # seconds
    label: str
    score: float | None  # of the label; None: there is none to score, it is "unknown"
    top: tuple[Candidate, ...]
    audio: AudioInfo | None = None
    reason: str | None = None  # why it is "unknown", such as "no speech" or "unsure"
    truncated: bool = False  # as of `TagResult`
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    channel: int | None = None

    def __repr__(self) -> str:
        sure = f"{self.score:.3f}" if self.score is not None else self.reason
        return f"<Identification {self.file!r}: {self.label!r} {sure}, {self.model}>"

    def to_dataframe(self) -> Any:
        """Return a pandas table with a row a candidate, the likeliest first.

        Raises:
            PackageError: pandas is not installed.
        """
        pandas = packages.load("to_dataframe", "pandas")
        return pandas.DataFrame([(c.label, c.score) for c in self.top], columns=["label", "score"])


@dataclass(frozen=True, eq=False)
class Attention:
    """What the frames of one window of a recording attended to.

    Of a model with a pre-trained encoder these are the layers above it; the vectors that they read have already looked
    at each other.
    """

    file: str
    model: str
    start: float  # seconds, of the window's first frame
    hop: float  # seconds from one frame to the next
    labels: tuple[str, ...]
    weights: NDArray[np.float32] = field(repr=False)  # (layer, head, query frame, key frame), one over the keys
    pooling: NDArray[np.float32] | None = field(repr=False)  # (head, frame) of a pooled model, one over the frames
    # (frame, label) probabilities, or (label,) of a pooled model; empty: it answers with an embedding
    scores: NDArray[np.float64] = field(repr=False)
    n_frames: int
    samples: NDArray[np.float32] = field(repr=False)  # (sample,) of the window, at `sample_rate` Hz; empty: no sound
    sample_rate: int
    encoder: str = ""  # the pre-trained encoder below these layers

    def rollout(self) -> NDArray[np.float64]:
        """Return (query frame, key frame) the attention rolled out over the layers; rows sum to one.

        Half of what leaves a layer is taken to be what came in, for the residual connection, and heads are averaged
        (Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers").
        """
        import numpy as np

        identity = np.eye(self.n_frames)
        flow = identity
        for layer in self.weights:
            flow = (0.5 * layer.mean(axis=0, dtype=np.float64) + 0.5 * identity) @ flow
        return flow


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What an answer drew on: attention, and beside it what hiding frames does to the answer."""

    attention: Attention
    first: int  # frames [first, last) of the window that are explained; of a pooled model all
    last: int
    label: str  # that is explained; empty: an embedding
    score: float  # its probability over these frames; of an embedding 1, its cosine with itself
    relevance: NDArray[np.float64] = field(repr=False)  # (frame,) rollout, through the pooling where there is one
    # (frame,) by how much the log-odds of the label fall, or the cosine of an embedding, where a frame is hidden
    occlusion: NDArray[np.float64] = field(repr=False)
    pointed: tuple[int, ...] = ()  # frames of the greatest relevance, the explained ones left out
    score_without: float | None = None  # where those are hidden; None: there is no attention
    score_without_others: float | None = None  # where as many others are, chosen by chance; the mean of several times

    @property
    def at(self) -> float:
        """Seconds in the middle of the explained frames."""
        return self.attention.start + (self.first + self.last) / 2 * self.attention.hop

    def __repr__(self) -> str:
        what = f"{self.label!r} {self.score:.3f}, {self.attention.model}"
        return f"<Explanation {self.attention.file!r} at {self.at:.2f} s: {what}>"

    def _repr_html_(self) -> str:
        from framecls.output.notebook import explanation_html

        return explanation_html(self)
