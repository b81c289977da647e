"""Settings of a model, as validated frozen dataclasses: what a model file carries and a recipe sets.

No torch here: reading a model card must not cost an import of it.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, TypeVar, Unpack

from framecls.errors import ConfigError, suggest

T = TypeVar("T")

# An hour of 20 ms frames fits; attention over more would neither end nor fit into memory.
_MAX_WINDOW_FRAMES = 200_000
# Numbers in the largest array that a network computes of one window: 1 GB as 32-bit floats.
_MAX_WINDOW_NUMBERS = 2**28
# No published encoder comes near; a few bytes of settings must not build a network that takes minutes.
_MAX_LAYERS = 64
_MAX_CONVOLUTIONS = 16
_MAX_DIM = 4096
_MAX_LABELS = 2**16
_MAX_LABEL_CHARACTERS = 1000
Pooling = Literal["mean", "last", "statistics", "attentive", "multihead", "reading"]
Precision = Literal["float32", "float16", "int8"]  # of the weights in a model file
PRECISIONS = ("auto", "fp32", "bf16")  # that a network computes in


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


MODEL_PREFIX = "framecls:"  # of the source of an encoder that is the lower layers of a framecls model
BUNDLE_PREFIX = "torchaudio:"  # of one that is a bundle of torchaudio


@dataclass(frozen=True)
class PretrainedConfig:
    """A pre-trained encoder whose vectors stand in place of log-mel features.

    A recipe gives the first three fields; `checkpoints.frontends.look_up` fills in the others when training begins.
    """

    source: str = ""  # "framecls:MODEL", "torchaudio:BUNDLE", or for transformers an encoder's name or folder
    layer: int = 0  # whose vectors, counted from 1; 0: a learnt mix of all
    tuned: bool = False  # its self-attention learns too
    carried: bool = False  # the model file holds its weights; else it only names it
    family: Literal["transformers", "torchaudio", "framecls"] = "transformers"
    # Of a framecls model the tables "features" and "encoder", and the "digest" of the weights; of transformers "config"
    # and how its input is normalised; of torchaudio the "config" of its convolutions. Empty: not known yet.
    architecture: dict[str, Any] = field(default_factory=dict)
    dim: int = 0  # numbers in a vector
    n_layers: int = 0  # layers of self-attention that are run
    hop_samples: int = 0  # from one vector to the next
    window_samples: int = 0  # that a vector describes

    def __post_init__(self) -> None:
        _require(self.layer >= 0, "layer must be 0 or more")
        if not self.architecture:
            return
        _require(1 <= self.dim <= _MAX_DIM, f"pretrained.dim must be in 1..{_MAX_DIM}")
        _require(1 <= self.n_layers <= _MAX_LAYERS, f"pretrained.n_layers must be in 1..{_MAX_LAYERS}")
        _require(self.layer in (0, self.n_layers), "pretrained.layer is not the last that is run")
        _require(1 <= self.hop_samples <= self.window_samples, "pretrained.hop_samples must be in 1..window_samples")
        if self.family == "framecls":
            _require(
                self.own_features.kind in ("logmel", "mfcc"), "pretrained.architecture: its features are no spectra"
            )
            told = {name: getattr(self, name) for name in ("dim", "n_layers", "hop_samples", "window_samples")}
            fits = told == size_of_lower_layers(self.own_features, self.own_encoder)
            _require(fits, "pretrained.architecture: other sizes than those of the encoder")
        else:
            for key in ("conv_dim", "conv_stride", "conv_kernel"):
                sizes = self._settings.get(key, [1])
                good = isinstance(sizes, list) and 1 <= len(sizes) <= _MAX_CONVOLUTIONS
                good = good and all(type(size) is int and 1 <= size <= 65536 for size in sizes)
                _require(good, f"pretrained.architecture.config.{key} is no list of 1 to {_MAX_CONVOLUTIONS} sizes")

    @property
    def model(self) -> str:
        """The framecls model, by name or path, whose lower layers the encoder is; empty where it is none."""
        return self.source.removeprefix(MODEL_PREFIX) if self.source.startswith(MODEL_PREFIX) else ""

    @property
    def own_features(self) -> FeatureConfig:
        """The features of a framecls model."""
        return from_dict(FeatureConfig, self.architecture.get("features"), "pretrained.architecture.features.")

    @property
    def own_encoder(self) -> EncoderConfig:
        """The layers of a framecls model that are run."""
        return from_dict(EncoderConfig, self.architecture.get("encoder"), "pretrained.architecture.encoder.")

    @property
    def _settings(self) -> dict[str, Any]:
        config = self.architecture.get("config")
        _require(isinstance(config, dict), "pretrained.architecture.config: a table was expected")
        return typing.cast(dict[str, Any], config)

    def largest_arrays(self, n_vectors: int) -> dict[str, int]:
        """Return how many numbers the largest arrays have that lead to `n_vectors` vectors; none if not known."""
        if not self.architecture:
            return {}
        if self.family == "framecls":
            encoder, n_bins = self.own_encoder, self.own_features.n_fft // 2 + 1
            arrays = {
                "activations in its encoder": n_vectors * max(3 * encoder.dim, encoder.ff_dim) * self.n_layers,
                "spectrum in its encoder": n_vectors * encoder.subsampling * n_bins,
            }
            if encoder.kind == "attention" and encoder.score == "additive":
                arrays["pairs of frames in its encoder"] = encoder.n_heads * n_vectors**2
            return arrays
        arrays, length = {"layers in its encoder": n_vectors * self.dim * self.n_layers}, n_vectors * self.hop_samples
        sizes = zip(self._settings.get("conv_dim", ()), self._settings.get("conv_stride", ()), strict=False)
        for number, (channels, step) in enumerate(sizes, start=1):
            length //= step
            arrays[f"convolution {number}"] = length * channels
        return arrays


@dataclass(frozen=True)
class FeatureConfig:
    """How a waveform becomes feature vectors.

    Vector j describes the samples around the middle of `[j * hop_samples, (j + 1) * hop_samples)`.
    """

    # "mel" is the energy of each band, "logmel" its logarithm, "fbank" that as Kaldi computes it. "wavefilters" are
    # learnt, of the waveform itself. "precomputed": vectors of `precomputed_dim` numbers take the place of samples;
    # sample_rate is how many of them there are a second, hop and window are 1.
    kind: Literal["logmel", "mel", "mfcc", "fbank", "wavefilters", "pretrained", "precomputed"] = "logmel"
    sample_rate: int = 16000
    window_samples: int = 400
    hop_samples: int = 160
    n_fft: int = 512
    n_mels: int = 64
    n_mfcc: int = 13
    f_min_hz: float = 50.0
    f_max_hz: float = 7600.0
    # Position and weight of the mel bands: as in HTK (equal peaks) or Slaney's Auditory Toolbox (equal areas), which
    # librosa and Whisper follow; Kaldi's bands are those of HTK, but for their sides.
    mel_scale: Literal["htk", "slaney", "kaldi"] = "htk"
    floor: float = 1e-8  # energy added to a band before its logarithm; of "fbank" the least that it can have
    # "mean" subtracts each feature's mean over the window, and with it the frequency response of microphone and line;
    # "mean_variance" also divides by the deviation. "peak" scales to the loudest band of the window, 80 dB down.
    normalize: Literal["none", "mean", "mean_variance", "peak"] = "none"
    # A window whose RMS level relative to full scale is lower is amplified to this first; None: none is.
    raise_to_dbfs: float | None = None
    pretrained: PretrainedConfig = field(default_factory=PretrainedConfig)
    precomputed_dim: int = 0

    def __post_init__(self) -> None:
        is_precomputed = self.kind == "precomputed"
        _require(is_precomputed == (self.precomputed_dim > 0), 'precomputed_dim goes with kind = "precomputed"')
        if self.raise_to_dbfs is not None:
            _require(self.kind in ("mel", "logmel", "mfcc", "fbank"), "raise_to_dbfs is for features of mel bands")
            _require(-100 <= self.raise_to_dbfs <= 0, f"raise_to_dbfs {self.raise_to_dbfs} is not in -100..0 dB")
        if is_precomputed:
            _require(self.precomputed_dim <= 4096, "precomputed_dim must be in 1..4096")
            _require(
                1 <= self.sample_rate <= 384000, f"sample_rate {self.sample_rate} is not in 1..384000 vectors a second"
            )
            _require(self.hop_samples == self.window_samples == 1, "precomputed features are not cut into windows")
            return
        _require(1000 <= self.sample_rate <= 384000, f"sample_rate {self.sample_rate} is not in 1000..384000 Hz")
        _require(1 <= self.hop_samples <= self.window_samples, "hop_samples must be in 1..window_samples")
        _require(self.window_samples <= self.n_fft <= 65536, "n_fft must be in window_samples..65536")
        _require((self.n_fft - self.hop_samples) % 2 == 0, "n_fft - hop_samples must be even")
        _require(1 <= self.n_mels <= 512, "n_mels must be in 1..512")
        _require(1 <= self.n_mfcc <= self.n_mels, "n_mfcc must be in 1..n_mels")
        _require(0 < self.floor <= 1, "floor must be in (0, 1]")
        _require(
            0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate / 2, "0 <= f_min_hz < f_max_hz <= sample_rate / 2"
        )
        if self.kind == "wavefilters":
            grid = (self.sample_rate, self.hop_samples, self.n_fft)
            _require(
                grid == (16000, 270, 992), "wavefilters want a sample_rate of 16000, hop_samples 270 and n_fft 992"
            )
        if self.kind == "pretrained":
            _require(bool(self.pretrained.source), "kind pretrained wants pretrained.source: which encoder")
            # Its vectors lie on the same grid as spectra, so margins and the times of frames are the same arithmetic.
            own, grid = self.pretrained, (self.window_samples, self.n_fft, self.hop_samples)
            fits = not own.architecture or grid == (own.window_samples, own.window_samples, own.hop_samples)
            _require(fits, "window_samples, n_fft and hop_samples are not those of the encoder")

    @property
    def band_hz(self) -> tuple[float, float]:
        """The lowest and the highest frequency that is heard; encoders of others begin at 0."""
        return (0.0 if self.kind == "pretrained" else self.f_min_hz), self.f_max_hz

    @property
    def vectors_per_s(self) -> float:
        """Feature vectors of a second of sound."""
        return self.sample_rate / self.hop_samples

    @property
    def dim(self) -> int:
        """Numbers in one feature vector; MFCCs come with their first and second differences."""
        return {
            "logmel": self.n_mels,
            "mel": self.n_mels,
            "fbank": self.n_mels,
            "mfcc": 3 * self.n_mfcc,
            "wavefilters": 60,
            "pretrained": self.pretrained.dim,
            "precomputed": self.precomputed_dim,
        }[self.kind]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Axes of one sample: none of audio; of precomputed features the length of a vector."""
        return (self.precomputed_dim,) if self.kind == "precomputed" else ()

    @property
    def margin_samples(self) -> int:
        """Samples that the first and last vector of a span read beyond it, on each side."""
        return (self.n_fft - self.hop_samples) // 2 if self.kind != "precomputed" else 0


@dataclass(frozen=True)
class EncoderConfig:
    """The encoder: a rung of the ladder (`fc`, `window`, `attention`), an `lstm` to compare with, or `campplus`."""

    kind: Literal["fc", "window", "lstm", "attention", "campplus"] = "attention"
    score: Literal["dot", "additive"] = "dot"
    dim: int = 96
    n_layers: int = 4
    n_heads: int = 4
    ff_dim: int = 384
    context: int = 5  # neighbours on each side that the `window` rung sees
    bidirectional: bool = False  # half of the `lstm` reads from the end to the beginning
    subsampling: int = 1  # consecutive feature vectors joined into one frame: 1, 2, 4 or 8
    position: Literal["none", "sinusoidal", "convolution"] = "convolution"
    kernel: int = 15  # width in frames of the position convolution
    dropout: float = 0.1
    # The input projection: a linear layer on the vectors of a frame, or two convolutions of width 3, the second of
    # stride 2, whose outputs are averaged over a frame.
    stem: Literal["linear", "convolution"] = "linear"
    activation: Literal["silu", "gelu"] = "silu"
    tail: tuple[int, ...] = ()  # sizes of fully-connected layers with a leaky ReLU behind the layers of an `lstm`

    def __post_init__(self) -> None:
        _require(not self.tail or self.kind == "lstm", "a tail goes behind an lstm")
        _require(len(self.tail) <= 8 and all(1 <= size <= _MAX_DIM for size in self.tail), "tail: up to 8 sizes")
        _require(1 <= self.dim <= _MAX_DIM, f"dim must be in 1..{_MAX_DIM}")
        _require(0 <= self.n_layers <= _MAX_LAYERS, f"n_layers must be in 0..{_MAX_LAYERS}")
        _require(self.n_heads >= 1 and self.dim % self.n_heads == 0, "n_heads must divide dim")
        _require(1 <= self.ff_dim <= 65536, "ff_dim must be in 1..65536")
        _require(0 <= self.context <= 1000, "context must be in 0..1000")
        _require(self.subsampling in (1, 2, 4, 8), "subsampling must be 1, 2, 4 or 8")
        _require(self.kernel % 2 == 1 and 1 <= self.kernel <= 1001, "kernel must be odd and in 1..1001")
        _require(0 <= self.dropout < 1, "dropout must be in [0, 1)")
        _require(self.stem == "linear" or self.subsampling > 1, "a convolution stem wants a subsampling of at least 2")
        _require(self.stem == "linear" or self.kind != "window", "a convolution stem does not fit the window rung")
        _require(self.kind != "lstm" or self.n_layers >= 1, "an lstm has at least one layer")
        if self.kind == "campplus":
            _require(self.dim % 32 == 0 and 1 <= self.n_layers <= 3, "campplus has a dim in steps of 32, 1 to 3 layers")
            _require(
                self.subsampling == 2 and self.stem == "linear", "campplus wants a subsampling of 2, no other stem"
            )
        halved = self.kind == "lstm" and self.bidirectional
        _require(not halved or self.dim % 2 == 0, "the dim of a bidirectional lstm must be even")


def size_of_lower_layers(features: FeatureConfig, encoder: EncoderConfig) -> dict[str, Any]:
    """Return the sizes in a `PretrainedConfig` whose encoder is that of a framecls model."""
    hop_samples = features.hop_samples * encoder.subsampling
    width_samples = features.n_fft - features.hop_samples + hop_samples
    sizes = {"dim": encoder.dim, "n_layers": encoder.n_layers}
    return sizes | {"hop_samples": hop_samples, "window_samples": width_samples}


@dataclass(frozen=True)
class WindowConfig:
    """The windows that the encoder reads, a property of the model."""

    length_s: float = 10.0
    overlap_s: float = 2.0

    def __post_init__(self) -> None:
        _require(0 < self.length_s <= 3600, "window length_s must be in (0, 3600]")
        _require(0 <= self.overlap_s <= self.length_s / 2, "window overlap_s must be in [0, length_s / 2]")


@dataclass(frozen=True)
class TimelineConfig:
    """How a pooled model tells when a label holds: spans around steps, and a hidden Markov model over the labels."""

    hop_s: float = 1.0  # of a step, to the nearest whole number of frames
    span_s: float = 7.0  # pooled around each step
    overlap_s: float = 2.0  # of the windows that the encoder reads
    change: float = 0.002  # chance that the label of a step is drawn anew, and not that of the step before
    weight: float = 0.75  # of what a step says: spans overlap, so neighbouring steps repeat each other
    sharpness: float = 1.5  # factor on the mean logits of a run of steps, which is longer than a span
    min_gap_s: float = 1.0  # segments of one label closer than this are joined, unless the decision's is greater

    def __post_init__(self) -> None:
        _require(
            0 < self.hop_s <= self.span_s <= 3600, "timeline hop_s and span_s must be in (0, 3600], hop_s the less"
        )
        _require(0 <= self.overlap_s <= 3600, "timeline overlap_s must be in [0, 3600]")
        _require(0 < self.change < 1, "timeline change must be in (0, 1)")
        _require(0 < self.weight <= 100, "timeline weight must be in (0, 100]")
        _require(0 < self.sharpness <= 100, "timeline sharpness must be in (0, 100]")
        _require(0 <= self.min_gap_s <= 3600, "timeline min_gap_s must be in [0, 3600]")


@dataclass(frozen=True)
class DecisionConfig:
    """How probabilities become labels."""

    thresholds: dict[str, float] = field(default_factory=dict)
    min_duration_s: float = 0.0
    min_gap_s: float = 0.0
    # Of labels that have lengths of their own.
    min_durations_s: dict[str, float] = field(default_factory=dict)
    min_gaps_s: dict[str, float] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()  # labels that `identify` answers with unless asked for others; none: all of them
    # Factor on the odds of labels that are no candidates, which the network underestimates in voices it was not trained
    # on.
    other_odds: float = 1.0
    temperature: float = 1.0  # logits are divided by it (Guo et al. 2017, "On Calibration of Modern Neural Networks")
    # Calibration: slope and offset of the logistic function from the cosine of two voices to the probability that they
    # are one, at equal priors.
    same_voice: tuple[float, float] = (20.0, -10.0)

    def __post_init__(self) -> None:
        for label, threshold in self.thresholds.items():
            _require(0 <= threshold <= 1, f"threshold {label}={threshold} is not in 0..1")
        for name, own in (("min_duration_s", self.min_durations_s), ("min_gap_s", self.min_gaps_s)):
            for text, value in ((name, getattr(self, name)), *((f"{name} {label}", own[label]) for label in own)):
                _require(math.isfinite(value) and value >= 0, f"{text} {value} is not a length of time in seconds")
        _require(0 < self.temperature < 1000, "temperature must be in (0, 1000)")
        _require(0 < self.other_odds < 1e6, "other_odds must be in (0, 1e6)")
        _require(0 < self.same_voice[0] < 1e6 and abs(self.same_voice[1]) < 1e6, "same_voice is no slope and offset")


@dataclass(frozen=True)
class DiarizationConfig:
    """How a model of voices says who speaks when."""

    window_s: float = 1.5  # of one embedding
    step_s: float = 0.48  # from one window to the next
    # Somebody speaks where the gate says so with this probability, or pauses for less than this.
    speech: float = 0.2
    pause_s: float = 0.3
    overlap: float = 0.6  # several speak at once where the model of that says so with this probability
    # Cosine of two clusters of windows, on average, from which they are one speaker.
    same_speaker: float = 0.32
    # Such a cosine from which they are one speaker, however many are asked for.
    surely_same: float = 0.45
    least_speaker_s: float = 2.0  # of speech; who is heard for less is taken for one of the others, or unknown
    # Cosine of a window to the mean vector of a speaker, averaged around a frame, below which it is unknown who speaks.
    unknown: float = 0.3
    hop_s: float = 0.08  # of a step, in which one speaks, or several
    # Factor from that cosine to a log-likelihood of a second, and how often one speaker follows another.
    sharpness: float = 40.0
    changes_per_s: float = 0.02

    def __post_init__(self) -> None:
        _require(0.2 <= self.window_s <= 5, "diarization window_s must be in 0.2..5")
        _require(0.05 <= self.step_s <= self.window_s, "diarization step_s must be in 0.05..window_s")
        for name in ("same_speaker", "surely_same", "unknown"):
            _require(-1 <= getattr(self, name) <= 1, f"diarization {name} is not a cosine")
        for name in ("least_speaker_s", "sharpness", "changes_per_s"):
            _require(0 <= getattr(self, name) < 1e6, f"diarization {name} must be in [0, 1e6)")


class DecisionKeywords(TypedDict, total=False):
    """The rules of a `DecisionConfig` that a run may change."""

    thresholds: Mapping[str, float] | None
    min_duration_s: float | None
    min_gap_s: float | None
    min_durations_s: Mapping[str, float] | None
    min_gaps_s: Mapping[str, float] | None


@dataclass(frozen=True)
class ModelConfig:
    """All settings of a model: everything but the weights."""

    name: str
    task: Literal["frame", "pooled"]
    labels: tuple[str, ...]
    overlapping: bool = False  # several labels, or none, may hold at once (frame task)
    phones: tuple[str, ...] = ()  # symbols of the CTC head, blank excluded; empty: there is no such head
    phone_layer: int = 0  # encoder layers below the CTC head; 0: all of them
    pooling: Pooling = "attentive"
    # Size of the unit vector that a pooled model answers with, to be compared with those of enrolled voices; 0: it
    # answers with one of its labels.
    embedding: int = 0
    # Size of a hidden layer (ReLU, unit length) between pooling and the embedding; 0: there is none. The embedding of a
    # teacher model is learnt here, and projected to what separates voices.
    embedding_hidden: int = 0
    # A label of the shipped `sound` model (pooled task): windows are weighted by the time for which it holds, and a
    # recording without it is "unknown". Empty: windows are weighted by their length.
    gate: str = ""
    smoothing: int = 1  # frames around each, an odd number, whose logits are averaged (frame task)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    timeline: TimelineConfig = field(default_factory=TimelineConfig)  # of a pooled model, where it is asked when
    diarization: DiarizationConfig = field(default_factory=DiarizationConfig)  # of a model with an embedding
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(self.name) and self.name.isprintable(), "a model needs a printable name")
        _require(0 <= self.embedding <= 4096, "embedding must be in 0..4096")
        _require(not (self.embedding and self.task == "frame"), "only a pooled model answers with an embedding")
        _require(0 <= self.embedding_hidden <= 4096, "embedding_hidden must be in 0..4096")
        _require(bool(self.embedding or not self.embedding_hidden), "embedding_hidden wants an embedding")
        _require(bool(self.labels or self.embedding), "a model needs at least one label, or an embedding")
        _require(not (self.labels and self.embedding), "a model that answers with an embedding has no labels")
        _require(len(self.labels) <= _MAX_LABELS, f"a model has at most {_MAX_LABELS} labels")
        longest = max(map(len, self.labels), default=0)
        _require(longest <= _MAX_LABEL_CHARACTERS, f"a label has at most {_MAX_LABEL_CHARACTERS} characters")
        known = {*self.labels, UNKNOWN}
        _require(len(set(self.labels)) == len(self.labels), "labels must differ")
        _require(not (self.overlapping and self.task == "pooled"), "only frame labels may overlap")
        _require(1 <= self.smoothing <= 1001 and self.smoothing % 2 == 1, "smoothing must be odd and in 1..1001")
        _require(self.smoothing == 1 or self.task == "frame", "only logits of frames are smoothed")
        own = {"threshold": self.decision.thresholds, "shortest duration": self.decision.min_durations_s}
        for rule, labels in (own | {"shortest gap": self.decision.min_gaps_s}).items():
            for label in labels:
                has = f"it has {listed(self.labels or (UNKNOWN,))}"
                _require(label in known, f"a {rule} for {label!r}, which is no label of this model; {has}")
        _require(0 <= self.phone_layer <= self.encoder.n_layers, "phone_layer must be in 0..encoder.n_layers")
        between = self.phones and self.phone_layer not in (0, self.encoder.n_layers)
        _require(
            not (between and self.encoder.kind == "campplus"), "campplus has no place for phones between its layers"
        )
        for label in self.decision.candidates:
            good = label in known and (label != UNKNOWN or UNKNOWN in self.labels)
            _require(good, f"a candidate {label!r}, which is no label of this model")
        _require(self.window_frames >= 1, "the window is shorter than one frame")
        _require(self.window_frames <= _MAX_WINDOW_FRAMES, f"the window has more than {_MAX_WINDOW_FRAMES} frames")
        what, n_numbers = max(self._largest_arrays().items(), key=lambda item: item[1])
        _require(
            n_numbers <= _MAX_WINDOW_NUMBERS,
            f"the window is too long: its {what} would be {n_numbers} numbers, and {_MAX_WINDOW_NUMBERS} is the most",
        )

    def with_decision(self, decision: DecisionConfig | None = None, **rules: Unpack[DecisionKeywords]) -> ModelConfig:
        """Return the same settings with other rules from probabilities to labels.

        Args:
            decision: all of the rules; None: the model's own.
            rules: some of them.
                thresholds: label to probability, 0..1, over the model's own. For `identify`, "unknown" is that of every
                    label that is given none of its own here.
                min_duration_s: shorter segments are dropped, or join a neighbour where labels tile the file.
                min_gap_s: segments of one label closer than this are joined.
                min_durations_s, min_gaps_s: the same, of some labels: they go before what holds for all.

        Raises:
            ConfigError: a label that the model does not have, a number out of range, or what would decide nothing.
        """
        if decision is not None:
            return dataclasses.replace(self, decision=decision).with_decision(**rules)
        old = self.decision
        given = dict(rules.get("thresholds") or {})
        durations_s, gaps_s = rules.get("min_durations_s") or {}, rules.get("min_gaps_s") or {}
        min_duration_s, min_gap_s = rules.get("min_duration_s"), rules.get("min_gap_s")
        self._require_used(given, max((min_gap_s or 0.0, *gaps_s.values())))
        kept = {} if UNKNOWN in given else old.thresholds
        # What is asked for all labels goes before what the model has for one.
        decision = dataclasses.replace(
            old,
            thresholds={**kept, **given},
            min_duration_s=old.min_duration_s if min_duration_s is None else min_duration_s,
            min_gap_s=old.min_gap_s if min_gap_s is None else min_gap_s,
            min_durations_s={**(old.min_durations_s if min_duration_s is None else {}), **durations_s},
            min_gaps_s={**(old.min_gaps_s if min_gap_s is None else {}), **gaps_s},
        )
        return dataclasses.replace(self, decision=decision)

    def _require_used(self, thresholds: Mapping[str, float], min_gap_s: float) -> None:
        """Refuse rules that are not the model's own and that nothing would be decided by."""
        new = [label for label, threshold in thresholds.items() if self.decision.thresholds.get(label) != threshold]
        tiles = self.task == "frame" and not self.overlapping
        for label in new:
            _require(not tiles, f"{label}: {self.name} gives each frame its likeliest label, and none has a threshold")
            known = label in self.labels or (label == UNKNOWN and self.task == "pooled")
            others = f"{listed(self.labels)}{f', or {UNKNOWN} for all' if self.task == 'pooled' else ''}"
            has = f"{UNKNOWN}, for voices that are not enrolled" if self.embedding else others
            _require(known, f"a threshold for {label!r}, which is no label of this model; it has {has}")
        gapless = tiles and bool(min_gap_s) and min_gap_s != self.decision.min_gap_s
        _require(not gapless, f"between segments of {self.name} there are no gaps to bridge")

    @property
    def hop_samples(self) -> int:
        """Samples from one output frame to the next."""
        return self.features.hop_samples * self.encoder.subsampling

    @property
    def hop_s(self) -> float:
        """Seconds from one output frame to the next."""
        return self.hop_samples / self.features.sample_rate

    @property
    def window_frames(self) -> int:
        """Output frames in one full window."""
        return round(self.window.length_s / self.hop_s)

    @property
    def overlap_frames(self) -> int:
        """Output frames that one window shares with the next."""
        return round(self.window.overlap_s / self.hop_s)

    @property
    def largest_array(self) -> int:
        """How many numbers the largest array has that a network makes of one window."""
        return max(self._largest_arrays().values())

    def _largest_arrays(self) -> dict[str, int]:
        """Return how many numbers the largest arrays have that one window becomes on its way."""
        features, encoder, frames = self.features, self.encoder, self.window_frames
        vectors = frames * encoder.subsampling
        n_answers = max(len(self.labels), self.embedding, 1 + len(self.phones))
        around = 2 * encoder.context + 1 if encoder.kind == "window" else 1
        widest = max(3 * encoder.dim, encoder.ff_dim, n_answers, features.dim * encoder.subsampling * around)
        arrays = {"activations": frames * widest, "samples": vectors * features.hop_samples}
        if encoder.kind == "attention" and encoder.score == "additive":
            arrays["pairs of frames"] = encoder.n_heads * frames**2
        if encoder.kind == "campplus":
            arrays["channels of bands"] = vectors * features.dim * encoder.dim // 16
            arrays["activations"] = frames * max(2 * encoder.dim, widest)
        if features.kind == "pretrained":
            arrays |= features.pretrained.largest_arrays(vectors)
        elif features.kind != "precomputed":
            arrays["spectrum"] = vectors * (features.n_fft // 2 + 1)
        return arrays


class Configured:
    """What a model, wherever it runs, tells from its settings."""

    config: ModelConfig

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


# Encoding of headerless samples -> libsndfile's subtype and byte order, bytes of a sample.
RAW_ENCODINGS: dict[str, tuple[str, Literal["LITTLE", "BIG"], int]] = {
    "s16le": ("PCM_16", "LITTLE", 2),
    "s16be": ("PCM_16", "BIG", 2),
    "s24le": ("PCM_24", "LITTLE", 3),
    "s24be": ("PCM_24", "BIG", 3),
    "s32le": ("PCM_32", "LITTLE", 4),
    "s32be": ("PCM_32", "BIG", 4),
    "f32le": ("FLOAT", "LITTLE", 4),
    "f32be": ("FLOAT", "BIG", 4),
    "f64le": ("DOUBLE", "LITTLE", 8),
    "f64be": ("DOUBLE", "BIG", 8),
    "s8": ("PCM_S8", "LITTLE", 1),
    "u8": ("PCM_U8", "LITTLE", 1),
    "alaw": ("ALAW", "LITTLE", 1),
    "mulaw": ("ULAW", "LITTLE", 1),
}


@dataclass(frozen=True)
class RawAudio:
    """What samples without a header are; the names of encodings are those of ffmpeg."""

    sample_rate: int  # Hz
    channels: int = 1
    encoding: str = "s16le"

    def __post_init__(self) -> None:
        _require(1000 <= self.sample_rate <= 3_072_000, f"sample rate {self.sample_rate} is not in 1000..3072000 Hz")
        _require(1 <= self.channels <= 1024, f"{self.channels} channels are not in 1..1024")
        names = ", ".join(RAW_ENCODINGS)
        _require(self.encoding in RAW_ENCODINGS, f"{self.encoding!r} is no encoding of samples: choose {names}")


# Seconds after which a decoder that gives nothing is stopped.
DEFAULT_TIMEOUT_S = 60.0
MIX, EACH = "mix", "each"
# What a channel is called -> its number, of one that has any.
CHANNELS = {"left": 1, "right": 2, EACH: None, MIX: None}


@dataclass(frozen=True)
class ReadOptions:
    """How a recording is read."""

    sample_rate: int | None = None  # Hz, of an array or of arrays, which need it; a file says its own
    raw: RawAudio | None = None  # what a file or file object without a header holds
    track: int | None = None  # which audio track of a file that has several, from 1; None: the default one
    channel: str | int | None = None  # "left", "right", a number from 1, "each"; "mix", None: all of them, mixed
    timeout_s: float = DEFAULT_TIMEOUT_S  # a decoder that gives nothing for so long is stopped; pipes are waited for
    max_duration_s: float | None = None  # a longer recording is refused
    strict: bool = False  # what would be a warning, such as a recording that was cut off, is a failure

    def __post_init__(self) -> None:
        _require(self.track is None or self.track >= 1, f"track {self.track}: they are counted from 1")
        _require(0 < self.timeout_s < math.inf, f"timeout_s {self.timeout_s} is not a length of time in seconds")
        is_channel = self.channel in CHANNELS or (str(self.channel).isdecimal() and int(self.channel or 0) >= 1)
        _require(
            self.channel is None or (is_channel and not isinstance(self.channel, bool)),
            f"channel {self.channel}: choose {', '.join(CHANNELS)} or a number from 1",
        )
        longest_s = self.max_duration_s
        _require(longest_s is None or 0 < longest_s < math.inf, f"max_duration_s {longest_s} is not above 0 seconds")

    @property
    def channel_number(self) -> int | None:
        """Return the only channel to hear, counted from 1; None: all of them, mixed."""
        if self.channel in (None, MIX, EACH):
            return None
        return CHANNELS.get(str(self.channel)) or int(self.channel or 0)


DEFAULT_READING = ReadOptions()


class ReadKeywords(TypedDict, total=False):
    """`ReadOptions` as keyword arguments."""

    sample_rate: int | None
    raw: RawAudio | None
    track: int | None
    channel: str | int | None
    timeout_s: float
    max_duration_s: float | None
    strict: bool


# What a run does unless it is told otherwise; --help says so too.
DEFAULT_TOP_K = 5  # labels that are ranked
DEFAULT_BEAM = 8  # strings that the CTC search keeps from frame to frame

# The answer of `identify` when no label is likely enough, and why that is.
UNKNOWN = "unknown"
UNSURE = "unsure"  # one of those that can be the answer, but which?
NOT_NAMED = "none of those named"  # with `among`
NOT_TRUSTED = "none it is trusted with"  # a label that the model knows, and does not answer with unless it is named
NOT_ENROLLED = "nobody enrolled"


def not_heard(gate: str) -> str:
    """Return the reason for "unknown" where a model hears nothing of what it listens to."""
    return f"no {gate}"


def listed(words: Sequence[str], most: int = 40) -> str:
    """Return words for a message, the first of many."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


# Shows values for messages, whatever their size and depth.
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = 40
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlong = 5000


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as plain dicts, lists, strings and numbers."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], data: Any, where: str = "") -> T:
    """Build a config dataclass from plain data, strictly.

    Args:
        cls: a dataclass of this module.
        data: what `to_dict` gave, or a table of a TOML file; keys that are left out take their defaults.
        where: prefix for messages, such as "encoder.".

    Raises:
        ConfigError: a key that the dataclass does not have, a missing one, a wrong type, or a value out of range.
    """
    name = where.rstrip(".") or "the settings"
    _require(isinstance(data, dict), f"{name}: a table was expected, not {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    if unknown := sorted(set(data) - set(hints)):
        name = str(unknown[0])[:80]
        raise ConfigError(f"{where}{name}: there is no such setting{suggest(name, hints)}")
    values = {key: _convert(hints[key], value, f"{where}{key}") for key, value in data.items()}
    no_default = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(typing.cast(Any, cls)) if field.default_factory is no_default]
    missing = [field.name for field in fields if field.default is no_default and field.name not in values]
    _require(not missing, f"{name}: {' and '.join(missing)} must be given")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        _require(value in arguments, f"{where}: {_shown(value)} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is types.UnionType:
        if value is None and types.NoneType in arguments:
            return None
        return _convert(next(a for a in arguments if a is not types.NoneType), value, where)
    if origin is tuple:
        _require(isinstance(value, list | tuple), f"{where}: a list was expected")
        if arguments[-1] is not ...:
            _require(len(value) == len(arguments), f"{where}: {len(arguments)} values were expected")
        return tuple(_convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        _require(isinstance(value, dict), f"{where}: a table was expected")
        if arguments[1] is Any:
            return dict(value)
        return {str(k): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is int and isinstance(value, int):
        _require(abs(value) < 2**63, f"{where}: a whole number of more than 63 bits")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        # What no float can hold is as little use as infinity.
        value = float(value) if abs(value) < 2**1000 else math.inf
    good = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    _require(good, f"{where}: {_shown(value)} is not of type {getattr(hint, '__name__', hint)}")
    if hint is float:
        _require(math.isfinite(value), f"{where}: {value!r} is not a finite number")
    return value


def _shown(value: Any) -> str:
    """Return a value for a message, the beginning of a long one."""
    if isinstance(value, dict):
        return f"a table of {len(value)}"
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python does not write out an integer of more than some thousand digits
        return "a number of too many digits"
    return text if len(text) <= 80 else f"{text[:80]}…"
