"""Numbers on the command line: what is none is told in the same words by every option."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from framecls.errors import UsageError

_MOST_SHOWN = 40  # characters
_WHOLE = re.compile(r"[+-]?\d{1,15}", re.ASCII)
_UNITS_S = {"ms": 1e-3, "s": 1.0, "": 1.0}
_CLOCK = re.compile(r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,2}(?:\.\d*)?)", re.ASCII)


def parse_whole(option: str) -> Callable[[Any], Any]:
    """Return what reads the value of an option that is a whole number."""

    def number(value: Any) -> Any:
        if not isinstance(value, str):  # a default
            return value
        if not _WHOLE.fullmatch(value.strip()):
            raise UsageError(f"{option} {value[:_MOST_SHOWN]}: a whole number is expected")
        return int(value)

    return number


def parse_seconds(option: str) -> Callable[[Any], Any]:
    """Return what reads the value of an option that is a length of time: 1.5, 1.5s, 500ms, 1:30 or 1:00:00."""

    def seconds(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = value.strip()
        if clock := _CLOCK.fullmatch(text):
            hours, minutes, rest = clock.groups(default="0")
            return 3600.0 * int(hours) + 60.0 * int(minutes) + float(rest)
        unit = "ms" if text.endswith("ms") else "s" if text.endswith("s") else ""
        try:
            return float(text.removesuffix(unit)) * _UNITS_S[unit]
        except ValueError:
            shown = value[:_MOST_SHOWN]
            raise UsageError(f"{option} {shown}: a length of time in seconds is expected: 1.5, 500ms or 1:30") from None

    return seconds
