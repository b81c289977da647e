"""Every failure that a user can cause, mend, or must hear of.

The command line turns a `FrameclsError` into one line on stderr; anything else is a bug.
"""

from __future__ import annotations


class FrameclsError(Exception):
    """A failure whose message says what is wrong and what to do."""


class UsageError(FrameclsError):
    """An option or argument that no input could make right (exit status 2)."""


class AudioError(FrameclsError):
    """An input that cannot be found, read or decoded."""


class OutputError(FrameclsError):
    """Results cannot be kept where they were to go, and the next ones could not either: no room, or no such place."""


class ModelError(FrameclsError):
    """A model file that cannot be found, or that is not what it claims to be."""


class ConfigError(FrameclsError, ValueError):
    """A setting outside its range, or a name that no setting has."""


class ManifestError(FrameclsError):
    """A training list that cannot be used as it stands."""


class GalleryError(FrameclsError):
    """A file of enrolled voices that cannot be used, or that does not have what was asked of it."""
