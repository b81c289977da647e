"""Some cases of `fuzz_state.py`, the same in every run: FUZZ_EXAMPLES=5000 for more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")

if hasattr(os, "mkfifo"):
    from fuzz_state import TARGETS, do_case, workshop
else:
    TARGETS = {}

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    with workshop() as folder:
        yield folder


@pytest.mark.parametrize("target", TARGETS)
def test_state_files_that_were_changed_at_random(target: str, made: Path) -> None:
    for number in range(EXAMPLES):
        do_case(target, number, made)
