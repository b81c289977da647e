"""A corpus that tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.training import write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest of a small corpus."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))
