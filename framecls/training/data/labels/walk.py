"""List the files of a folder of recordings and labels."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from framecls.errors import ManifestError

# Other files that a folder may hold, and more for each recording: labels, texts, pictures. A whole disk has more;
# listing it ends early.
_MAX_OTHERS = 50_000
_OTHERS_EACH = 100


def list_files(root: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files under a folder, sorted, hidden ones left out. Links to folders are not followed.

    Args:
        root: the folder.
        suffixes: of the files that are looked for, in lower case with their dots.

    Raises:
        ManifestError: the folder cannot be read, or what is in it is mostly something else.
    """
    if root.resolve().parent == root.resolve():
        raise ManifestError("this is the whole disk: give the folder that holds the recordings")
    files: list[Path] = []
    n_wanted = 0
    try:
        os.scandir(root).close()  # os.walk passes over what cannot be read
        for folder, inside, names in os.walk(root):
            inside[:] = sorted(name for name in inside if not name.startswith("."))
            shown = [Path(folder, name) for name in names if not name.startswith(".")]
            n_wanted += sum(path.suffix.lower() in suffixes for path in shown)
            files += shown
            if len(files) - n_wanted > _MAX_OTHERS + _OTHERS_EACH * n_wanted:
                raise ManifestError(
                    f"{n_wanted or 'none'} of the first {len(files):,} files in this folder "
                    f"{'is a recording' if n_wanted < 2 else 'are recordings'}: give the folder that holds them"
                )
        return sorted(path for path in files if path.is_file())
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror}") from error
