"""Each format is read back by a reader that this project did not write."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import webvtt
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid
from pyannote.core import Annotation
from pyannote.core import Segment as Span

from framecls.errors import FrameclsError, PackageError, UsageError
from framecls.inference.windows import frame_times
from framecls.output.files import atomic_write, mirrored_path
from framecls.output.formats import WRITERS, make_writer, tile
from framecls.output.stored import from_record, to_record
from framecls.results import Identification, Segment, TagResult
from framecls.text import about, cell, clock, decimal, length, printable
from support.results import LABELS, make_alignment, make_identification, make_string, make_tag

HOSTILE = [
    "a b.wav",
    "com,ma.wav",
    'quo"te.wav',
    "new\nline.wav",
    "car\rriage.wav",
    "tab\there.wav",
    "ünï 音.wav",
    "\udcff.wav",
]


def render(format: str, *results: TagResult | Identification, totals: bool = False) -> str:
    writer, stream = make_writer(format, totals=totals), io.StringIO(newline="")
    writer.begin(stream)
    for result in results:
        writer.write(result, stream)
    writer.end(stream)
    stream.getvalue().encode("utf-8")  # any format, any file name: strict UTF-8 can hold it
    return stream.getvalue()


def test_jsonl_is_the_contract() -> None:
    assert render("jsonl", make_tag("a.wav"), make_identification()).splitlines() == [
        '{"file": "a.wav", "model": "sound", "duration": 12.345678, "hop": 0.02, '
        '"labels": ["speech", "music", "noise"], '
        '"segments": [{"start": 0.0, "end": 1.26, "label": "speech", "score": 0.9877}, '
        '{"start": 0.9, "end": 12.345678, "label": "music", "score": 0.5}, '
        '{"start": 3.0, "end": 4.5, "label": "speech", "score": 0.75}]}',
        '{"file": "b.wav", "model": "language", "duration": 12.34, "label": "de", "score": 0.9346, '
        '"top": [{"label": "de", "score": 0.9346}, {"label": "nl", "score": 0.04}, {"label": "da", "score": 0.01}]}',
    ]


def test_json_rounds_numpy_numbers() -> None:
    segment = Segment(np.float64(0.1) * 3, np.float64(2) / 3, "speech", float(np.float32(0.12345678)))
    result = TagResult(
        "a", "m", 1.0, 0.02, ("speech",), (segment,), frame_times(50, 0.02), np.zeros((50, 1), np.float32)
    )
    assert '"start": 0.3, "end": 0.666667, "label": "speech", "score": 0.1235' in render("jsonl", result)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_json_is_one_array(n: int) -> None:
    array = json.loads(render("json", *[make_tag(f"{i}.wav") for i in range(n)]))
    assert [record["file"] for record in array] == [f"{i}.wav" for i in range(n)]


@pytest.mark.parametrize("name", [*HOSTILE, "\u2028\x85\x1b[31m.wav"])
def test_jsonl_keeps_every_file_name_on_one_line(name: str) -> None:
    text = render("jsonl", make_tag(name))
    assert len(text.splitlines()) == 1
    assert json.loads(text)["file"] == name


def test_json_stays_readable() -> None:
    assert "ünï 音.wav" in render("json", make_tag("ünï 音.wav"))


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_of_tag(format: str, delimiter: str) -> None:
    text = render(format, *map(make_tag, HOSTILE))
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    assert list(rows[0]) == ["file", "start", "end", "label", "score"]
    assert [row["file"] for row in rows[::3]] == [*HOSTILE[:-1], "\\udcff.wav"]
    assert list(rows[1].values())[1:] == ["0.9", "12.345678", "music", "0.5"]
    assert "\r\n" not in text


@pytest.mark.parametrize(("format", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_csv_of_identify(format: str, delimiter: str) -> None:
    text = render(format, make_identification(), make_identification("c.wav", "unknown"))
    first, second = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    assert list(first.items()) == [
        ("file", "b.wav"),
        ("duration", "12.34"),
        ("label", "de"),
        ("score", "0.9346"),
        ("label_1", "de"),
        ("score_1", "0.9346"),
        ("label_2", "nl"),
        ("score_2", "0.04"),
        ("label_3", "da"),
        ("score_3", "0.01"),
        ("reason", ""),
    ]
    assert (second["file"], second["label"], second["label_1"]) == ("c.wav", "unknown", "de")
    assert (second["score"], second["reason"]) == ("", "unsure")


def test_unknown_has_a_reason_in_place_of_a_score(tmp_path: Path) -> None:
    unknown = make_identification("c.wav", "unknown")
    [record] = json.loads(render("json", unknown))
    assert (record["label"], record["score"], record["reason"]) == ("unknown", None, "unsure")
    assert record["top"][0] == {"label": "de", "score": 0.9346}
    assert json.loads(render("jsonl", unknown)) == record
    assert render("rttm", unknown) == "SPEAKER c 1 0 12.34 <NA> <NA> unknown <NA> <NA>\n"
    assert from_record(to_record(unknown, frames=False, outline=False)) == unknown


def read_textgrid(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "a.TextGrid"
    path.write_text(text, encoding="utf-8")
    return textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="error")


def assert_tiles(tier: Any, duration_s: float) -> None:
    entries = tier.entries
    assert entries[0].start == 0
    assert entries[-1].end == duration_s
    assert all(a.end == b.start for a, b in pairwise(entries))


def test_textgrid_gives_overlapping_labels_a_tier_each(tmp_path: Path) -> None:
    grid = read_textgrid(tmp_path, render("textgrid", make_tag()))
    assert grid.tierNames == LABELS
    for name in LABELS:
        assert_tiles(grid.getTier(name), 12.345678)
    said = [tuple(e) for e in grid.getTier("speech").entries if e.label]
    assert said == [(0.0, 1.26, "speech"), (3.0, 4.5, "speech")]
    assert [e.label for e in grid.getTier("noise").entries] == [""]


def test_textgrid_of_one_label_at_a_time_is_one_tier(tmp_path: Path) -> None:
    grid = read_textgrid(tmp_path, render("textgrid", make_tag(overlapping=False)))
    assert grid.tierNames == ("sound",)
    assert_tiles(grid.getTier("sound"), 12.345678)
    assert [e.label for e in grid.getTier("sound").entries] == ["speech", "noise", "speech"]


@pytest.mark.parametrize("overlapping", [True, False])
def test_textgrid_without_segments(tmp_path: Path, overlapping: bool) -> None:
    grid = read_textgrid(tmp_path, render("textgrid", make_tag(overlapping=overlapping, empty=True)))
    for name in grid.tierNames:
        assert [tuple(e) for e in grid.getTier(name).entries] == [(0.0, 12.345678, "")]


def test_textgrid_keeps_quotes(tmp_path: Path) -> None:
    label = 'say "ah"'
    result = TagResult(
        "a", "m", 1.0, 0.5, (label,), (Segment(0, 0.5, label, 1.0),), np.zeros(2), np.zeros((2, 1), np.float32)
    )
    assert f'text = "{label.replace(chr(34), chr(34) * 2)}"' in render("textgrid", result)
    assert read_textgrid(tmp_path, render("textgrid", result)).getTier("m").entries[0].label.replace('""', '"') == label


@given(st.lists(st.floats(0, 20), max_size=12), st.floats(0.001, 20))
def test_tiles_are_whole(cuts: list[float], duration_s: float) -> None:
    edges = sorted(cuts)
    segments = [Segment(a, b, "x", 1.0) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    intervals = tile(segments, duration_s)
    assert intervals[0][0] == 0
    assert intervals[-1][1] == round(duration_s, 6)
    assert all(a[1] == b[0] for a, b in pairwise(intervals))
    assert all(start < end for start, end, _ in intervals)


def read_rttm(text: str) -> dict[str, Annotation]:
    """Read as the standard says: ten fields between white space."""
    files: dict[str, Annotation] = {}
    for line in text.splitlines():
        kind, file, channel, start, duration, ortho, subtype, name, score, lookahead = line.split()
        assert (kind, channel, ortho, subtype, lookahead) == ("SPEAKER", "1", "<NA>", "<NA>", "<NA>")
        assert 0 <= float(score) <= 1
        annotation = files.setdefault(file, Annotation(uri=file))
        annotation[Span(float(start), float(start) + float(duration)), len(annotation)] = name
    return files


def test_rttm() -> None:
    files = read_rttm(render("rttm", make_tag("x/talk.one.wav")))
    assert list(files) == ["talk.one"]
    annotation = files["talk.one"]
    assert annotation.label_duration("speech") == pytest.approx(1.26 + 1.5)
    assert annotation.label_duration("music") == pytest.approx(12.345678 - 0.9)
    assert annotation.get_timeline().extent().end == pytest.approx(12.345678)


def test_rttm_never_mixes_two_files() -> None:
    names = ["x/a b.wav", "y/a b.wav", "y/a_b.wav", "y/a\tb.wav", "y/a b.mp3", *HOSTILE]
    files = read_rttm(render("rttm", *map(make_tag, names)))
    assert len(files) == len(names)
    assert list(files)[:2] == ["a_b", "y/a_b.wav"]


def test_rttm_labels_are_one_word() -> None:
    assert read_rttm(render("rttm", make_identification(label="Ada  Lovelace")))["b"].labels() == ["Ada_Lovelace"]


def test_audacity() -> None:
    rows = [line.split("\t") for line in render("audacity", make_tag()).splitlines()]
    assert rows == [["0", "1.26", "speech"], ["0.9", "12.345678", "music"], ["3", "4.5", "speech"]]


def test_raven() -> None:
    from framecls.training.data.labels.labelfiles import parse_raven

    text = render("raven", make_tag())
    assert text.splitlines()[0].startswith("Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\t")
    spans = [(0.0, 1.26, "speech"), (0.9, 12.345678, "music"), (3.0, 4.5, "speech")]
    assert [row[:3] for row in parse_raven(text)] == spans
    for band_hz, written in ((None, (0, 22050)), ((50.0, 8000.0), (50, 8000)), ((0.0, 24000.0), (0, 22050))):
        rows = parse_raven(render("raven", replace(make_tag(), band_hz=band_hz)))
        assert {row[3:] for row in rows} == {written}


def test_small_times_have_no_exponent() -> None:
    segment = Segment(0.00001, 0.00003, "a\tb\nc", 1.0)
    result = TagResult("a", "m", 1.0, 0.5, ("a",), (segment,), np.zeros(2), np.zeros((2, 1), np.float32))
    assert render("audacity", result) == "0.00001\t0.00003\ta b c\n"


def test_vtt() -> None:
    captions = webvtt.from_string(render("vtt", make_tag())).captions
    assert [(c.start, c.end, c.text) for c in captions] == [
        ("00:00:00.000", "00:00:01.260", "speech"),
        ("00:00:00.900", "00:00:12.346", "music"),
        ("00:00:03.000", "00:00:04.500", "speech"),
    ]


def test_vtt_beyond_the_hour_and_escaped() -> None:
    segments = (Segment(3723.0001, 3723.0002, "a --> <b> & c", 1.0),)
    result = TagResult("a", "m", 4000.0, 0.5, ("a",), segments, np.zeros(2), np.zeros((2, 1), np.float32))
    text = render("vtt", result)
    assert text == "WEBVTT\n\n01:02:03.000 --> 01:02:03.001\na --&gt; &lt;b&gt; &amp; c\n"
    assert len(webvtt.from_string(text).captions) == 1


def test_srt() -> None:
    captions = webvtt.from_buffer(io.StringIO(render("srt", make_tag())), format="srt").captions
    assert [(c.start, c.end, c.text) for c in captions] == [
        ("00:00:00.000", "00:00:01.260", "speech"),
        ("00:00:00.900", "00:00:12.346", "music"),
        ("00:00:03.000", "00:00:04.500", "speech"),
    ]
    assert render("srt", make_tag()).startswith("1\n00:00:00,000 --> 00:00:01,260\nspeech\n\n2\n")
    assert render("srt", make_tag(empty=True)) == ""


@pytest.mark.parametrize("name", [*HOSTILE, "-"])
def test_elan(name: str) -> None:
    """Read as ELAN's schema says: annotations that refer to time slots in milliseconds."""
    text = render("elan", make_tag(name))
    assert text == render("elan", make_tag(name))
    root = ElementTree.fromstring(text.encode())
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")}
    tiers = {
        tier.get("TIER_ID"): [
            (slots[a.get("TIME_SLOT_REF1")], slots[a.get("TIME_SLOT_REF2")], a.findtext("ANNOTATION_VALUE"))
            for a in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        for tier in root.iter("TIER")
    }
    speech = [(0, 1260, "speech"), (3000, 4500, "speech")]
    assert tiers == {"speech": speech, "music": [(900, 12346, "music")], "noise": []}
    media = [unquote(m.get("MEDIA_URL", ""), errors="surrogateescape") for m in root.iter("MEDIA_DESCRIPTOR")]
    assert media == ([] if name == "-" else [f"file://{Path(name).absolute()}"])


def test_elan_without_pympi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pympi", None)
    with pytest.raises(PackageError, match=r"^elan needs pympi, not installed: pip install pympi-ling$"):
        make_writer("elan")


def test_an_alignment_is_words_and_phones(tmp_path: Path) -> None:
    result = make_alignment()
    grid = read_textgrid(tmp_path, render("textgrid", result))
    assert grid.tierNames == ("words", "phones")
    assert [e.label for e in grid.getTier("words").entries] == ["", "Hi", "", "you", ""]
    assert [e.label for e in grid.getTier("phones").entries] == ["", "hh", "ay", "", "y", "uw", ""]
    for name in grid.tierNames:
        assert_tiles(grid.getTier(name), 2.0)
    [record] = json.loads(render("json", result))
    assert record["words"][1] == {"start": 1.0, "end": 1.3, "label": "you", "score": 0.8}
    assert [s["label"] for s in record["segments"]] == ["hh", "ay", "y", "uw"]
    rows = list(csv.DictReader(io.StringIO(render("csv", result))))
    assert [(row["tier"], row["label"]) for row in rows] == [
        ("words", "Hi"), ("words", "you"), ("phones", "hh"), ("phones", "ay"), ("phones", "y"), ("phones", "uw"),
    ]  # fmt: skip
    for format in ("rttm", "audacity", "vtt", "srt"):
        assert re.findall("Hi|you|hh|uw", render(format, result)) == ["Hi", "you"]
    assert set(re.findall('TIER_ID="(.*?)"', render("elan", result))) == {"words", "phones"}
    table = [line.split() for line in render("table", result).splitlines()[1:]]
    assert table == [
        ["Start", "End", "Word", "Score", "Phones"],
        ["0:00.50", "0:00.70", "Hi", "0.90", "hh", "ay"],
        ["0:01.00", "0:01.30", "you", "0.80", "y", "uw"],
    ]
    for format in ("json", "textgrid"):
        assert render(format, from_record(to_record(result, frames=False, outline=False))) == render(format, result)
    with pytest.raises(ValueError, match="impossible"):
        from_record(to_record(replace(result, words=result.words[::-1]), frames=False, outline=False))


def test_totals() -> None:
    results = [make_tag("=a.wav"), make_tag("b.wav", empty=True)]
    wanted = {"speech": (2.76, 0.2236), "music": (11.445678, 0.9271), "noise": (0, 0)}
    [record, other] = json.loads(render("json", *results, totals=True))
    assert record["totals"] == {label: {"seconds": s, "share": share} for label, (s, share) in wanted.items()}
    assert set(other["totals"]) == set(wanted)
    rows = list(csv.DictReader(io.StringIO(render("csv", *results, totals=True))))
    assert list(rows[0]) == ["file", "label", "seconds", "share"]
    assert [row["file"] for row in rows] == ["'=a.wav"] * 3 + ["b.wav"] * 3
    assert {row["label"]: (float(row["seconds"]), float(row["share"])) for row in rows[:3]} == wanted
    table = render("table", *results, totals=True)
    assert re.findall(r"(?:speech|music|noise) +\S+ s +[\d.]+%", table) == [
        "music   11.45 s  92.7%", "speech   2.76 s  22.4%", "music   11.45 s  46.4%", "speech   2.76 s  11.2%",
    ]  # fmt: skip
    assert "2 recordings" in table
    assert render("table", *results).count("%") == 0
    assert "totals" not in json.loads(render("jsonl", make_tag()))


def test_what_no_label_holds_in_is_a_row_and_no_annotation() -> None:
    result = replace(
        make_tag(overlapping=False), segments=(Segment(0.0, 2.0, "speech", 0.9), Segment(2.0, 9.0, "none", 0.0))
    )
    rows = list(csv.DictReader(io.StringIO(render("csv", result))))
    assert [(row["label"], row["score"]) for row in rows] == [("speech", "0.9"), ("none", "0")]
    assert json.loads(render("jsonl", result))["segments"][1]["label"] == "none"
    for format in ("rttm", "audacity", "vtt", "srt", "elan", "textgrid"):
        assert "none" not in render(format, result)
    assert from_record(to_record(result, frames=False, outline=False)).segments == result.segments
    own = replace(result, labels=("speech", "none"))  # a label of the model's own
    assert "none" in render("rttm", own)


def test_vtt_without_segments() -> None:
    assert render("vtt", make_tag(empty=True)) == "WEBVTT\n"


@pytest.mark.parametrize("format", ["textgrid", "rttm", "audacity", "vtt"])
def test_an_identification_is_one_whole_segment(format: str, tmp_path: Path) -> None:
    text = render(format, make_identification())
    if format == "textgrid":
        assert [tuple(e) for e in read_textgrid(tmp_path, text).getTier("language").entries] == [(0, 12.34, "de")]
    elif format == "rttm":
        assert [(s.start, s.end) for s in read_rttm(text)["b"].itersegments()] == [(0, 12.34)]
    elif format == "audacity":
        assert text == "0\t12.34\tde\n"
    else:
        assert [(c.end, c.text) for c in webvtt.from_string(text).captions] == [("00:00:12.340", "de")]


def test_npz(tmp_path: Path) -> None:
    result, path = make_tag(), tmp_path / "a.npz"
    with atomic_write(path, binary=True) as stream:
        writer = make_writer("npz")
        writer.begin(stream)
        writer.write(result, stream)
        writer.end(stream)
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["labels", "scores", "times"]
        np.testing.assert_array_equal(arrays["times"], result.times)
        np.testing.assert_array_equal(arrays["scores"], result.scores)
        assert arrays["scores"].dtype == np.float32
        assert arrays["labels"].tolist() == list(LABELS)


def test_npz_has_no_place_for_an_identification() -> None:
    with pytest.raises(UsageError, match="choose another"):
        make_writer("npz").write(make_identification(), io.BytesIO())


@pytest.mark.parametrize("kind", ["tag", "identify", "nothing"])
def test_parquet(kind: str, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an optional extra")
    results: dict[str, list[TagResult | Identification]] = {
        "tag": [make_tag(n) for n in HOSTILE],
        "identify": [make_identification(n) for n in HOSTILE],
        "nothing": [],
    }
    path = tmp_path / "a.parquet"
    with atomic_write(path, binary=True) as stream:
        writer = make_writer("parquet")
        writer.begin(stream)
        for result in results[kind]:
            writer.write(result, stream)
        writer.end(stream)
    rows = parquet.read_table(path).to_pylist()
    if kind == "tag":
        assert list(rows[0]) == ["file", "model", "start", "end", "label", "score"]
        assert [row["file"] for row in rows[::3]] == [*HOSTILE[:-1], "\\udcff.wav"]
        assert rows[0]["score"] == 0.9877
    elif kind == "identify":
        assert list(rows[0]) == ["file", "model", "duration", "label", "score", "top", "reason"]
        assert rows[0]["top"][1] == {"label": "nl", "score": 0.04}
    else:
        assert rows == []


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PackageError, match=r"^parquet needs pyarrow, not installed: pip install pyarrow$"):
        make_writer("parquet")


def test_what_the_formats_say_of_themselves() -> None:
    assert {name for name, writer in WRITERS.items() if writer.binary} == {"npz", "parquet", "png"}
    assert {name for name, writer in WRITERS.items() if not writer.joins} == {
        "textgrid", "audacity", "raven", "vtt", "srt", "elan", "npz",
    }  # fmt: skip
    streamed = [name for name, writer in WRITERS.items() if writer.streams]
    assert streamed == ["jsonl", "csv", "tsv", "rttm", "audacity", "raven"]
    assert [name for name, writer in WRITERS.items() if writer.for_people] == ["table", "svg", "png"]
    assert [name for name, writer in WRITERS.items() if writer.takes_frames] == [
        "table", "json", "jsonl", "csv", "tsv", "npz",
    ]  # fmt: skip
    assert [name for name, writer in WRITERS.items() if writer.takes_totals] == [
        "table", "json", "jsonl", "csv", "tsv",
    ]  # fmt: skip
    assert all(writer.suffix.startswith(".") for writer in WRITERS.values())
    assert WRITERS["textgrid"].suffix == ".TextGrid"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("format", [name for name, writer in WRITERS.items() if not writer.binary])
def test_no_file_name_breaks_a_format(format: str, name: str) -> None:
    make = make_tag if TagResult in WRITERS[format].accepts else make_string
    text = render(format, make(name), make("other.wav")) if WRITERS[format].joins else render(format, make(name))
    assert text.endswith("\n")


def test_text_has_a_line_a_recording() -> None:
    assert (
        render("text", make_string("a b.wav"), make_string("new\nline.wav"))
        == "a b.wav\th ə l oʊ\nnew line.wav\th ə l oʊ\n"
    )
    with pytest.raises(UsageError, match="add --string"):
        render("text", make_tag())


def test_a_string_is_a_tagged_recording_that_can_be_read_out() -> None:
    record = json.loads(render("jsonl", make_string()))
    assert record["string"] == "h ə l oʊ"
    assert [s["label"] for s in record["segments"]] == ["h", "ə", "l", "oʊ"]
    assert "string" not in json.loads(render("jsonl", make_tag()))


@pytest.mark.parametrize(
    ("relative", "expected"),
    [
        ("a/b.wav", "a/b.wav.TextGrid"),
        ("a/../b.wav", "b.wav.TextGrid"),
        ("../b.wav", "_/b.wav.TextGrid"),
        ("../../x/../b.wav", "_/_/b.wav.TextGrid"),
        ("/etc/b.wav", "etc/b.wav.TextGrid"),
        ("//b.wav", "b.wav.TextGrid"),
        (".", "audio.TextGrid"),
        ("..", "_.TextGrid"),
    ],
)
def test_mirrored_path_stays_in_the_folder(relative: str, expected: str) -> None:
    assert mirrored_path(Path("OUT"), Path(relative), ".TextGrid") == Path("OUT") / expected


def test_mirrored_path_tells_suffixes_apart() -> None:
    assert mirrored_path(Path("o"), Path("a.wav"), ".json") != mirrored_path(Path("o"), Path("a.mp3"), ".json")


def test_atomic_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x" / "y.txt"
    for text in ("one\n", "zwei ü\n"):
        with atomic_write(path, binary=False) as stream:
            stream.write(text)
        assert path.read_bytes() == text.encode("utf-8")
    assert os.listdir(path.parent) == ["y.txt"]


def test_atomic_write_follows_the_umask_and_keeps_modes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    before = os.umask(0o027)
    try:
        with atomic_write(path, binary=True) as stream:
            stream.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    with atomic_write(path, binary=True) as stream:
        stream.write(b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_write_leaves_nothing_behind(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path, binary=False) as stream:  # noqa: PT012
        stream.write("new")
        raise error
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_atomic_write_says_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FrameclsError, match="it is a folder"), atomic_write(tmp_path, binary=False):
        pass
    with pytest.raises(FrameclsError, match="cannot write"), atomic_write(tmp_path / "file" / "b", binary=False):
        pass
    with pytest.raises(FrameclsError, match="too long"), atomic_write(tmp_path / ("n" * 300), binary=False):
        pass
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_atomic_write_reports_a_full_disk_and_spares_devices() -> None:
    with pytest.raises(FrameclsError) as caught, atomic_write(Path("/dev/full"), binary=False) as stream:
        stream.write("x")
    assert str(caught.value) == "cannot write /dev/full: No space left on device"
    assert Path("/dev/full").is_char_device()


def test_atomic_write_follows_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    with atomic_write(tmp_path / "link", binary=False) as stream:
        stream.write("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "x"


@pytest.mark.parametrize(
    ("time_s", "expected"),
    [(0, "0:00.00"), (6.28, "0:06.28"), (59.999, "1:00.00"), (3599.999, "1:00:00.00"), (3723.456, "1:02:03.46")],
)
def test_clock(time_s: float, expected: str) -> None:
    assert clock(time_s) == expected


def test_length_and_decimal() -> None:
    assert [length(6.284), length(59.996), length(75.2)] == ["6.28 s", "1:00.00", "1:15.20"]
    assert [decimal(1.0, 6), decimal(0.1 + 0.2, 6), decimal(1e-6, 6), decimal(-1e-9, 6)] == [
        "1",
        "0.3",
        "0.000001",
        "0",
    ]


def test_printable_disarms_names() -> None:
    assert printable("a\x1b[31m\n\udcff\u202e.wav", "utf-8") == r"a\x1b[31m\n\xff\u202e.wav"
    assert printable("音ü", "ascii") == r"\u97f3\xfc"


@pytest.mark.parametrize("format", ["csv", "tsv", "textgrid", "rttm", "audacity", "vtt", "text"])
def test_no_format_of_text_steers_a_terminal(format: str, tmp_path: Path) -> None:
    evil = "a\x1b]0;owned\x07\x9b31m\x7f b.wav"
    shown = r"a\x1b]0;owned\x07\x9b31m\x7f b.wav"
    result = replace(make_string(evil) if format == "text" else make_tag(evil, overlapping=False), model=evil)
    segments = tuple(replace(segment, label=evil) for segment in result.segments)
    text = render(format, replace(result, segments=segments, labels=(evil,)))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert (shown.replace(" ", "_") if format == "rttm" else shown) in text
    if format == "textgrid":
        assert read_textgrid(tmp_path, text).getTier(shown).entries[0].label == shown


def test_cells_are_no_formulas() -> None:
    assert [cell(text) for text in ("=1", "+1", "-1", "@a", "\ta", "\ra", "\n=a")] == [
        "'=1", "'+1", "'-1", "'@a", "'\ta", "'\ra", "'\n=a",
    ]  # fmt: skip
    assert [cell(text) for text in ("", "-", "a=1", "'=1", "ü 音")] == ["", "-", "a=1", "'=1", "ü 音"]


@pytest.mark.parametrize(
    ("time_s", "words"),
    [
        (0.1, "5 s"),
        (23, "25 s"),
        (57, "1 min"),
        (90, "2 min"),
        (3500, "58 min"),
        (3590, "1 h"),
        (11400, "3 h 10 min"),
        (7200, "2 h"),
    ],
)
def test_an_estimate_says_no_more_than_it_knows(time_s: float, words: str) -> None:
    assert about(time_s) == words
