"""The names of the output formats, without the writers: a usage error or a completion must not wait for numpy."""

from __future__ import annotations

from pathlib import PurePath

from framecls.errors import UsageError

TABLE = "table"
SVG = "svg"
TEXT = "text"
FOR_EYES = (TABLE, SVG)  # what rich draws; all other formats are `output.writers`

# Format -> suffix of a file that holds it; a test compares it with output.writers.
SUFFIXES: dict[str, str] = {
    TABLE: ".txt",
    SVG: ".svg",
    "json": ".json",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "tsv": ".tsv",
    TEXT: ".txt",
    "textgrid": ".TextGrid",
    "rttm": ".rttm",
    "audacity": ".txt",
    "vtt": ".vtt",
    "npz": ".npz",
    "parquet": ".parquet",
}
WITH_FRAMES = (*FOR_EYES, "json", "jsonl", "csv", "tsv", "npz")
NEED_FILE = ("npz", "parquet")
_ALL_FRAMES = ("npz",)  # holds every frame, with --frames or without
STREAMED = ("jsonl", "csv", "tsv", "rttm", "audacity")  # a segment can be written before the recording is over
_BY_SUFFIX = {suffix.casefold(): name for name, suffix in SUFFIXES.items()}


def choose_format(name: str | None, output: str | None, frames: bool = False) -> str:
    """Return the format that -f names, or else the one that the suffix of -o stands for.

    Raises:
        UsageError: there is no such format, none can be told from -o, or it does not go with the other options.
    """
    chosen = _pick(name, output)
    if chosen in NEED_FILE and output is None:
        raise UsageError(f"-f {chosen} is not for a terminal or a pipe: name a file or a folder with -o")
    if frames and chosen not in WITH_FRAMES:
        raise UsageError(f"--frames does not go with -f {chosen}: choose {', '.join(WITH_FRAMES)}")
    return chosen


def needs_frames(format: str, frames: bool) -> bool:
    """Whether a format, with --frames or without, holds the scores of every frame."""
    return frames or format in _ALL_FRAMES


def _pick(name: str | None, output: str | None) -> str:
    if name is not None:
        if name not in SUFFIXES:
            raise UsageError(f"-f {name}: there is no such format, choose {', '.join(SUFFIXES)}")
        return name
    if output is None:
        return TABLE
    suffix = PurePath(output).suffix.casefold()
    if output.endswith("/") or suffix not in _BY_SUFFIX:
        raise UsageError(f"-o {output}: name the format with -f: {', '.join(SUFFIXES)}")
    return _BY_SUFFIX[suffix]
