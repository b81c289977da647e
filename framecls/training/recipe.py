"""Recipes: the settings of a training run, read from TOML. Imports no torch, for --help and usage errors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from framecls.config import (
    DecisionConfig,
    EncoderConfig,
    FeatureConfig,
    ModelConfig,
    Pooling,
    Precision,
    PretrainedConfig,
    WindowConfig,
    from_dict,
    to_dict,
)
from framecls.errors import ConfigError, suggest
from framecls.textfiles import parse_toml, read_toml
from framecls.training.choices import CODECS, PRESETS

SHIPPED = Path(__file__).parent.parent / "recipes"

_MOST_SHOWN = 80  # characters of a change in a message
_ENCODER_HOP_S = 0.02  # of most pre-trained encoders

# The bounds of a random number, the smaller first.
Range = tuple[float, float]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_range(name: str, bounds: Range) -> None:
    _require(bounds[0] <= bounds[1], f"{name} must be two numbers, the smaller first")


@dataclass(frozen=True)
class MixConfig:
    """How clips of one label each are mixed into recordings with overlapping labels (frame task)."""

    enabled: bool = False
    presence: dict[str, float] = field(default_factory=dict)  # chance that a window holds a label; 0.6 where not given
    spread_db: float = 12.0  # greatest deviation of a label's loudness from the mean
    audible_db: float = 30.0  # a label does not count where the mixture is louder by more than this
    floor_db: Range = (-90.0, -55.0)  # of background noise without a label, relative to full scale
    gap_s: Range = (0.1, 4.0)  # silence between two clips of a track
    piece_s: Range = (0.5, 10.0)  # how much of a clip is used at once
    alone: float = 0.0  # chance of a single label; similar labels are best separated alone
    # Chance that a label's sound is continuous, as of fans, rain and engines: a clip is extended to a window. If clips
    # of one label are shorter than of another, a network learns their lengths instead of their sound.
    lasting: dict[str, float] = field(default_factory=dict)
    # Sources are sampled in proportion to this power of their length: 0: all equally, 1: by length. Dev examples always
    # sample all equally.
    source_power: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.source_power <= 1, "source_power must be in 0..1")
        _require(0 <= self.alone <= 1, "alone must be in 0..1")
        for name in ("floor_db", "gap_s", "piece_s"):
            _require_range(name, getattr(self, name))
        for name in ("presence", "lasting"):
            for label, chance in getattr(self, name).items():
                _require(0 <= chance <= 1, f"{name} {label}={chance} is not in 0..1")


@dataclass(frozen=True)
class AugmentConfig:
    """Chances and ranges of augmentation."""

    speed: Range = (0.9, 1.1)
    speed_chance: float = 0.5
    # Tempo alone and pitch alone, by librosa's phase vocoder. It smears clicks and bursts, and takes about 0.02 s
    # (tempo) or 0.08 s (pitch) for a second of sound.
    stretch: Range = (0.8, 1.25)  # times as fast
    stretch_chance: float = 0.0
    shift_semitones: Range = (-2.0, 2.0)
    shift_chance: float = 0.0
    reverb_chance: float = 0.3
    reverb_s: Range = (0.1, 0.9)  # time in which the echo falls by 60 dB
    equalize_chance: float = 0.5
    equalize_db: float = 4.0  # standard deviation of the gains of a random smooth filter
    low_pass_chance: float = 0.0  # these two teach a model to hear what has no treble, which speech is clear without
    telephone_chance: float = 0.0
    noise_chance: float = 0.5
    noise_snr_db: Range = (0.0, 30.0)
    gain_db: Range = (-20.0, 6.0)
    clip_chance: float = 0.05
    codec_chance: float = 0.0
    codecs: tuple[str, ...] = CODECS  # one of them is chosen
    frequency_masks: int = 2  # SpecAugment (Park et al. 2019)
    frequency_mask_width: int = 12
    time_masks: int = 2
    time_mask_s: float = 0.4

    def __post_init__(self) -> None:
        for name in ("speed", "stretch", "shift_semitones", "reverb_s", "noise_snr_db", "gain_db"):
            _require_range(name, getattr(self, name))
        _require(self.stretch[0] >= 0.25 and self.stretch[1] <= 4, "stretch must be in 0.25..4")
        _require(all(abs(bound) <= 24 for bound in self.shift_semitones), "shift_semitones must be in -24..24")
        for name in self.__dataclass_fields__:
            if name.endswith("_chance"):
                _require(0 <= getattr(self, name) <= 1, f"{name} is not in 0..1")
        for name in self.codecs:
            _require(name in CODECS, f"codecs: {name!r} is none of {', '.join(CODECS)}")
        _require(bool(self.codecs) or not self.codec_chance, "codec_chance needs at least one of codecs")


@dataclass(frozen=True)
class SampleConfig:
    """How examples are sampled; all but the last two fields are for a pooled task."""

    length_s: Range = (3.0, 10.0)
    join_gap_s: Range = (0.05, 0.4)  # pause between clips of one voice that are joined
    label_power: float = 0.0  # labels are sampled in proportion to this power of their length: 0: all equally
    source_weight: dict[str, float] = field(default_factory=dict)  # of a source within a label; 1 where not given
    whole_chance: float = 0.5  # chance of a batch of whole clips, on which the CTC head learns
    # Frame task without mixing: chance that a window is cut around a label, all labels being as likely.
    balance_chance: float = 0.0
    # Frame task without mixing: batches of recordings of about one length, whose padding does not count. Otherwise a
    # recording shorter than the window is followed by silence.
    bucketed: bool = False

    def __post_init__(self) -> None:
        _require_range("length_s", self.length_s)
        _require_range("join_gap_s", self.join_gap_s)
        _require(self.length_s[0] > 0, "length_s must be positive")
        _require(0 <= self.balance_chance <= 1, "balance_chance is not in 0..1")


@dataclass(frozen=True)
class VoiceConfig:
    """The losses of an embedding: of the voices, and of a teacher's embeddings (--teacher)."""

    # Additive-margin softmax over the training voices (Wang et al. 2018, "Additive Margin Softmax for Face
    # Verification"): its weight in the loss, the margin of the cosine, and the scale.
    margin_weight: float = 1.0
    margin: float = 0.2
    scale: float = 30.0
    teacher_weight: float = 10.0  # of one minus the cosine to the teacher's vector
    # Weight of the divergence of teacher and student similarities to the teacher's vectors of all recordings, and their
    # softmax temperature.
    anchor_weight: float = 1.0
    anchor_temperature: float = 0.05
    speeds: tuple[float, ...] = (1.0,)  # at another speed a voice is another one; a teacher's file has its own speeds
    dev_length_s: float = 3.0  # the recordings of each dev voice are joined and cut into pieces of this length

    def __post_init__(self) -> None:
        for name in ("margin_weight", "teacher_weight", "anchor_weight"):
            _require(0 <= getattr(self, name) < 1e6, f"{name} must be 0 or more")
        _require(0 <= self.margin < 1, "margin must be in [0, 1)")
        _require(bool(self.speeds) and all(0.25 <= s <= 4 for s in self.speeds), "speeds must be in 0.25..4")
        for name in ("scale", "anchor_temperature", "dev_length_s"):
            _require(0 < getattr(self, name) < 1e6, f"{name} must be positive")


@dataclass(frozen=True)
class OptimConfig:
    """Length of training, optimizer, dev measurements."""

    steps: int = 2000
    batch_s: float = 80.0  # seconds of audio in one step
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    tuned_rate: float = 0.02  # of a tuned speech encoder, as a share of the learning rate
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    label_smoothing: float = 0.0
    phone_weight: float = 0.5  # of the CTC loss beside the label's loss of 1
    soft_weight: float = 0.5  # of a teacher's probabilities in the targets of recordings that have them, 0..1
    init_rate: float = 1.0  # learning rate of weights from --init, relative to that of new ones
    frozen_layers: int = 0  # of the encoder, with all below them: they keep their weights from --init
    dev_every: int = 250
    keep: Literal["best", "last"] = "best"  # which weights of a run go to the model file, by the dev score
    patience: int = 0  # dev measurements without gain after which to stop; 0: never
    precision: Literal["float32", "bfloat16"] = "float32"
    # Batches that a pre-trained encoder hears once, and that come again in turn; 0: each step has one of its own.
    kept_batches: int = 0
    workers: int = 1  # processes that make batches ahead; 0: none, the run makes each itself; no batch depends on it
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.steps >= 1 and self.dev_every >= 1, "steps and dev_every must be at least 1")
        _require(self.seed >= 0, "seed must be 0 or more")
        _require(self.batch_s > 0 and self.learning_rate > 0, "batch_s and learning_rate must be positive")
        _require(0 < self.tuned_rate <= 1, "tuned_rate must be in (0, 1]")
        _require(0 <= self.ema_decay < 1, "ema_decay must be in [0, 1)")
        _require(0 <= self.label_smoothing < 1, "label_smoothing must be in [0, 1)")
        _require(0 <= self.kept_batches <= 100_000, "kept_batches must be in 0..100000")
        _require(0 <= self.workers <= 64, "workers must be in 0..64")
        _require(0 <= self.soft_weight <= 1, "soft_weight must be in 0..1")
        _require(0 <= self.init_rate <= 1, "init_rate must be in 0..1")
        _require(0 <= self.frozen_layers <= 1000, "frozen_layers must be in 0..1000")


@dataclass(frozen=True)
class HeadConfig:
    """A head on an encoder that stays as it is, which hears each recording once."""

    enabled: bool = False
    folds: int = 0  # in which clips are held out; 0: five, or three of 200 clips or more
    epochs: int = 8  # at most: as many are learnt as were best on clips held out
    layers: tuple[int, ...] = (
        4,
        3,
        5,
        6,
    )  # of the encoder: the first, unless a sample is clearly better off with another
    dropout: float = 0.2  # before the last layer
    # Of the linear probe that the head begins as (scikit-learn's C): the first, unless clips held out are clearly
    # better off with another.
    inverse_penalties: tuple[float, ...] = (1.0, 0.1, 0.01)
    # Of a frame task, over how much of time what is said of frames is averaged: chosen with the penalty.
    smoothings_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    # What each label is to reach where it is given, of clips or frames held out; None: thresholds of the best F1.
    precision: float | None = None
    # Time without a label: "nothing" of the labels holds there, and they may overlap; "ignored": it teaches nothing,
    # and a frame has one label. "auto": the latter only where labels follow each other without gaps.
    unmarked: Literal["auto", "nothing", "ignored"] = "auto"
    curve: bool = True  # train on half of the clips too, to see whether more would help

    def __post_init__(self) -> None:
        _require(self.folds == 0 or 2 <= self.folds <= 20, "folds must be in 2..20, or 0")
        _require(self.precision is None or 0 < self.precision < 1, "precision must be between 0 and 1")
        _require(0 <= self.epochs <= 1000, "epochs must be in 0..1000")
        _require(0 <= self.dropout < 1, "dropout must be in [0, 1)")
        bounded = all(0 < penalty < 1e6 for penalty in self.inverse_penalties)
        _require(bool(self.inverse_penalties) and bounded, "inverse_penalties must be in (0, 1e6)")
        bounded = all(0 <= width_s <= 10 for width_s in self.smoothings_s)
        _require(bool(self.smoothings_s) and bounded, "smoothings_s must be in 0..10")
        _require(bool(self.layers) and min(self.layers) >= 1, "layers must be 1 or more")


@dataclass(frozen=True)
class Recipe:
    """A whole training run, but for the data."""

    name: str
    task: Literal["frame", "pooled"]
    labels: tuple[str, ...] = ()  # none: those of the manifest, sorted
    overlapping: bool = False
    # A CTC head learns from the manifest's "phones"; in a frame task without them, from the labels in order of time.
    hear_phones: bool = False
    silent: tuple[str, ...] = ("sil",)  # labels that are no phones
    phone_layer: int = 0
    pooling: Pooling = "attentive"
    embedding: int = 0  # numbers of the vector that the model answers with, in place of labels
    embedding_hidden: int = 0
    gate: str = ""
    stored: Precision = "float16"  # how the model file holds its weights
    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    voices: VoiceConfig = field(default_factory=VoiceConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    card: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(
            self.optim.frozen_layers <= self.encoder.n_layers,
            f"optim.frozen_layers must be at most encoder.n_layers, {self.encoder.n_layers}",
        )
        encoder = self.features.pretrained
        stays = self.features.kind == "pretrained" and bool(encoder.layer) and not encoder.tuned
        _require(
            stays or not self.optim.kept_batches, "optim.kept_batches wants one layer of a pre-trained encoder, untuned"
        )
        plain = self.encoder.kind in ("attention", "fc") and self.encoder.stem == "linear"
        _require(
            not self.head.enabled or (plain and self.encoder.position != "sinusoidal"),
            "a head wants encoder.kind attention or fc, a linear stem, and no sinusoidal position",
        )

    def answers(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Return the labels of the model that this recipe makes of data with these; none for a model of voices."""
        return () if self.embedding else self.labels or labels

    def model_config(self, labels: tuple[str, ...], phones: tuple[str, ...]) -> ModelConfig:
        """Return the settings of the model that this recipe makes of data with these labels and phones."""
        return ModelConfig(
            name=self.name,
            task=self.task,
            labels=self.answers(labels),
            overlapping=self.overlapping,
            phones=phones if self.hear_phones else (),
            phone_layer=self.phone_layer if self.hear_phones and phones else 0,
            pooling=self.pooling,
            embedding=self.embedding,
            embedding_hidden=self.embedding_hidden,
            gate=self.gate,
            features=self.features,
            encoder=self.encoder,
            window=self.window,
            decision=self.decision,
            card=dict(self.card),
        )


def with_encoder(recipe: Recipe, source: str, layer: int = 0, tuned: bool = False) -> Recipe:
    """Return a recipe on the vectors of a pre-trained encoder, its frames about as long as before.

    Args:
        recipe: all the rest.
        source: "framecls:MODEL", "torchaudio:BUNDLE", or the name or folder of an encoder of transformers.
        layer: of which the vectors are taken; 0: a learnt mix of all.
        tuned: train its self-attention too.
    """
    pretrained = PretrainedConfig(source, layer, tuned)
    frame_s = recipe.features.hop_samples * recipe.encoder.subsampling / recipe.features.sample_rate
    joined = min((1, 2, 4, 8), key=lambda n: abs(n * _ENCODER_HOP_S - frame_s))
    return replace(
        recipe,
        features=replace(recipe.features, kind="pretrained", pretrained=pretrained),
        encoder=replace(recipe.encoder, subsampling=joined),
    )


def preset_settings(name: str) -> tuple[str, ...]:
    """Return the settings of a preset, as `change_recipe` takes them.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PRESETS:
        choices = ", ".join(PRESETS)
        raise ConfigError(f"no preset is called {name!r}{suggest(name, PRESETS, f': choose {choices}')}")
    return PRESETS[name]


# What a head on a frozen encoder makes use of; a table ends with a point.
_OF_HEAD = (
    "head.", "encoder.", "window.", "card.", "features.pretrained.source", "features.pretrained.layer",
    "features.sample_rate", "optim.batch_s", "optim.learning_rate", "optim.weight_decay", "optim.clip_norm",
    "optim.label_smoothing", "optim.seed", "pooling", "stored", "name",
)  # fmt: skip


def head_settings(recipe: Recipe, precision: float | None, exclusive: bool) -> list[str]:
    """Return the settings that a wanted precision and exclusive labels stand for, as `change_recipe` takes them.

    Raises:
        ConfigError: one is asked for, and the recipe trains a whole network.
    """
    asked = {"precision": f"head.precision={precision}" if precision is not None else ""}
    asked["exclusive"] = "head.unmarked=ignored" if exclusive else ""
    for name, setting in asked.items():
        if setting and not recipe.head.enabled:
            raise ConfigError(f"{name} is for a head on a frozen encoder: leave the recipe and the like out")
    return [setting for setting in asked.values() if setting]


def check_head_settings(recipe: Recipe, changes: Sequence[str]) -> None:
    """Refuse settings, as `change_recipe` takes them, that a head on a frozen encoder has no use for.

    Raises:
        ConfigError: the recipe is of such a head, and one of them does not matter to it.
    """
    for change in changes if recipe.head.enabled else ():
        name = change.partition("=")[0].strip()
        if not any(name.startswith(known) if known.endswith(".") else name == known for known in _OF_HEAD):
            task = "tag" if recipe.task == "frame" else "identify"
            raise ConfigError(
                f"{name[:_MOST_SHOWN]}: a head on a frozen encoder has no such setting; to train a whole network "
                f"choose the recipe {task} (--recipe {task})"
            )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        ConfigError: it cannot be read, or holds a setting that does not exist or is out of range.
    """
    settings = read_toml(path)
    try:
        return from_dict(Recipe, settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error} (framecls train --settings lists them all)") from None


def change_recipe(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return a recipe with settings changed.

    Args:
        recipe: what is changed.
        changes: such as "optim.patience=3"; a value is one of TOML, or text without its quotes.

    Raises:
        ConfigError: a change has another form, or is of a setting that does not exist or is out of range.
    """
    data = to_dict(recipe)
    for change in changes:
        name, equals, text = change.partition("=")
        *tables, key = name.strip().split(".")
        if not equals or not key:
            raise ConfigError(f"{change[:_MOST_SHOWN]}: NAME=VALUE is expected, such as optim.patience=3")
        try:
            value = parse_toml(f"value = {text}")["value"]
        except ConfigError:
            value = text.strip()
        _find_table(data, tables, change)[key] = value
    return from_dict(Recipe, data)


def _find_table(data: dict[str, Any], tables: Sequence[str], change: str) -> dict[str, Any]:
    """Return the table that a dotted name leads to."""
    table: Any = data
    for part in tables:
        if not isinstance(table, dict) or part not in table:
            near = suggest(part, table if isinstance(table, dict) else ())
            raise ConfigError(f"{change[:_MOST_SHOWN]}: there is no such setting{near}")
        table = table[part]
    if not isinstance(table, dict):
        raise ConfigError(f"{change[:_MOST_SHOWN]}: there is no such setting")
    return table


def shipped_recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find_recipe(name: str) -> Path:
    """Return the file of a shipped recipe ("tag", "identify", "sound", "language") or of a path.

    Raises:
        ConfigError: there is neither.
    """
    shipped = SHIPPED / f"{name}.toml"
    path = shipped if os.path.isfile(shipped) else Path(name)
    if not os.path.isfile(path):
        known = ", ".join(shipped_recipes())
        raise ConfigError(f"no recipe is called {name!r}: choose {known}, or give the path of a TOML file")
    return path
