"""The report of a training run: what `framecls.train` returns with the model, and keeps as JSON beside the file.

`MODEL.report.json` lies beside MODEL. Every figure in it is of clips that were held out: no network that gave a score
to a clip had learnt from it, or from another recording of its speaker or source.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from framecls.config import from_dict
from framecls.errors import ModelError, OutputError
from framecls.replacing import replacing

_VERSION = 1
_STEPS = 255  # a score is kept to a 255th


@dataclass(frozen=True)
class Figure:
    """A figure of all clips held out, and how it differs from fold to fold."""

    mean: float
    spread: float = 0.0  # standard deviation over the folds; 0 of a single one


@dataclass(frozen=True)
class Epoch:
    """A pass over the training clips of one fold."""

    fold: int  # from 1; 0: the final model, which learns from everything and is measured on nothing
    epoch: int  # 0: before the first step
    loss: float | None  # the mean of its steps
    score: float | None = None  # on the clips held out, as `TrainingReport.epoch_score_name`; None: not measured


@dataclass(frozen=True)
class LabelFigures:
    """What is known of one label."""

    clips: int
    groups: int  # speakers or sources that they come from; recordings where neither is named
    seconds: float  # for which it holds
    precision: Figure
    recall: Figure
    f1: Figure
    threshold: float | None = None  # from which the model counts it; None: the likeliest label is the answer
    verdict: str = ""  # in words


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A clip, or a span of a file, and what a network that had not heard it says of it."""

    file: str  # path on disk
    fold: int  # from 1, in which it was held out
    scores: NDArray[np.float32]  # probabilities: (label,) of a pooled task, (frame, label) of a frame task
    start_s: float = 0.0  # of the span in the file; times of `spans` count from here
    duration_s: float = 0.0
    spans: tuple[
        tuple[str, float, float], ...
    ] = ()  # the truth: label, start and end in seconds; pooled: one, all of it

    @property
    def label(self) -> str:
        """The true label of a clip of a pooled task."""
        return self.spans[0][0]


@dataclass(frozen=True)
class TrainingPoint:
    """A point of the curves of a training run."""

    step: int
    loss: float  # mean since the point before
    score: float | None  # on dev, if it was measured


@dataclass(frozen=True)
class CurvePoint:
    """A point of the learning curve."""

    share: float  # of the training clips, 0..1
    clips: int
    score: Figure


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """How a model was trained, and how good it is on what it has not heard."""

    model: str
    task: Literal["frame", "pooled"]
    labels: tuple[str, ...]
    overlapping: bool
    hop_s: float  # from one frame of `HeldOut.scores` to the next
    way: str  # how it was trained, in words
    split: str  # how clips were held out, in words
    score_name: str  # such as "balanced accuracy on clips held out"
    score: Figure
    folds: tuple[float, ...]  # the score of each fold
    seconds: float  # that training took
    label_figures: dict[str, LabelFigures]
    confusion: NDArray[np.int64]  # (true label, predicted label) clips, or frames of a frame task; overlapping: the
    # last row and column are "none of these"
    epochs: tuple[Epoch, ...] = ()
    curve: tuple[CurvePoint, ...] = ()  # the score by how much was learnt from; the last point is all of it
    held_out: tuple[HeldOut, ...] = ()
    verdict: tuple[str, ...] = ()  # sentences for a person
    figures: dict[str, Any] = field(default_factory=dict)  # further plain numbers
    epoch_score_name: str = ""  # what the scores of epochs are; empty: `score_name`

    def save(self, path: Path) -> None:
        """Write the report as JSON; scores as base64 of bytes, 255 times the probability, row by row.

        Raises:
            OutputError: it cannot be written.
        """
        data = {"framecls_report": _VERSION, **asdict(self)}
        data["confusion"] = self.confusion.tolist()
        data["held_out"] = [
            asdict(clip) | {"scores": _pack(clip.scores), "shape": list(clip.scores.shape)} for clip in self.held_out
        ]
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}") from error

    def save_page(self, path: Path) -> None:
        """Write the report as a page to look at and to listen to, one HTML file that needs nothing else.

        Raises:
            OutputError: it cannot be written.
        """
        from framecls.output.report import write_report

        write_report(self, Path(path))

    def _repr_html_(self) -> str:
        from framecls.output.notebook import framed
        from framecls.output.report import report_page

        return framed(report_page(self))


def report_path(model: Path) -> Path:
    """Return where the report of a model file lies."""
    return model.with_name(f"{model.stem}.report.json")


def page_path(model: Path) -> Path:
    """Return where the page that shows the report of a model file lies."""
    return report_path(model).with_suffix(".html")


def load_report(path: Path) -> TrainingReport:
    """Read a report that `TrainingReport.save` wrote.

    Raises:
        ModelError: it cannot be read, or is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("framecls_report") != _VERSION:
            raise ModelError(f"{path}: a report of another version of framecls")
        return _parse(data)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a report of training, or damaged") from error


def _parse(data: dict[str, Any]) -> TrainingReport:
    labels = {label: from_dict(LabelFigures, row) for label, row in data["label_figures"].items()}
    held_out = []
    for row in data["held_out"]:
        scores = _unpack(row.pop("scores"), row.pop("shape"))
        spans = tuple((str(label), float(start), float(end)) for label, start, end in row.pop("spans"))
        held_out.append(HeldOut(**row, scores=scores, spans=spans))
    return TrainingReport(
        **data
        | {
            "labels": tuple(data["labels"]),
            "score": from_dict(Figure, data["score"]),
            "folds": tuple(data["folds"]),
            "label_figures": labels,
            "confusion": np.array(data["confusion"], np.int64),
            "epochs": tuple(from_dict(Epoch, row) for row in data["epochs"]),
            "curve": tuple(from_dict(CurvePoint, row) for row in data["curve"]),
            "held_out": tuple(held_out),
            "verdict": tuple(data["verdict"]),
        }
    )


def _pack(scores: NDArray[np.float32]) -> str:
    steps = (scores.clip(0, 1) * _STEPS).round().astype(np.uint8)
    return base64.b64encode(steps.tobytes()).decode("ascii")


def _unpack(text: str, shape: list[int]) -> NDArray[np.float32]:
    steps = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return np.asarray(steps.reshape(shape) / _STEPS, np.float32)
