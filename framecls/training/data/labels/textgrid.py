"""Praat TextGrids, in the long and the short text form, which are the same but for words that Praat itself skips."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from framecls.errors import ManifestError

ALL_TIERS = "*"

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|!.*|(\S+)')
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?%?")


@dataclass(frozen=True)
class Tier:
    """A row of intervals; those without a text are left out."""

    name: str
    intervals: tuple[tuple[float, float, str], ...]  # start and end in seconds, text


class _Tokens:
    """The free-standing numbers and quoted texts of a file, in order: all that its meaning hangs on."""

    def __init__(self, text: str) -> None:
        self._values = self._scan(text)

    @staticmethod
    def _scan(text: str) -> Iterator[str | float]:
        for match in _TOKEN.finditer(text):
            if match[1] is not None:
                yield match[1].replace('""', '"')
            elif match[2] and _NUMBER.fullmatch(match[2]):
                value = float(match[2].rstrip("%"))
                if not abs(value) < 1e9:
                    raise ManifestError(f"not a TextGrid: {match[2][:20]} is no time and no count")
                yield value

    def number(self) -> float:
        value = next(self._values, None)
        if not isinstance(value, float):
            raise ManifestError("not a TextGrid, or cut short: a number is missing")
        return value

    def text(self) -> str:
        value = next(self._values, None)
        if not isinstance(value, str):
            raise ManifestError("not a TextGrid, or cut short: a text is missing")
        return value


def parse_textgrid(text: str) -> list[Tier]:
    """Return the interval tiers of a TextGrid; tiers of points label no stretch and are left out.

    Raises:
        ManifestError: it is no TextGrid in text form.
    """
    tokens = _Tokens(text)
    if "TextGrid" not in (tokens.text(), tokens.text()):
        raise ManifestError("not a TextGrid in text form (Praat: Save as text file)")
    tokens.number(), tokens.number()
    tiers = []
    for _ in range(int(tokens.number())):
        kind, name = tokens.text(), tokens.text()
        tokens.number(), tokens.number()
        size = int(tokens.number())
        if kind == "IntervalTier":
            intervals = [(tokens.number(), tokens.number(), tokens.text().strip()) for _ in range(size)]
            tiers.append(Tier(name, tuple(interval for interval in intervals if interval[2])))
        else:
            for _ in range(size):
                tokens.number(), tokens.text()
    return tiers


def choose_tier(tiers: list[Tier], wanted: str | None) -> list[tuple[float, float, str]]:
    """Return the intervals of the tier that is wanted, or of the only one.

    Raises:
        ManifestError: there is no such tier, or there are several and none is named.
    """
    names = ", ".join(tier.name for tier in tiers)
    if wanted == ALL_TIERS:
        return sorted(interval for tier in tiers for interval in tier.intervals)
    chosen = tiers if wanted is None else [tier for tier in tiers if tier.name == wanted]
    if len(chosen) > 1 and wanted is None:
        raise ManifestError(f"it has several tiers, choose one with --tier: {names} (or all: --tier '{ALL_TIERS}')")
    if not chosen:
        raise ManifestError(f"no interval tier {wanted!r}; it has {names}" if tiers else "there is no interval tier")
    return sorted(interval for tier in chosen for interval in tier.intervals)
