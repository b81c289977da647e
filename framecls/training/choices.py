"""Names to choose from in options and recipes. A module of its own, since --help imports it."""

from __future__ import annotations

from typing import Literal

# The encoder settings of each rung of the ladder, from the bottom up, and of what it can be compared with.
RUNGS: dict[str, dict[str, str]] = {
    "fc": {"kind": "fc"},
    "window": {"kind": "window"},
    "dot": {"kind": "attention", "score": "dot"},
    "additive": {"kind": "attention", "score": "additive"},
    "lstm": {"kind": "lstm"},
}
LADDER = tuple(name for name in RUNGS if name != "lstm")

# Codecs for augmentation and measurement: G.711 and GSM at 8 kHz, the others at the recording's own rate.
CODECS = ("mulaw", "gsm", "mp3", "opus", "vorbis")

# What kinds of sound need, as settings. Of what is not speech all is heard that a recording at 48 kHz holds, and
# nothing is sent through a telephone in training. An encoder of speech hears such a recording slowed down, as one
# listens to bats: what lies up to 24 kHz comes to lie where it hears.
_WIDE = (
    "features.sample_rate=48000", "features.window_samples=1200", "features.hop_samples=480", "features.n_fft=2048",
    "features.n_mels=128", "features.f_min_hz=100", "features.f_max_hz=24000",
    "augment.telephone_chance=0", "augment.low_pass_chance=0",
)  # fmt: skip
PRESETS: dict[str, tuple[str, ...]] = {
    "wildlife": (*_WIDE, "window.length_s=5.0", "window.overlap_s=1.0", "augment.speed=[0.95, 1.05]"),
    "machines": (*_WIDE, "window.length_s=5.0", "window.overlap_s=1.0", "augment.speed_chance=0"),
    "speech": ("augment.telephone_chance=0.1", "augment.low_pass_chance=0.2", "augment.reverb_chance=0.3"),
    "music": (
        "features.f_min_hz=30", "features.f_max_hz=8000", "augment.speed_chance=0", "augment.reverb_chance=0.1",
        "augment.telephone_chance=0", "augment.low_pass_chance=0",
    ),
}  # fmt: skip

# What stays together when recordings are split, and which part of a manifest can be measured.
SplitBy = Literal["source", "speaker", "file"]
SPLIT_BY: tuple[SplitBy, ...] = ("source", "speaker", "file")
MeasuredSplit = Literal["train", "dev", "all"]
SPLITS: tuple[MeasuredSplit, ...] = ("train", "dev", "all")
