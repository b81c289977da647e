"""The page of a report: what it shows, that nothing in it is fetched or runs, and that it plays."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from framecls.output.report import find_mistakes, read_snippet, report_page
from framecls.report import CurvePoint, Epoch, Figure, HeldOut, LabelFigures, TrainingReport
from support.browser import opened, wait_until
from support.signals import make_tone, write_wav

HOSTILE = "<b>bang & </script>'\""
LABELS = ("owl", HOSTILE, "frog")
HOP_S = 0.02


def label_figures() -> dict[str, LabelFigures]:
    rates = Figure(0.9, 0.05), Figure(0.8), Figure(0.85)
    return {label: LabelFigures(9, 3, 81.0, *rates, threshold=0.5, verdict="record 20 more") for label in LABELS}


def make_clip(folder: Path, name: str, duration_s: float = 4.0) -> Path:
    return write_wav(folder / name, duration_s)


@pytest.fixture
def frames(tmp_path: Path) -> TrainingReport:
    """Return the report of overlapping labels: an owl is missed for a second, and a hostile label is false for two."""
    scores = np.full((200, 3), 0.1, np.float32)
    scores[0:50, 0] = 0.9  # the owl lasts till 2 s
    scores[100:200, 1] = 0.7
    clip = HeldOut(str(make_clip(tmp_path, "a.wav")), 1, scores, 0.0, 4.0, (("owl", 0.0, 2.0),))
    return TrainingReport(
        model=f"birds {HOSTILE}",
        task="frame",
        labels=LABELS,
        overlapping=True,
        hop_s=HOP_S,
        way="a head",
        split="5 folds",
        score_name="mean F1",
        score=Figure(0.81, 0.02),
        folds=(0.8, 0.82),
        seconds=97.0,
        label_figures=label_figures(),
        confusion=np.arange(16).reshape(4, 4),
        epochs=tuple(Epoch(fold, n, 1 / n, 1 - 1 / n) for fold in (0, 1, 2) for n in (1, 2, 3)),
        curve=(CurvePoint(0.5, 50, Figure(0.7, 0.1)), CurvePoint(1.0, 100, Figure(0.81, 0.02))),
        held_out=(clip,),
        verdict=(f"{HOSTILE} cannot be trusted.",),
    )


@pytest.fixture
def clips(frames: TrainingReport, tmp_path: Path) -> TrainingReport:
    """Return the report of clips: three right ones, and two wrong ones, the last one the worst."""
    held_out = []
    for number, (label, scores) in enumerate(
        [
            ("owl", (0.8, 0.1, 0.1)),
            (HOSTILE, (0.2, 0.7, 0.1)),
            ("frog", (0.1, 0.1, 0.8)),
            ("owl", (0.3, 0.1, 0.6)),
            ("frog", (0.0, 0.99, 0.01)),
        ]
    ):
        file = make_clip(tmp_path, f"{number}.wav", 1.5)
        held_out.append(HeldOut(str(file), 1, np.array(scores, np.float32), 0.0, 1.5, ((label, 0.0, 1.5),)))
    confusion = np.array([[1, 0, 1], [0, 1, 0], [0, 1, 1]])
    return replace(frames, task="pooled", overlapping=False, held_out=tuple(held_out), confusion=confusion)


class Elements(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_mistakes_of_frames(frames: TrainingReport) -> None:
    false, missed = sorted(find_mistakes(frames), key=lambda mistake: mistake.true)
    assert (missed.true, missed.said, missed.start_s, missed.end_s) == ("owl", "", 1.0, 2.0)
    assert (false.true, false.said, false.start_s, false.end_s) == ("", HOSTILE, 2.0, 4.0)
    assert false.weight == pytest.approx(100 * 0.7, rel=1e-3)
    assert missed.weight == pytest.approx(50 * 0.9, rel=1e-3)


def test_mistakes_of_clips_are_those_it_was_surest_of(clips: TrainingReport) -> None:
    found = find_mistakes(clips)
    assert [(Path(m.clip.file).name, m.true, m.said) for m in found] == [
        ("4.wav", "frog", HOSTILE),
        ("3.wav", "owl", "frog"),
    ]


def test_exclusive_frames_without_a_label_are_no_mistakes(frames: TrainingReport) -> None:
    found = find_mistakes(replace(frames, overlapping=False))
    # From 1 to 2 s all labels are as likely, and the first, the owl, is the answer; from 2 s on nothing is known.
    assert found == []


def test_a_clip_comes_once_before_any_comes_twice(frames: TrainingReport, tmp_path: Path) -> None:
    [clip] = frames.held_out
    other = replace(clip, file=str(make_clip(tmp_path, "b.wav")), scores=clip.scores * 0.9)
    found = find_mistakes(replace(frames, held_out=(clip, other)))
    assert [Path(m.clip.file).name for m in found[:2]] == ["a.wav", "b.wav"]


@pytest.mark.parametrize("kind", ["frames", "clips"])
def test_the_page_is_whole_and_escaped(kind: str, request: pytest.FixtureRequest) -> None:
    report: TrainingReport = request.getfixturevalue(kind)
    text = report_page(report)
    elements = Elements(text).found
    assert "b" not in {tag for tag, attributes in elements if not attributes}
    assert [tag for tag, _ in elements].count("script") == 1
    assert text.count("</script>") == 1
    for _, attributes in elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    policy = next(a["content"] or "" for tag, a in elements if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert [tag for tag, _ in elements].count("audio") == len(find_mistakes(report)) == 2
    words = re.sub("<[^>]*>", " ", text)
    for word in ("0.810", "record 20 more", "epoch", "recall", "5 folds", "0.900 ± 0.050"):
        assert word in words


def test_a_notebook_gets_the_page_in_a_frame(frames: TrainingReport) -> None:
    [(tag, attributes)] = Elements(frames._repr_html_()).found
    assert (tag, attributes["srcdoc"]) == ("iframe", report_page(frames))


def test_a_report_with_little_in_it_is_a_page(frames: TrainingReport) -> None:
    bare = replace(frames, held_out=(), epochs=(), curve=(), confusion=np.zeros((0, 0), np.int64), verdict=())
    text = report_page(replace(bare, label_figures={}))
    assert "mistakes" not in re.sub("<s(cript|tyle)>.*?</s(cript|tyle)>", "", text, flags=re.DOTALL)
    right = replace(frames.held_out[0], spans=(("owl", 0.0, 1.0), (HOSTILE, 2.0, 4.0)))
    assert "There are none." in report_page(replace(frames, held_out=(right,)))


def test_a_recording_that_is_gone_has_no_player(frames: TrainingReport) -> None:
    gone = replace(frames.held_out[0], file="/nowhere/a.wav")
    text = report_page(replace(frames, held_out=(gone,)))
    assert "The sound cannot be read." in text
    assert "<audio" not in text


def test_a_snippet_is_the_part_that_was_asked_for(tmp_path: Path) -> None:
    import soundfile

    whole = make_tone(40.0, 200.0, 8000)
    soundfile.write(tmp_path / "a.flac", whole, 8000)
    found = read_snippet(str(tmp_path / "a.flac"), 31.5, 33.0)
    assert found is not None
    samples, rate = found
    assert (rate, len(samples)) == (8000, 12000)
    np.testing.assert_allclose(samples, whole[31 * 8000 + 4000 : 33 * 8000], atol=2e-4)
    assert read_snippet(str(tmp_path / "a.flac"), 41.0, 42.0) is None


@pytest.mark.parametrize("kind", ["frames", "clips"])
def test_it_opens_and_plays(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = tmp_path / "x.report.html"
    request.getfixturevalue(kind).save_page(path)
    with opened(path) as (page, said):
        assert page.title() == f"birds {HOSTILE}: how good it is"
        play = "async () => { const a = document.querySelector('audio'); await a.play(); return a.duration; }"
        assert page.evaluate(play) == pytest.approx(4.0 if kind == "frames" else 1.5, abs=1.5)
        wait_until(page, "document.querySelector('audio').currentTime > 0.2")
        wait_until(page, "parseFloat(document.querySelector('.head').style.left) > 0")
        assert page.evaluate("document.querySelector('audio').error") is None
        page.locator(".timeline").last.click()
        wait_until(page, "!Array.from(document.querySelectorAll('audio')).at(-1).paused")
        assert page.evaluate("document.querySelector('audio').paused")  # one at a time
        sizes = page.evaluate("Array.from(document.images).map(image => image.naturalWidth)")
        assert sizes
        assert min(sizes) > 10
        assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_its_window(scheme: str, clips: TrainingReport, tmp_path: Path) -> None:
    path = tmp_path / "x.report.html"
    clips.save_page(path)
    for width in (400, 1400):
        with opened(path, width, scheme) as (page, said):
            assert page.evaluate("document.documentElement.scrollWidth") == width
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
            beside = page.evaluate("new Set(Array.from(document.querySelectorAll('.mistake'), e => e.offsetTop)).size")
            assert beside == (2 if width == 400 else 1)
            assert said == []
