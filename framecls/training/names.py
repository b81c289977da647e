"""What can be chosen by name. --help says the names, so importing this is cheap."""

from __future__ import annotations

from typing import Literal

# What sets one rung's encoder apart from another's: the ladder, from the bottom up, and what it can be compared with.
RUNGS: dict[str, dict[str, str]] = {
    "fc": {"kind": "fc"},
    "window": {"kind": "window"},
    "dot": {"kind": "attention", "score": "dot"},
    "additive": {"kind": "attention", "score": "additive"},
    "lstm": {"kind": "lstm"},
}
LADDER = tuple(name for name in RUNGS if name != "lstm")

# What a recording may have been through on its way: G.711 and GSM at 8 kHz, the others at the recording's own rate.
CODECS = ("mulaw", "gsm", "mp3", "opus", "vorbis")

# What stays on one side when recordings are split, and what of a manifest can be measured.
SplitBy = Literal["source", "speaker", "file"]
SPLIT_BY: tuple[SplitBy, ...] = ("source", "speaker", "file")
MeasuredSplit = Literal["train", "dev", "all"]
SPLITS: tuple[MeasuredSplit, ...] = ("train", "dev", "all")
