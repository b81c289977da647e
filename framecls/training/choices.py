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

# What stays together when recordings are split, and which part of a manifest can be measured.
SplitBy = Literal["source", "speaker", "file"]
SPLIT_BY: tuple[SplitBy, ...] = ("source", "speaker", "file")
MeasuredSplit = Literal["train", "dev", "all"]
SPLITS: tuple[MeasuredSplit, ...] = ("train", "dev", "all")
