"""Praat TextGrids, in the long and the short text form."""

from __future__ import annotations

import re
from pathlib import Path

from framecls.errors import ManifestError
from framecls.training.data.labels.rows import MAX_SECONDS, read_text

ALL_TIERS = "*"

Interval = tuple[float, float, str]  # start and end in seconds, text

_N_TIERS = re.compile(r"<exists>\D+(\d+)")
# Class, name, two times, and how many entries a tier has. praatio reads as many as there are, also in a file cut short.
_N_ENTRIES = re.compile(r'"(?:Interval|Text)Tier"[^"]*"(?:[^"]|"")*"\D*[\d.eE+-]+\D+[\d.eE+-]+\D+(\d+)')


def read_textgrid(path: Path) -> dict[str, list[Interval]]:
    """Read the intervals of each interval tier of a TextGrid, without empty ones; point tiers are left out.

    Raises:
        ManifestError: it is no TextGrid in text form, or is cut short.
    """
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    text = read_text(path)
    if "TextGrid" not in text[:200]:
        raise ManifestError("not a TextGrid in text form (Praat: Save as text file)")
    try:
        grid = textgrid.openTextgrid(str(path), True, reportingMode="silence", duplicateNamesMode="rename")
    except (PraatioException, IndexError, ValueError) as error:
        raise ManifestError(f"not a TextGrid, or damaged ({type(error).__name__})") from None
    n_tiers, n_entries = _N_TIERS.search(text), [int(n) for n in _N_ENTRIES.findall(text)]
    if [len(tier.entries) for tier in grid.tiers] != n_entries or not n_tiers or int(n_tiers[1]) != len(n_entries):
        raise ManifestError("not a TextGrid, or cut short: it has not as many tiers and intervals as it says")
    tiers = {}
    for tier in grid.tiers:
        if isinstance(tier, textgrid.IntervalTier):
            tiers[tier.name] = [(entry.start, entry.end, entry.label.strip()) for entry in tier.entries]
            if any(not abs(time) < MAX_SECONDS for interval in tiers[tier.name] for time in interval[:2]):
                raise ManifestError("not a TextGrid: an interval has no time in seconds")
            tiers[tier.name] = [interval for interval in tiers[tier.name] if interval[2]]
    return tiers
