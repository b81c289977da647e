"""Read and parse small files of text or settings, which may come from anybody, in bounded time and memory."""

from __future__ import annotations

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from framecls.errors import ConfigError

# A recipe, or the settings of an encoder, has a few kilobytes.
_MOST_BYTES = 2**18
# Tables are nested three deep. The time and memory of Python's parser grow with the square of the depth: half a minute
# and 4 GB for a name of 64 kB.
_MOST_PARTS = 32
_DEEP_NAME = re.compile(
    rf"""(?<![\w"'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_MOST_PARTS}}}""",
)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: it cannot be read, or is malformed; the message names the file.
    """
    text = read_text(path)
    try:
        return parse_toml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ConfigError: it cannot be read, or is malformed; the message names the file.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: cannot be read: values nested too deep") from None
    except ValueError as error:  # also of a number of too many digits
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        ConfigError: it is no TOML, or nested deeper than any settings are.
    """
    if _DEEP_NAME.search(text):
        raise ConfigError(f"a name of more than {_MOST_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError("values nested too deep") from None
    except ValueError as error:  # also of a number of too many digits
        raise ConfigError(str(error)) from None


def read_text(path: Path, kind: str = "a file of settings") -> str:
    """Return the text of a small file.

    Args:
        path: of the file, in UTF-8, with or without a mark of byte order.
        kind: what it should be, for messages.

    Raises:
        ConfigError: it cannot be read, or is no text; the message names the file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe may never end
            raise ConfigError(f"{path}: not {kind}")
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: larger than {_MOST_BYTES // 1024} kB: this is not {kind}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: cannot be read: it is no UTF-8 text") from None
