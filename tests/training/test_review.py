"""What `framecls evaluate --report` shows is what was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from framecls.inference.engine import load_engine
from framecls.report import TrainingReport
from framecls.training.metrics.evaluate import Test as Measurement
from framecls.training.metrics.evaluate import evaluate
from framecls.training.metrics.report import Outputs
from framecls.training.metrics.review import _confuse
from support.commands import Cli
from support.models import tiny_config
from support.signals import write_wav

ROWS = {
    "tag": [
        {"file": "a.wav", "label": "speech", "start": 0.0, "end": 1.0, "speaker": "x"},
        {"file": "a.wav", "label": "music", "start": 0.5, "end": 2.0, "speaker": "x"},
        {"file": "b.wav", "label": "noise", "speaker": "y"},
    ],
    "identify": [
        {"file": "a.wav", "label": "de", "speaker": "x"},
        {"file": "b.wav", "label": "en", "speaker": "y"},
        {"file": "c.wav", "label": "fr", "speaker": "y"},
    ],
}


def write_manifest(folder: Path, task: str) -> Path:
    for name in "abc":
        write_wav(folder / f"{name}.wav", 3.0)
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[task]))
    return path


def review_of(model: str, manifest: Path) -> tuple[TrainingReport, dict[str, object]]:
    report = evaluate(load_engine(model, device="cpu"), Measurement(manifest, manifest.parent / "cache", split="all"))
    assert report.review is not None
    return report.review, report.figures


def test_frames(tag_model: str, tmp_path: Path) -> None:
    found, figures = review_of(tag_model, write_manifest(tmp_path, "tag"))
    assert [clip.spans for clip in found.held_out] == [
        (("speech", 0.0, 1.0), ("music", 0.5, 2.0)),
        (("noise", 0.0, 3.0),),
    ]
    assert {clip.scores.shape for clip in found.held_out} == {(150, 3)}
    assert found.confusion.shape == (4, 4)
    assert found.label_figures["music"].seconds == 1.5
    assert found.label_figures["noise"].clips == found.label_figures["noise"].groups == 1
    # The model says speech always, and noise never.
    assert found.label_figures["speech"].recall.mean == 1
    assert found.label_figures["noise"].f1.mean == 0
    assert found.confusion[:, 2].tolist() == [0, 0, 0, 0]
    assert found.confusion[0, 0] == 50
    assert found.score.mean == pytest.approx(
        np.mean([row["f1"] for row in figures["labels"].values()]), abs=1e-3  # type: ignore[attr-defined]
    )  # fmt: skip


def test_clips(identify_model: str, tmp_path: Path) -> None:
    found, figures = review_of(identify_model, write_manifest(tmp_path, "identify"))
    assert [clip.label for clip in found.held_out] == ["de", "en", "fr"]
    right = [found.labels[int(clip.scores.argmax())] == clip.label for clip in found.held_out]
    assert figures["accuracy"] == round(float(np.mean(right)), 4)
    assert np.diag(found.confusion).sum() == sum(right)
    assert found.confusion.sum() == 3
    for clip in found.held_out:
        assert clip.scores.sum() == pytest.approx(1)


def test_where_labels_overlap_what_is_missed_is_taken_for_what_is_said() -> None:
    config = tiny_config("frame")  # speech is said always, noise never, music from a half on
    logits = np.array([[0, 5, 0], [0, -5, 0], [0, 5, 0], [0, -5, 0]], np.float32)
    truth = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0]], bool)
    # Right; speech for noise; both of nothing; music missed, and nothing said wrongly.
    expected = [[2, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert _confuse(Outputs(logits, truth), config).tolist() == expected


@pytest.mark.parametrize("task", ["tag", "identify"])
def test_command(task: str, tag_model: str, identify_model: str, cli: Cli, tmp_path: Path) -> None:
    manifest, page = write_manifest(tmp_path, task), tmp_path / "how.html"
    model = tag_model if task == "tag" else identify_model
    answer = cli("evaluate", model, manifest, "--split", "all", "--device", "cpu", "-f", "json", "--report", page)
    assert answer.status == 0, answer.err
    assert f"{page}: written" in answer.err
    text = page.read_text(encoding="utf-8")
    words = re.sub("<[^>]*>", " ", text)
    assert f"{answer.records[0]['score']:.3f}" in words
    assert "all of" in words
    assert text.count("<audio") >= 1


def test_timelines_have_no_page(identify_model: str, cli: Cli, tmp_path: Path) -> None:
    answer = cli("evaluate", identify_model, "m.csv", "--timeline", "--report", tmp_path / "how.html")
    assert (answer.status, "leave --timeline out" in answer.err) == (2, True)


def test_a_page_is_html(tag_model: str, cli: Cli, tmp_path: Path) -> None:
    answer = cli("evaluate", tag_model, "m.csv", "--report", tmp_path / "how.pdf")
    assert (answer.status, "name it .html" in answer.err) == (2, True)
    answer = cli("evaluate", tag_model, tmp_path / "m.html", "--report", tmp_path / "m.html")
    assert (answer.status, "this is the manifest" in answer.err) == (2, True)
