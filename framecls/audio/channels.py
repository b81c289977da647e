"""One channel of a recording as a recording of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of a source, counted from 1; wherever the source can be opened, so can this."""

    source: Any  # whatever `open_audio` opens
    number: int
