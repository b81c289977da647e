"""Numbers, times and names as text, for machines and for people."""

from __future__ import annotations

import re

TIME_DIGITS = 6
SCORE_DIGITS = 4

_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def decimal(value: float, digits: int) -> str:
    """Return a number with at most `digits` decimals, without an exponent or trailing zeros."""
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def seconds(value: float) -> str:
    """Return a time in seconds for a file, to the microsecond at most."""
    return decimal(value, TIME_DIGITS)


def score(value: float) -> str:
    """Return a probability for a file."""
    return decimal(value, SCORE_DIGITS)


def clock(time_s: float, digits: int = 2) -> str:
    """Return a time for people: `m:ss.ss`, from an hour on `h:mm:ss.ss`."""
    # Rounded once, as a whole: 59.999 is 1:00.00 and never 0:60.00.
    ticks = round(time_s * 10**digits)
    whole, rest = divmod(ticks, 10**digits)
    minutes, sec = divmod(whole, 60)
    hours, minutes_left = divmod(minutes, 60)
    fraction = f".{rest:0{digits}d}" if digits else ""
    if hours:
        return f"{hours}:{minutes_left:02d}:{sec:02d}{fraction}"
    return f"{minutes}:{sec:02d}{fraction}"


def length(time_s: float) -> str:
    """Return a stretch of time for people: `6.28 s`, from a minute on as `clock` has it."""
    return f"{time_s:.2f} s" if round(time_s, 2) < 60 else clock(time_s)


def encodable(name: str) -> str:
    """Write bytes of a file name that are no UTF-8 as `\\udcff`, so that the text can be encoded."""
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", name)


def one_line(name: str) -> str:
    """Return text for a format with one record a line: white space of any kind becomes a single space."""
    return " ".join(encodable(name).split())


def printable(name: str, encoding: str) -> str:
    """Return text that a terminal of this encoding shows as it stands.

    Line breaks and control characters are escaped: a file name must not move the cursor, colour the screen or fail to
    print.
    """
    shown = "".join(c if c.isprintable() else _escape(c) for c in name)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return _ESCAPES.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
