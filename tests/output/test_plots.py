"""Figures and notebooks: what is drawn, of which recordings, and how wide."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framecls.errors import PackageError, UsageError
from framecls.output.formats import WRITERS, make_writer
from framecls.output.images import mel_levels, png
from framecls.results import Candidate, Identification, Segment, TagResult, TieredResult
from support.commands import Cli
from support.results import make_identification, make_string, make_tag
from support.signals import make_tone, write_wav

pytest.importorskip("matplotlib")


def draw(format: str, *results: Any) -> bytes:
    writer, stream = make_writer(format), io.BytesIO()
    writer.begin(stream)
    for result in results:
        writer.write(result, stream)
    writer.end(stream)
    return stream.getvalue()


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height in the header of a PNG file."""
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def words_of(svg: bytes) -> str:
    return " ".join(ET.fromstring(svg).itertext())


def long_result(n_segments: int, overlapping: bool = True) -> TagResult:
    """Return ten hours with so many segments."""
    labels = ("speech", "music", "noise")
    starts = np.linspace(0, 36000, n_segments, endpoint=False)
    segments = tuple(Segment(start, start + 1, labels[i % 3], 0.9) for i, start in enumerate(starts.tolist()))
    times = np.arange(1_800_000) * 0.02
    scores = np.zeros((1_800_000, 3), np.float32)
    return TagResult("day.wav", "sound", 36000.0, 0.02, labels, segments, times, scores, overlapping)


def test_a_figure_is_as_wide_as_a_page_however_long_the_recording() -> None:
    short, long = draw("png", make_tag()), draw("png", long_result(2000))
    assert size_of(short) == size_of(long)
    assert size_of(short)[0] == 1500
    assert len(long) < 200_000


@pytest.mark.parametrize("make", [make_tag, make_string, make_identification])
def test_svg_has_the_words(make: Any) -> None:
    svg = draw("svg", make("a <b> & $x$.wav"))
    words = words_of(svg)
    assert "a <b> & $x$.wav" in words
    assert b"url(http" not in svg
    names = {"make_tag": ("speech", "music", "noise", "sound"), "make_string": ("h", "oʊ")}
    assert all(word in words for word in names.get(make.__name__, ("de", "nl", "0.93")))
    assert draw("svg", make("a <b> & $x$.wav")) == svg  # no date, no random names


def test_the_sound_is_drawn_where_it_can_be_read(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", 12.3)
    with_sound, without = draw("svg", make_tag(str(path))), draw("svg", make_tag("missing.wav"))
    assert b"<image" in with_sound
    assert b"<image" not in without
    (tmp_path / "b.wav").write_bytes(b"RIFF no wav")
    assert b"<image" not in draw("svg", make_tag(str(tmp_path / "b.wav")))


def test_a_long_recording_is_drawn_as_its_waveform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecls.output.plots._SPECTROGRAM_S", 1.0)
    path = write_wav(tmp_path / "a.wav", 12.3)
    svg = draw("svg", make_tag(str(path)))
    assert b"<image" not in svg
    assert size_of(draw("png", make_tag(str(path))))[1] > size_of(draw("png", make_tag("missing.wav")))[1]


def test_several_recordings_stand_below_each_other() -> None:
    one, two = draw("png", make_tag("a.wav")), draw("png", make_tag("a.wav"), make_tag("b.wav"))
    assert size_of(two)[1] > 1.8 * size_of(one)[1]
    words = words_of(draw("svg", make_tag("a.wav"), make_tag("b.wav")))
    assert all(name in words for name in ("a.wav", "b.wav"))
    with pytest.raises(UsageError, match="room for 100 recordings: name a folder"):
        draw("svg", *[make_tag()] * 101)


def test_many_labels_share_a_track_or_the_busiest_have_one() -> None:
    labels = tuple(f"l{n}" for n in range(40))
    segments = tuple(Segment(float(n), n + 1.0 + n / 100, f"l{n}", 0.9) for n in range(40))
    empty = np.zeros(0), np.zeros((0, 40), np.float32)
    tiled = TagResult("a.wav", "m", 41.0, 0.02, labels, segments, *empty)
    overlapping = TagResult("a.wav", "m", 41.0, 0.02, labels, segments, *empty, overlapping=True)
    assert size_of(draw("png", tiled))[1] < size_of(draw("png", overlapping))[1]
    words = words_of(draw("svg", overlapping)).split()
    assert {"l39", "l28"} <= set(words)
    assert "l27" not in words


@pytest.mark.parametrize("format", ["svg", "png"])
def test_command(format: str, tag: Cli, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", 3.0)
    answer = tag(path, "-o", tmp_path / f"a.{format}")
    assert (answer.status, answer.out) == (0, "")
    assert (tmp_path / f"a.{format}").stat().st_size > 1000
    if format == "svg":
        assert "speech" in words_of(tag(path, "-f", "svg").out.encode())
    (tmp_path / "figures").mkdir()
    assert tag(path, "-f", format, "-o", tmp_path / "figures").status == 0
    assert list((tmp_path / "figures").rglob(f"*.{format}"))


@pytest.mark.parametrize("format", ["svg", "png"])
def test_without_matplotlib(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framecls.packages.is_installed", lambda module: False)
    with pytest.raises(PackageError, match=f"^-f {format} needs matplotlib, not installed: pip install matplotlib$"):
        WRITERS[format]()


def test_plot() -> None:
    samples = make_tone(2.0, 440.0, 16000)
    figure = make_tag("array").plot(samples, 16000)
    assert len(figure.axes) == 2
    assert len(make_tag("array").plot().axes) == 1
    assert size_of(figure._repr_png_())[0] == 1500
    assert make_identification().plot()._repr_png_()


def test_short_names() -> None:
    assert repr(make_tag()) == "<TagResult 'dir/a.wav': 3 segments in 12.3 s, sound>"
    assert repr(make_string()) == "<StringResult 'dir/a.wav': 4 segments in 2.0 s, phones>"
    assert repr(make_identification()) == "<Identification 'b.wav': 'de' 0.935, language>"
    assert repr(make_identification(label="unknown")) == "<Identification 'b.wav': 'unknown' unsure, language>"


def test_dataframes() -> None:
    pytest.importorskip("pandas")
    table = make_tag().to_dataframe()
    assert list(table.columns) == ["start", "end", "label", "score"]
    assert table.label.tolist() == ["speech", "music", "speech"]
    frames = make_tag().to_dataframe(frames=True)
    assert frames.shape == (618, 3)
    assert (frames.index.name, list(frames.columns)) == ("time", ["speech", "music", "noise"])
    assert make_tag().to_dataframe().iloc[0].end == 1.26
    assert make_identification().to_dataframe().score.tolist() == [0.93456, 0.04, 0.01]
    assert make_tag(empty=True).to_dataframe().empty


def test_several_models_are_shown_below_each_other() -> None:
    both = TieredResult("array", 12.3, (make_tag("array"), make_string("array")))
    assert repr(both) == "<TieredResult 'array': sound, phones in 12.3 s>"
    assert len(both.plot(make_tone(2.0, 440.0, 16000), 16000).axes) == 3
    assert both._repr_html_() == make_tag("array")._repr_html_() + make_string("array")._repr_html_()
    pytest.importorskip("pandas")
    table = both.to_dataframe()
    assert table.model.tolist() == ["sound"] * 3 + ["phones"] * 4
    assert table.index.tolist() == list(range(7))


def test_notebooks_get_html_that_is_escaped() -> None:
    segments = tuple(Segment(n / 10, n / 10 + 0.05, "<b>", 0.5) for n in range(3000))
    result = TagResult("<i>.wav", "m", 300.0, 0.02, ("<b>",), segments, np.zeros(0), np.zeros((0, 1), np.float32))
    html = result._repr_html_()
    assert not re.search("<[bi]>[^0-9&<]*wav|<b></td>", html)
    assert "&lt;b&gt;" in html
    assert "&lt;i&gt;.wav" in html
    assert html.count("<tr>") == 21
    assert "2,980 more" in html
    assert html.count("<span") == 1000
    answer = Identification("a.wav", "m", 1.0, "<x>", 0.5, (Candidate("<x>", 0.5),))._repr_html_()
    assert "&lt;x&gt;" in answer
    assert "<x>" not in answer


def test_a_heat_map_is_what_other_programs_read_and_colour() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    levels = np.random.default_rng(0).random((50, 70))
    read = pyplot.imread(io.BytesIO(png(levels)), format="png")[..., :3]
    assert np.abs(read - pyplot.get_cmap("magma")(levels[::-1])[..., :3]).max() < 0.1
    ends = pyplot.imread(io.BytesIO(png(np.array([[0.0], [1.0]]))), format="png")[..., :3] * 255
    assert np.rint(ends).tolist() == [[[252, 253, 191]], [[0, 0, 4]]]  # the first row at the bottom


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_tone_is_where_it_should_be(rate: int) -> None:
    import librosa

    levels = mel_levels(make_tone(2.0, 1000.0, rate), rate)
    assert levels.min() >= 0
    assert levels.max() == pytest.approx(1)
    centres = librosa.mel_frequencies(len(levels) + 2, fmax=rate / 2)[1:-1]
    assert centres[levels.mean(axis=1).argmax()] == pytest.approx(1000, rel=0.06)
