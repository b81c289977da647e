"""Settings of a model, as validated frozen dataclasses: what a model file carries and a recipe sets.

No torch here: reading a model card must not cost an import of it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from framecls.errors import ConfigError

T = TypeVar("T")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class FeatureConfig:
    """How a waveform becomes frame vectors.

    The feature vector j describes the samples around the middle of `[j * hop_samples, (j + 1) * hop_samples)`.
    """

    # "given": vectors of `n_given` numbers, computed elsewhere, take the place of samples; sample_rate is how many of
    # them there are a second, and hop and window are one.
    kind: Literal["logmel", "mfcc", "given"] = "logmel"
    sample_rate: int = 16000
    window_samples: int = 400
    hop_samples: int = 160
    n_fft: int = 512
    n_mels: int = 64
    n_mfcc: int = 13
    f_min_hz: float = 50.0
    f_max_hz: float = 7600.0
    # "mean" takes each band's mean over the window away, and with it the microphone's and the line's colour.
    normalize: Literal["none", "mean", "mean_variance"] = "none"
    n_given: int = 0

    def __post_init__(self) -> None:
        _require((self.kind == "given") == (self.n_given > 0), 'n_given goes with kind = "given"')
        if self.kind == "given":
            _require(self.n_given <= 4096, "n_given must be in 1..4096")
            _require(
                1 <= self.sample_rate <= 384000, f"sample_rate {self.sample_rate} is not in 1..384000 vectors a second"
            )
            _require(self.hop_samples == self.window_samples == 1, "given vectors are not cut into windows")
            return
        _require(1000 <= self.sample_rate <= 384000, f"sample_rate {self.sample_rate} is not in 1000..384000 Hz")
        _require(1 <= self.hop_samples <= self.window_samples, "hop_samples must be in 1..window_samples")
        _require(self.window_samples <= self.n_fft <= 65536, "n_fft must be in window_samples..65536")
        _require((self.n_fft - self.hop_samples) % 2 == 0, "n_fft - hop_samples must be even")
        _require(1 <= self.n_mels <= 512, "n_mels must be in 1..512")
        _require(1 <= self.n_mfcc <= self.n_mels, "n_mfcc must be in 1..n_mels")
        _require(
            0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate / 2, "0 <= f_min_hz < f_max_hz <= sample_rate / 2"
        )

    @property
    def dim(self) -> int:
        """Numbers in one feature vector; MFCCs come with their first and second differences."""
        return {"logmel": self.n_mels, "mfcc": 3 * self.n_mfcc, "given": self.n_given}[self.kind]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Axes of one sample: none, a number; of one that is a given vector, its length."""
        return (self.n_given,) if self.kind == "given" else ()

    @property
    def margin_samples(self) -> int:
        """Samples that the first and last vector of a span read beyond it, on each side."""
        return (self.n_fft - self.hop_samples) // 2 if self.kind != "given" else 0


@dataclass(frozen=True)
class EncoderConfig:
    """One rung of the ladder: `fc`, `window` or `attention`."""

    kind: Literal["fc", "window", "attention"] = "attention"
    score: Literal["dot", "additive"] = "dot"
    dim: int = 96
    n_layers: int = 4
    n_heads: int = 4
    ff_dim: int = 384
    context: int = 5  # neighbours on each side that the `window` rung sees
    subsampling: int = 1  # consecutive feature vectors joined into one frame: 1, 2, 4 or 8
    position: Literal["none", "sinusoidal", "convolution"] = "convolution"
    kernel: int = 15  # width in frames of the position convolution
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _require(1 <= self.dim <= 4096, "dim must be in 1..4096")
        _require(0 <= self.n_layers <= 64, "n_layers must be in 0..64")
        _require(self.n_heads >= 1 and self.dim % self.n_heads == 0, "n_heads must divide dim")
        _require(1 <= self.ff_dim <= 65536, "ff_dim must be in 1..65536")
        _require(0 <= self.context <= 1000, "context must be in 0..1000")
        _require(self.subsampling in (1, 2, 4, 8), "subsampling must be 1, 2, 4 or 8")
        _require(self.kernel % 2 == 1 and 1 <= self.kernel <= 1001, "kernel must be odd and in 1..1001")
        _require(0 <= self.dropout < 1, "dropout must be in [0, 1)")


@dataclass(frozen=True)
class WindowConfig:
    """The grid of windows that the encoder reads: it belongs to the model, not to a run."""

    length_s: float = 10.0
    overlap_s: float = 2.0

    def __post_init__(self) -> None:
        _require(0 < self.length_s <= 3600, "window length_s must be in (0, 3600]")
        _require(0 <= self.overlap_s <= self.length_s / 2, "window overlap_s must be in [0, length_s / 2]")


@dataclass(frozen=True)
class DecisionConfig:
    """How probabilities become labels."""

    thresholds: dict[str, float] = field(default_factory=dict)
    min_duration_s: float = 0.0
    min_gap_s: float = 0.0
    candidates: tuple[str, ...] = ()  # labels that `identify` answers with unless asked for others; none: all of them
    temperature: float = 1.0  # logits are divided by it (Guo et al. 2017, "On Calibration of Modern Neural Networks")

    def __post_init__(self) -> None:
        for label, threshold in self.thresholds.items():
            _require(0 <= threshold <= 1, f"threshold {label}={threshold} is not in 0..1")
        for name in ("min_duration_s", "min_gap_s"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"{name} {value} is not a length of time in seconds")
        _require(0 < self.temperature < 1000, "temperature must be in (0, 1000)")


@dataclass(frozen=True)
class ModelConfig:
    """Everything but the weights."""

    name: str
    task: Literal["frame", "pooled"]
    labels: tuple[str, ...]
    overlapping: bool = False  # several labels, or none, may hold at once (frame task)
    phones: tuple[str, ...] = ()  # symbols of the CTC head, blank excluded; empty: there is no such head
    phone_layer: int = 0  # encoder layers below the CTC head; 0: all of them
    phone_bottleneck: bool = False  # the layers above the CTC head read phones only: nothing of voice or microphone
    pooling: Literal["mean", "attentive"] = "attentive"
    # A label of the shipped `sound` model: a window counts for as long as that is heard in it, and a recording without
    # it is "unknown". Empty: every window counts for its length. (pooled task)
    gate: str = ""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(bool(self.name) and self.name.isprintable(), "a model needs a printable name")
        _require(len(self.labels) >= 1, "a model needs at least one label")
        _require(len(set(self.labels)) == len(self.labels), "labels must differ")
        _require(not (self.overlapping and self.task == "pooled"), "only frame labels may overlap")
        for label in self.decision.thresholds:
            _require(label in (*self.labels, UNKNOWN), f"a threshold for {label!r}, which is no label of this model")
        _require(0 <= self.phone_layer <= self.encoder.n_layers, "phone_layer must be in 0..encoder.n_layers")
        for label in self.decision.candidates:
            _require(label in self.labels, f"a candidate {label!r}, which is no label of this model")
        _require(self.window_frames >= 1, "the window is shorter than one frame")

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


# The answer of `identify` when no label is likely enough.
UNKNOWN = "unknown"


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
    unknown = sorted(set(data) - set(hints))
    _require(not unknown, f"{where}{unknown[0] if unknown else ''}: there is no such setting")
    values = {key: _convert(hints[key], value, f"{where}{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:  # a field without a default is missing
        raise ConfigError(f"{name}: {str(error).split(') ')[-1]}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        _require(value in arguments, f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
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
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    good = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    _require(good, f"{where}: {value!r} is not of type {getattr(hint, '__name__', hint)}")
    if hint is float:
        _require(math.isfinite(value), f"{where}: {value!r} is not a finite number")
    return value
