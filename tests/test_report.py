"""The report of a training run, written and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from framecls.errors import ModelError
from framecls.report import CurvePoint, Epoch, Figure, HeldOut, LabelFigures, TrainingReport, load_report, report_path


def make_report() -> TrainingReport:
    """Return a report of two labels and three clips, with every field filled in."""
    some = Figure(0.5, 0.25)
    scores = np.array([[0.0, 1.0], [0.2, 0.8], [1.0, 0.4]], np.float32)
    clips = [
        HeldOut(f"{n}.wav", n % 2 + 1, scores[: n + 1], 1.5, 3.0, (("frog", 0.0, 1.0), ("owl", 0.5, 3.0)))
        for n in range(3)
    ]
    return TrainingReport(
        model="birds",
        task="frame",
        labels=("frog", "owl"),
        overlapping=True,
        hop_s=0.04,
        way="a head on a frozen encoder",
        split="three folds",
        score_name="mean F1 on clips held out",
        score=some,
        folds=(0.25, 0.75),
        seconds=12.0,
        label_figures={label: LabelFigures(9, 3, 40.0, some, some, some, 0.4, "good") for label in ("frog", "owl")},
        confusion=np.array([[3, 1, 0], [0, 4, 2], [1, 1, 9]]),
        epochs=(Epoch(1, 1, 0.9, 0.4), Epoch(0, 1, 0.8)),
        curve=(CurvePoint(0.5, 4, some), CurvePoint(1.0, 9, some)),
        held_out=tuple(clips),
        verdict=("frog: 9 clips, F1 0.41: record 20 more",),
        figures={"encoder": "language"},
    )


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    report, path = make_report(), report_path(tmp_path / "birds.safetensors")
    assert path.name == "birds.report.json"
    report.save(path)
    again = load_report(path)
    same = [name for name in report.__dataclass_fields__ if name not in ("confusion", "held_out")]
    assert {name: getattr(again, name) for name in same} == {name: getattr(report, name) for name in same}
    assert np.array_equal(again.confusion, report.confusion)
    for clip, before in zip(again.held_out, report.held_out, strict=True):
        assert (clip.file, clip.fold, clip.start_s, clip.spans) == (before.file, before.fold, 1.5, before.spans)
        np.testing.assert_allclose(clip.scores, before.scores, atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"framecls_report": 1}', '{"framecls_report": 2}'])
def test_another_file_is_no_report(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.report.json"
    path.write_text(text)
    with pytest.raises(ModelError, match="report"):
        load_report(path)
