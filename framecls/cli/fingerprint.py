"""The fingerprint of a run: all that decides, besides the recording, what is written of an input."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from framecls._version import __version__
from framecls.checkpoints import registry
from framecls.cli.options import ClusterOptions, MachineOptions, MessageOptions, RunOptions
from framecls.config import ModelConfig

# Options that change no result, or that the fingerprint holds in another form. An option that is not named here counts:
# a new one makes a run do too much again, never too little.
_IGNORED = {f.name for o in (MessageOptions, MachineOptions, ClusterOptions) for f in dataclasses.fields(o)} | {
    "inputs",
    "model",
    "format",
    "output",
    "errors",
    "resume",
}


def take_fingerprint(options: RunOptions, format: str, models: Sequence[tuple[Path, ModelConfig]]) -> str:
    """Return a digest of the version, the options, the models and the gallery."""
    gallery = _digest_gallery(options) if any(config.embedding for _, config in models) else ""
    facts = {
        "version": __version__,
        "options": {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in _IGNORED},
        "format": format,
        "gallery": gallery,
        "models": [registry.digest_model(path) for path, _ in models],
        "text": _digest_text(options),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _digest_text(options: RunOptions) -> str:
    """Return a digest of the file that holds the text of --align."""
    align = getattr(options, "align", None) or ""
    return hashlib.sha256(Path(align[1:]).read_bytes()).hexdigest() if align.startswith("@") else ""


def _digest_gallery(options: RunOptions) -> str:
    """Return a digest of all enrolled voices: with one more, a recording may get another name.

    Raises:
        GalleryError: the gallery cannot be read.
    """
    from framecls.speakers.gallery import default_path, has_own_gallery, open_gallery  # numpy: once options are right

    digest = hashlib.sha256()
    path: Path | None = getattr(options, "gallery", None)
    if path is None and not has_own_gallery():  # with tag nobody need be enrolled
        return ""
    with open_gallery(path or default_path()) as gallery:
        for clip in gallery.clips():
            digest.update(json.dumps([clip.name, clip.model]).encode())
            digest.update(clip.vector.tobytes())
    return digest.hexdigest()
