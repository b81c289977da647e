"""Praat TextGrids, in the long and the short text form."""

from __future__ import annotations

import re
from pathlib import Path

from framecls.errors import ManifestError
from framecls.training.data.labels.rows import MAX_SECONDS, read_text

ALL_TIERS = "*"

Interval = tuple[float, float, str]  # start and end in seconds, text

# The last thing in a whole file is a quoted text, or the size of an empty tier.
_END = re.compile(r'("|(size = |"\s+\S+\s+\S+\s+)0)\s*$')


def read_textgrid(path: Path) -> dict[str, list[Interval]]:
    """Read the interval tiers of a TextGrid, without empty intervals; tiers of points are left out.

    Raises:
        ManifestError: it is no TextGrid in text form, or is cut short.
    """
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    text = read_text(path)
    if "TextGrid" not in text[:200]:
        raise ManifestError("not a TextGrid in text form (Praat: Save as text file)")
    if text.count('"') % 2 or not _END.search(text):
        raise ManifestError("not a TextGrid, or cut short")
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False, reportingMode="silence")
    except (PraatioException, IndexError, ValueError) as error:
        raise ManifestError(f"not a TextGrid, or damaged ({type(error).__name__})") from None
    tiers = {tier.name: [(*entry[:2], entry[2].strip()) for entry in tier.entries] for tier in _intervals(grid.tiers)}
    for start_s, end_s, _ in (interval for intervals in tiers.values() for interval in intervals):
        if not -MAX_SECONDS < start_s < end_s < MAX_SECONDS:
            raise ManifestError(f"not a TextGrid: an interval from {start_s:g} to {end_s:g} s")
    return tiers
