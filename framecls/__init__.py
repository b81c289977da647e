"""framecls: audio frame classification with self-attention.

    import framecls

    framecls.tag("a.wav").segments
    framecls.identify("a.wav", top_k=3).label
    model = framecls.load("sound")

Importing this imports no torch: `load`, `tag`, `identify` and `Model`, say, bring it in when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from framecls._version import __version__
from framecls.checkpoints.registry import names as models
from framecls.errors import (
    AudioError,
    ConfigError,
    FrameclsError,
    GalleryError,
    ManifestError,
    ModelError,
    UsageError,
)
from framecls.results import (
    Alignment,
    AudioInfo,
    Candidate,
    Identification,
    Segment,
    StringResult,
    TagResult,
    TieredResult,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from framecls.audio import Source
    from framecls.model import Model, ModelGroup, load, load_group
    from framecls.report import TrainingReport

__all__ = [
    "Alignment", "AudioError", "AudioInfo", "Candidate", "ConfigError", "FrameclsError", "GalleryError",
    "Identification", "ManifestError", "Model", "ModelError", "ModelGroup", "Segment", "StringResult", "TagResult",
    "TieredResult", "TrainingReport", "UsageError", "__version__", "embed", "enroll", "identify", "load", "load_group",
    "models", "tag", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in {"Model", "ModelGroup", "load", "load_group"}:
        from framecls import model as runtime

        return getattr(runtime, name)
    if name == "TrainingReport":
        from framecls.report import TrainingReport

        return TrainingReport
    raise AttributeError(f"module 'framecls' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the names to complete, those that are imported when first used among them."""
    return sorted({*globals(), *__all__})


@overload
def tag(
    source: Source, model: str | Path = "sound", *, models: None = None, device: str = "auto", **options: Any
) -> TagResult: ...


@overload
def tag(source: Source, *, models: Sequence[str | Path], device: str = "auto", **options: Any) -> TieredResult: ...


def tag(
    source: Source,
    model: str | Path = "sound",
    *,
    models: Sequence[str | Path] | None = None,
    device: str = "auto",
    **options: Any,
) -> TagResult | TieredResult:
    """Load a model and say what is heard when in one recording; options are those of `Model.tag`.

    With `models` all of these hear it, while it is decoded once; options are those of `ModelGroup.tag`. For more than
    one recording, `load` or `load_group` once.
    """
    from framecls.model import load, load_group

    if models is not None:
        return load_group(models, device=device).tag(source, **options)
    return load(model, device=device).tag(source, **options)


def identify(source: Source, model: str | Path = "language", *, device: str = "auto", **options: Any) -> Identification:
    """Load a model and give one recording one label; options are those of `Model.identify`.

    For more than one recording, `load` the model once.
    """
    from framecls.model import load

    return load(model, device=device).identify(source, **options)


def embed(
    source: Source, model: str | Path = "speaker", *, device: str = "auto", **options: Any
) -> NDArray[np.float32]:
    """Load a model of voices and return (number,) the unit vector of one; options are those of `Model.embed`."""
    from framecls.model import load

    return load(model, device=device).embed(source, **options)


def enroll(
    name: str, sources: Sequence[Source], model: str | Path = "speaker", *, device: str = "auto", **options: Any
) -> list[str]:
    """Load a model of voices and enroll somebody's, for `identify`; options and result are those of `Model.enroll`."""
    from framecls.model import load

    return load(model, device=device).enroll(name, sources, **options)


def train(data: Any, task: str = "identify", output: str | Path | None = None, **options: Any) -> Model:
    """Train a model on labelled recordings and load it; its `report` says what it is worth.

    Args:
        data: a manifest or folder, as for the command; a list of rows (mappings with `file`, `label` and what else a
            manifest may have, or pairs of file and label); or a pandas data frame of such rows.
        task: "identify" for a model of one label a recording, "tag" for one of what is heard when.
        output: the model file to write; None: the model is only returned.
        options: those of the command: preset, recipe, settings (such as ["optim.seed=1"]), precision, exclusive, init,
            tier, annotation, split_by, device, and progress, which is told what is done, how much of how much.

    Raises:
        UsageError: there is no such task or option.
        FrameclsError: the data cannot be used.
    """
    import tempfile
    from pathlib import Path

    from framecls.model import load
    from framecls.training.api import TrainingOptions, train_model

    try:
        asked = TrainingOptions(**options)
    except TypeError as error:
        raise UsageError(f"framecls.train: {error}") from None
    with tempfile.TemporaryDirectory(prefix="framecls-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / f"{task}.safetensors" if output is None else Path(output)
        report = train_model(data, task, path, asked)  # type: ignore[arg-type]
        model = load(path, device=asked.device)
    model.report = report
    return model
