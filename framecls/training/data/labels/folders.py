"""A folder for each label, with the recordings (or feature arrays) that have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framecls.errors import ManifestError
from framecls.training.data.labels.rows import Found, Row, splits_of_folders, top_folders


def read_folders(root: Path, files: Sequence[Path]) -> Found:
    """Read the folder of each file as its label.

    Folders above the labels may be splits (`train/dog/1.wav`), folders below them are speakers (`dog/ann/1.wav`).

    Raises:
        ManifestError: some files lie in no folder.
    """
    found = Found("a folder for each label")
    tops = top_folders(files, root)
    splits = splits_of_folders(set(tops))
    if left := sorted(name for name, split in splits.items() if split is None):
        found.notes.append(f"left out: {', '.join(left)}, since there is a dev folder too")
    has_speakers = False
    for file, top in zip(files, tops, strict=True):
        split = splits.get(top)
        if splits and split is None:
            continue
        folders = file.relative_to(root).parts[1 if splits else 0 : -1]
        if not folders:
            beside = file.with_suffix(".txt")
            empty = f" ({beside.name} has no labels in it)" if beside.is_file() else ""
            raise ManifestError(
                f"recordings such as {file.name} lie in no folder that could be their label: give a manifest, a folder "
                f"for each label, or label files beside the recordings{empty}"
            )
        has_speakers = has_speakers or len(folders) > 1
        found.add(Row(file, folders[0], str(file.relative_to(root)), speaker="/".join(folders[1:]), split=split))
    if has_speakers:
        found.notes.append("folders inside those of the labels are taken for speakers")
    return found
