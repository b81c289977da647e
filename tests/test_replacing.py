"""A file is replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from framecls.replacing import replacing


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert [(item.name, item.read_text()) for item in path.parent.iterdir()] == [("a.txt", "whole")]


@pytest.mark.parametrize("made", [True, False])
def test_what_fails_leaves_the_file_as_it_was(made: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def replace() -> None:
        with replacing(path) as temporary:
            if made:
                temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace()
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("a.txt", "before")]
