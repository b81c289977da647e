"""Format numbers, times and names, for files and for people."""

from __future__ import annotations

import re
import unicodedata

TIME_DIGITS = 6
SCORE_DIGITS = 4

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # how a formula of a spreadsheet begins


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


def clock(time_s: float, digits: int = 2, *, with_hours: bool = False) -> str:
    """Return a time for people: `m:ss.ss`, with hours or from one on `h:mm:ss.ss`."""
    # Rounded once, as a whole: 59.999 is 1:00.00 and never 0:60.00.
    ticks = round(time_s * 10**digits)
    whole, rest = divmod(ticks, 10**digits)
    fraction = f".{rest:0{digits}d}" if digits else ""
    if with_hours or whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}{fraction}"
    return f"{whole // 60}:{whole % 60:02d}{fraction}"


def hms(time_s: float) -> str:
    """Return a length of time for a message: `h:mm:ss`."""
    return clock(time_s, 0, with_hours=True)


def about(time_s: float) -> str:
    """Return an estimate of a length of time: `3 h 10 min`, `4 min`, `20 s`."""
    if time_s < 55:
        return f"{max(5, 5 * round(time_s / 5))} s"
    minutes = round(time_s / 60)
    minutes = minutes if minutes < 60 else 5 * round(minutes / 5)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def length(time_s: float) -> str:
    """Return a length of time for people: `6.28 s`, from a minute on as `clock`."""
    return f"{time_s:.2f} s" if round(time_s, 2) < 60 else clock(time_s)


def encodable(name: str) -> str:
    """Return text with bytes that are no UTF-8 written as `\\udcff`, so that it can be encoded."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def without_controls(text: str, keep: str = "") -> str:
    """Return text for a file: control characters, and what cannot be encoded, as escapes.

    Args:
        text: of any characters.
        keep: control characters that the format has a place for.
    """
    return _CONTROL.sub(lambda match: match[0] if match[0] in keep else _escape(match[0]), encodable(text))


def field(text: str) -> str:
    """Return text for a format with one record a line: white space of any kind becomes a single space."""
    return without_controls(" ".join(text.split()))


def cell(text: str) -> str:
    """Return text for a cell of a csv table, which quotes line ends and tabs.

    What a spreadsheet would take for a formula gets an apostrophe before it. The lone `-` is the name of standard
    input, and no formula.
    """
    text = without_controls(text, keep="\t\n\r")
    return f"'{text}" if text.startswith(_FORMULA) and text != "-" else text


def escape(text: str) -> str:
    """Return text that is safe on a terminal: line ends, control characters and undecodable bytes as escapes.

    A file name must not move the cursor, colour the screen, reverse the direction of text or fail to print.
    """
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escape(c) for c in text)


def one_line(text: str) -> str:
    """Return text for a message: every run of white space as one space, and escaped."""
    return escape(" ".join(text.split()))


def reason(error: BaseException) -> str:
    """Return in one line what an exception says, or of what type it is; of a long text the beginning."""
    return shorten(one_line(str(error)) or type(error).__name__)


def shorten(text: str, most: int = 200) -> str:
    """Return text, or the first characters of one that is longer."""
    return text if len(text) <= most else f"{text[:most]} …"


def printable(name: str, encoding: str) -> str:
    """Return escaped text, with characters that an encoding lacks as escapes too."""
    return escape(name).encode(encoding, "backslashreplace").decode(encoding)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
